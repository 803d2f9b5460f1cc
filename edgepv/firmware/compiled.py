"""The native variant of a model: C generated from its ONNX file, compiled here or for other processors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgepv.base import cache
from edgepv.base.files import digest, sha256
from edgepv.base.vet import vet_onnx
from edgepv.errors import UsageError
from edgepv.firmware import PRECISIONS, generate
from edgepv.firmware.compiler import PROCESSORS, Compiler, compiler_for, cpu_flags, shared_object
from edgepv.firmware.library import ENTRY_C
from edgepv.types import Variant

C = Path(__file__).with_name("c")
"""What every firmware shares."""
HERE = ("-march=native",)


def shared_sources() -> dict[str, bytes]:
    """The core, its headers and the kernels, by name."""
    return {p.name: p.read_bytes() for p in sorted(C.iterdir()) if p.suffix in (".c", ".h")}


def check_native(variant: Variant) -> None:
    """Raise UsageError for a model that the native engine cannot run, whatever its operators."""
    if variant.precision not in PRECISIONS or (variant.form == "window" and variant.precision != "fp32"):
        raise UsageError(
            f"{variant.spec.name} has no native variant: it is {variant.precision}, and C is generated of "
            "fp32 files, and of INT8 ones that step. Run it on another engine"
        )


def compiled_here(variant: Variant, onnx: bytes, chosen: Compiler) -> Path:
    """The shared object of a variant for this very processor, from the cache if it was compiled before.

    onnx: the bytes of its file. The C is ours, made here from the file; nothing of a bundle is run as it is.
    Raises UsageError for a file that is not safe to read or that C cannot be generated of, EngineError if
    the compiler fails.
    """
    check_native(variant)
    vet_onnx(onnx, variant.path)
    key = {
        "native": _key(variant),
        "compiler": [chosen.command, chosen.version],
        "options": HERE,
        "flags": sorted(cpu_flags()),
    }

    def make(folder: Path) -> object:
        (folder / "model.so").write_bytes(shared_object(chosen, sources_of(variant, onnx), HERE))
        return variant.name

    return cache.cached(key, make)[0] / "model.so"


def objects_for_others(variant: Variant, onnx: bytes) -> Mapping[str, bytes]:
    """Shared objects of a variant by the suffix of their file, for each processor that is compiled for."""
    check_native(variant)
    found = {p: c for p in PROCESSORS if (c := compiler_for(p))}
    made = {}
    for processor, chosen in found.items():
        key = {
            "native": _key(variant),
            "compiler": [chosen.command, chosen.version],
            "options": processor.options,
        }

        def make(
            folder: Path, chosen: Compiler = chosen, options: tuple[str, ...] = processor.options
        ) -> object:
            (folder / "model.so").write_bytes(shared_object(chosen, sources_of(variant, onnx), options))
            return variant.name

        made[processor.suffix] = (cache.cached(key, make)[0] / "model.so").read_bytes()
    return made


def sources_of(variant: Variant, onnx: bytes) -> dict[str, bytes]:
    """Everything that a shared object of a variant is compiled of, by name."""
    made = generate(variant, onnx, variant.sha256)
    entry = ENTRY_C.format(symbol=made.symbol).encode("ascii")
    return {**shared_sources(), **made.sources, "entry.c": entry}


def _key(variant: Variant) -> str:
    """What the C of a variant is made of."""
    shared = {p.name: sha256(p) for p in sorted(C.iterdir())}
    return digest([variant.sha256, variant.spec, variant.stream, variant.inputs, variant.outputs, shared])
