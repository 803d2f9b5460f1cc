"""Which artifacts a user means by a word on the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edgepv.bundle.archive import is_bundle
from edgepv.errors import UsageError
from edgepv.measure.artifacts import bundled, compiled, files, plan, torch_module
from edgepv.measure.artifacts.artifact import Artifact, Asked
from edgepv.zoo import names

KNOWN = (
    "a bundle folder or zip, BUNDLE:VARIANT, .onnx, .tflite, OpenVINO .xml, a firmware folder or its .so, a "
    "TensorRT .engine, file.py:builder, or a built-in model (see: edgepv models)"
)


def found(word: str, asked: Asked, threads: int, stack: contextlib.ExitStack) -> list[Artifact]:
    """The artifacts of one word; several of a bundle.

    stack: keeps what had to be unpacked. Raises UsageError for a word that is none, and what the kinds do.
    """
    path, variant = split(word)
    if path is None:
        return [torch_module.of_name(word, asked, threads)]
    if is_bundle(path):
        return bundled.artifacts(path, variant, threads, stack)
    if path.is_dir():
        if compiled.is_firmware(path):
            return [compiled.of_folder(path, threads)]
        raise UsageError(f"{path} is a folder, and neither a bundle nor a firmware. Give {KNOWN}")
    return [_of_file(path, asked, threads, stack)]


def _of_file(path: Path, asked: Asked, threads: int, stack: contextlib.ExitStack) -> Artifact:
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return files.of_onnx(path, asked, threads, stack)
    if suffix in (".tflite", ".lite"):
        return files.of_tflite(path, asked, threads)
    if suffix == ".xml":
        return files.of_openvino(path, asked, threads)
    if suffix == ".so":
        return compiled.of_object(path, threads)
    if suffix in plan.SUFFIXES:
        return plan.of_plan(path, asked, threads)
    raise UsageError(f"{path} is nothing that bench can measure. Give {KNOWN}")


def split(word: str) -> tuple[Path | None, str | None]:
    """(path, variant of the bundle there); no path for a builder or a built-in model.

    Raises UsageError for what is none of these.
    """
    path = Path(word)
    if path.exists():
        return path, None
    before, colon, after = word.rpartition(":")
    if colon and is_bundle(Path(before)):
        return Path(before), after
    if word in names() or (colon and after.isidentifier() and not path.suffix.endswith(".onnx")):
        return None, None
    raise UsageError(f"{word} is not there. Give {KNOWN}")


def files_of(word: str, sent: Callable[[Path], str]) -> str:
    """The word as it is said on another machine. sent: takes a path, returns what it is called there.

    A built-in model and a builder of a package are called the same everywhere.
    """
    path, variant = split(word)
    if path is None:
        place, _, function = word.rpartition(":")
        return f"{sent(Path(place))}:{function}" if place.endswith(".py") else word
    return sent(path) + (f":{variant}" if variant else "")


def distinct(artifacts: list[Artifact], words: list[str]) -> list[Artifact]:
    """The same artifacts, those that share their name with another called as the user did.

    words: what the user said, one for each. Raises UsageError for the same one twice.
    """
    own = [a.name for a in artifacts]
    named = [
        a if own.count(a.name) == 1 else replace(a, name=_longer(word, a.name))
        for a, word in zip(artifacts, words)
    ]
    told = [a.name for a in named]
    if twice := next((name for name in told if told.count(name) > 1), None):
        raise UsageError(f"{twice} is given twice. Each artifact is measured once")
    return named


def _longer(word: str, name: str) -> str:
    """The name of an artifact that tells it from another of that name: a path, or a bundle and a variant."""
    return word if word.endswith(name) else f"{word}:{name}"
