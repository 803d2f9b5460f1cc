"""Variants: those of a bundle, and model files that were made one by reading what they take."""

from __future__ import annotations

import contextlib
from pathlib import Path

from edgepv.bundle.archive import unpacked
from edgepv.bundle.manifest import check, read
from edgepv.errors import UsageError, unknown
from edgepv.firmware.compiled import compiled_here
from edgepv.firmware.compiler import needed
from edgepv.measure.artifacts.artifact import (
    Artifact,
    Opened,
    engine_facts,
    noise,
    over_calls,
    over_frames,
)
from edgepv.runtimes.engine import expected_inputs, on_this_device, open_engine
from edgepv.types import Variant, decode, encode

NATIVE = "native"
"""The engine whose variants are generated C."""


def artifacts(path: Path, variant: str | None, threads: int, stack: contextlib.ExitStack) -> list[Artifact]:
    """Every variant of a bundle folder or zip, or the one that is named.

    stack: keeps a zip unpacked. Raises UsageError if the bundle is damaged or has no such variant.
    """
    bundle = read(stack.enter_context(unpacked(path)))
    check(bundle)
    names = [v.name for v in bundle.content.variants]
    if variant is not None and variant not in names:
        raise UsageError(f"{path}: {unknown('variant', variant, names)}")
    wanted = [v for v in bundle.content.variants if variant in (None, v.name)]
    return [of_variant(on_this_device(v), bundle.folder, "bundle", threads) for v in wanted]


def of_variant(variant: Variant, folder: Path, kind: str, threads: int, *, steps: bool = True) -> Artifact:
    """A variant whose file lies in a folder. steps: whether it is known how it goes from frame to frame."""
    path = folder / variant.path
    native = variant.engine == NATIVE
    return Artifact(
        name=variant.name,
        kind=kind,
        **engine_facts(variant.engine, threads),
        sha256=variant.sha256,
        opener=f"{__name__}:{'stepped' if steps else 'called'}",
        arguments={"variant": encode(variant), "folder": str(folder)},
        precision=variant.precision if steps else None,
        bytes=path.stat().st_size,
        state_bytes=variant.stream.state_bytes if variant.stream and steps else None,
        rate=float(variant.spec.fps) if steps else None,
        library=f"{__name__}:library" if native else None,
    )


def stepped(variant: dict[str, object], folder: str, threads: int) -> Opened:
    """A variant that takes one frame after the other, with its states."""
    chosen = decode(Variant, variant)
    return over_frames(open_engine(chosen, Path(folder), threads=threads), chosen.spec, chosen.stream)


def called(variant: dict[str, object], folder: str, threads: int) -> Opened:
    """A variant of which only the signature is known."""
    chosen = decode(Variant, variant)
    feeds = {name: noise(shape, dtype) for name, (shape, dtype) in expected_inputs(chosen).items()}
    return over_calls(open_engine(chosen, Path(folder), threads=threads), feeds)


def library(variant: dict[str, object], folder: str) -> Path:
    """The shared object of a variant of the native engine."""
    chosen = decode(Variant, variant)
    return compiled_here(chosen, (Path(folder) / chosen.path).read_bytes(), needed())
