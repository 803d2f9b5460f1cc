"""The bundle: one folder (or one zip of it) that a device can run and anyone can check.

manifest.json has two parts. ``content`` is what was made: specs, variants, steps, and the digest of
every model and golden file; equal inputs and seed give equal content, and ``digest`` is its SHA-256.
``measured`` is what was seen on one machine: which variant runs, why, and the report's files.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from edgepv.base.engines import ENGINES
from edgepv.base.files import check_part, digest, parse_json, sha256, write_json
from edgepv.errors import AbsentError, UsageError, unknown
from edgepv.model.spec import check_spec, check_stream
from edgepv.types import DeviceFacts, ModelSpec, Proof, Rung, StepRecord, StreamSpec, Variant, decode, encode

SCHEMA = 1  # goes up when an older edgepv could not read what a newer one writes
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
GOLDEN = "golden.safetensors"
NULL = "null"
MOST_MANIFEST = 4 << 20  # bytes; the largest of ours has 0.2 MiB
MOST_VARIANTS = 64  # of a bundle, and rungs of its ladder; several times what all engines and precisions give
LINE_ENDS = (
    "Git does that where core.autocrlf is on: put the line '* -text' into .gitattributes beside the bundle, "
    "and check it out again"
)


@dataclass(frozen=True)
class Content:
    """What was made; the part of the manifest that the bundle digest covers.

    postprocessing: how logits become an answer. files: path in the bundle -> SHA-256.
    """

    name: str
    target: str
    spec: ModelSpec
    stream: StreamSpec | None
    preprocessing: str
    postprocessing: str
    calibration_digest: str | None
    steps: tuple[StepRecord, ...]
    variants: tuple[Variant, ...]
    golden: dict[str, Any]
    files: dict[str, str]


@dataclass(frozen=True)
class Measured:
    """What was seen on the machine that made the bundle. run: the variant ``edgepv run`` uses.

    ladder: variants that may stand in for each other under a deadline, the largest first; empty: ``run``
    alone. proven: where the variants gave their golden answers; nothing in bundles of before it was noted.
    prefer: what ``run`` was chosen by, "speed", "size" or "memory"; None where it was not noted.
    timed_on: the machine whose times chose ``run``; none where no times did, None where it was not noted.
    """

    run: str
    status: str
    verdict: str
    reasons: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)
    ladder: tuple[Rung, ...] = ()
    proven: dict[str, Proof] = field(default_factory=dict)
    prefer: str | None = None
    timed_on: tuple[DeviceFacts, ...] | None = None


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder on disk and its two manifest parts."""

    folder: Path
    digest: str
    content: Content
    measured: Measured

    def variant(self, name: str | None = None, engine: str | None = None) -> Variant:
        """The variant called ``name``, or the chosen one; with ``engine``, one that engine can run.

        A jetson bundle's Q/DQ file may be replayed on onnxruntime; nothing else changes engines.
        Raises UsageError for a name or an engine the bundle does not have.
        """
        variants = {v.name: v for v in self.content.variants}
        wanted = name or self.measured.run
        if wanted not in variants:
            raise UsageError(f"{self.folder}: {unknown('variant', wanted, variants)}")
        chosen = variants[wanted]
        if engine is None or chosen.engine == engine:
            return chosen
        if name is None:
            for variant in self.content.variants:
                if variant.engine == engine:
                    return variant
        if engine in ENGINES.names() and Path(chosen.path).suffix in ENGINES.find(engine).replays:
            return replace(chosen, engine=engine)
        raise UsageError(f"{self.folder}: {unknown('engine', engine, {v.engine for v in variants.values()})}")

    def checked(self, name: str) -> bytes:
        """The bytes of a file, read once and equal to their digest: what was checked is what is used.

        Raises AbsentError if it is not in the manifest, UsageError if it is missing, no plain file, or was
        changed.
        """
        wanted = {**self.measured.files, **self.content.files}.get(name)
        if wanted is None:
            raise AbsentError(f"{self.folder}: {name} is not in the manifest. Export the bundle again")
        data = read_plain(self.folder, name, MOST_BYTES)
        if hashlib.sha256(data).hexdigest() != wanted:
            raise _differs(self.folder, name, data, wanted)
        return data

    def ladder(self) -> tuple[Variant, ...]:
        """The variants a deadline chooses from, the largest first."""
        return tuple(self.variant(rung.variant) for rung in self.measured.ladder) or (self.variant(),)


def write(folder: Path, content: Content, measured: Measured) -> str:
    """Write the manifest of a finished folder; returns the bundle digest. Files must be there."""
    write_json(
        folder / MANIFEST,
        {
            "schema": SCHEMA,
            "digest": digest(content),
            "content": encode(content),
            "measured": encode(measured),
        },
    )
    return digest(content)


def digests(folder: Path, names: list[str]) -> dict[str, str]:
    """Path -> SHA-256 of the named files, sorted."""
    return {name: sha256(folder / name) for name in sorted(names)}


def read(folder: Path) -> Bundle:
    """Read a bundle folder without checking its files (see ``check``).

    Raises UsageError if it is no bundle, was made by a newer schema, its content was changed, or it names
    variants that it does not hold.
    """
    return parse(folder, manifest_bytes(folder))


def manifest_bytes(folder: Path) -> bytes:
    """The manifest as it lies in a bundle folder. Raises UsageError if the folder is no bundle."""
    if folder.is_file():
        raise UsageError(f"{folder} is a file, not a bundle folder. A zip runs with edgepv run, or unpack it")
    if not folder.is_dir():
        raise UsageError(f"{folder} does not exist. Make a bundle with: edgepv export --out {folder}")
    if not (folder / MANIFEST).is_file():
        raise UsageError(f"{folder} is not a bundle: it has no {MANIFEST}")
    return read_plain(folder, MANIFEST, MOST_MANIFEST)


def read_plain(folder: Path, name: str, most: int) -> bytes:
    """The bytes of a plain file in a bundle. Raises UsageError for a link, a pipe, or more than ``most``."""
    try:
        fd = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise UsageError(f"{folder}: {name} is missing. Copy or export the bundle again") from None
    except OSError as e:
        raise UsageError(f"{folder}: {name} cannot be read ({e.strerror}). Do not use this bundle") from e
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise UsageError(f"{folder}: {name} is a link or no plain file. Do not use this bundle")
    with os.fdopen(fd, "rb") as f:
        data = f.read(most + 1)
    if len(data) > most:
        raise UsageError(
            f"{folder}: {name} is larger than {most} bytes; none of ours is. Do not use this bundle"
        )
    return data


def parse(folder: Path, manifest: bytes) -> Bundle:
    """The bundle that these manifest bytes describe; like ``read`` for bytes already in hand."""
    data = parse_json(manifest, folder / MANIFEST)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        schema = data.get("schema") if isinstance(data, dict) else None
        raise UsageError(
            f"{folder}/{MANIFEST} has schema {schema}; this edgepv reads {SCHEMA}. "
            "Export again, or update edgepv"
        )
    missing = {"digest", "content", "measured"} - set(data)
    if missing:
        raise UsageError(f"{folder}/{MANIFEST} has no '{min(missing)}'. Export again")
    content = decode(Content, data["content"], where=f"{MANIFEST} content")
    if digest(data["content"]) != data["digest"]:  # as it lies there: an older one lacks newer keys
        raise UsageError(f"{folder}/{MANIFEST} was changed after it was written: digests differ")
    measured = decode(Measured, data["measured"], where=f"{MANIFEST} measured")
    check_part(content.name, f"{folder}/{MANIFEST}: content.name")
    for variant in content.variants:
        check_part(variant.name, f"{folder}/{MANIFEST}: a variant's name")
    for name in (*content.files, *measured.files, *(v.path for v in content.variants)):
        check_path(name)
    twice = sorted(set(content.files) & set(measured.files))
    if twice:
        raise UsageError(f"{folder}/{MANIFEST} lists '{twice[0]}' twice. Do not use this bundle")
    for spec, stream in ((content.spec, content.stream), *((v.spec, v.stream) for v in content.variants)):
        check_spec(spec, str(folder / MANIFEST), chunk=stream.chunk if stream else 1)
        check_stream(spec, stream, str(folder / MANIFEST))
    for variant in content.variants:
        _check_tensors(variant, str(folder / MANIFEST))
    unlisted = [v.path for v in content.variants if v.path not in content.files]
    if unlisted:
        raise UsageError(f"{folder}/{MANIFEST}: model '{unlisted[0]}' has no digest in files")
    _check_target(content, f"{folder}/{MANIFEST}")
    _check_names(content, measured, f"{folder}/{MANIFEST}")
    return Bundle(folder, data["digest"], content, measured)


def _check_names(content: Content, measured: Measured, where: str) -> None:
    """Raise UsageError unless there is a variant, each has its own name, and what runs is among them."""
    names = [v.name for v in content.variants]
    if len(names) > MOST_VARIANTS or len(measured.ladder) > MOST_VARIANTS or len(content.files) > MOST_FILES:
        raise UsageError(f"{where}: it holds more variants or files than any bundle. Do not use it")
    if not names:
        raise UsageError(f"{where}: content.variants is empty, so there is nothing to run. Export again")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"{where}: content.variants holds '{twice[0]}' twice. Export again")
    wanted = {"measured.run": measured.run}
    wanted |= {f"measured.ladder[{i}]": rung.variant for i, rung in enumerate(measured.ladder)}
    for field_name, name in wanted.items():
        if name not in names:
            raise UsageError(f"{where}: {field_name}: {unknown('variant', name, names)} Export again")


def _check_target(content: Content, where: str) -> None:
    """Raise UsageError for an engine that makes its answers up in a bundle that is for a real device."""
    made_up = sorted(v.name for v in content.variants if v.engine == NULL)
    if made_up and content.target != NULL:
        raise UsageError(
            f"{where}: {made_up[0]} is for the engine '{NULL}', which answers without a model; the bundle is "
            f"for target {content.target}. Do not use this bundle"
        )


def _check_tensors(variant: Variant, where: str) -> None:
    """Raise UsageError unless a variant says how each tensor that is fed or read is called in its file."""
    states = variant.stream.states if variant.stream else ()
    fed = {variant.spec.input.name, *(s.name for s in states)}
    read = {a.name for a in variant.spec.answers} | {s.output for s in states} - {variant.spec.input.name}
    for what, wanted, names in (("inputs", fed, variant.inputs), ("outputs", read, variant.outputs)):
        missing, spare = sorted(wanted - set(names)), sorted(set(names) - wanted)
        if missing or (spare and what == "inputs"):
            raise UsageError(
                f"{where}: {what} of {variant.name}: {unknown('tensor', [*spare, *missing][0], wanted)} "
                "Export again"
            )


def check(bundle: Bundle) -> int:
    """Compare every file with its digest; returns how many. Raises UsageError naming the first fault."""
    expected = {**bundle.measured.files, **bundle.content.files}
    for path in bundle.folder.rglob("*"):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise UsageError(
                f"{bundle.folder}: {path.name} is a link or no plain file. Do not use this bundle"
            )
    for name, wanted in expected.items():
        path = bundle.folder / name
        if not path.is_file():
            raise UsageError(f"{bundle.folder}: {name} is missing. Copy or export the bundle again")
        if sha256(path) != wanted:
            raise _differs(bundle.folder, name, read_plain(bundle.folder, name, MOST_BYTES), wanted)
    present = {p.relative_to(bundle.folder).as_posix() for p in bundle.folder.rglob("*") if p.is_file()}
    present = {name for name in present if not any(map(is_dropping, name.split("/")))}
    extra = sorted(present - set(expected) - {MANIFEST, SIGNATURE})
    if extra:
        raise UsageError(f"{bundle.folder}: {extra[0]} is not in the manifest. Remove it")
    return len(expected)


def _differs(folder: Path, name: str, data: bytes, wanted: str) -> UsageError:
    """What is to be said of a file that is not what the manifest says."""
    if hashlib.sha256(data.replace(b"\r\n", b"\n")).hexdigest() == wanted:
        return UsageError(f"{folder}: {name} has other line ends than it was made with. {LINE_ENDS}")
    return UsageError(f"{folder}: {name} was changed or is damaged: its SHA-256 differs")


def check_path(name: str) -> None:
    """Raise UsageError for a path that would leave the bundle, or is not written in the one plain way."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise UsageError(f"{MANIFEST}: path '{name}' leaves the bundle. Do not use this bundle")
    for part in name.split("/"):
        check_part(part, f"{MANIFEST}: a part of the path '{name}'")


MOST_BYTES = 2 << 30  # of a file, and of all that a zip holds

MOST_FILES = 4096  # of a bundle; a bound on what a hostile one can make us open


def is_dropping(part: str) -> bool:
    """Whether macOS or Windows leaves a file or folder of that name wherever it was."""
    return part in ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini") or part.startswith("._")
