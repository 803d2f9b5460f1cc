"""Pack for a CPU: a float ONNX that engines and C run, an INT8 ONNX for each engine, and NNCF's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from edgepv.base.optional import need
from edgepv.errors import TargetUnavailableError, UsageError
from edgepv.export.request import EVEN, FLAT, BuildRequest, BuildResult
from edgepv.export.sums import saturating
from edgepv.firmware import generate
from edgepv.firmware.compiled import check_native, objects_for_others
from edgepv.firmware.compiler import compiler, needed
from edgepv.types import Variant

NATIVE, NATIVE_INT8 = "native-fp32", "native-int8"
VARIANTS = (
    "onnxruntime-fp32",
    "openvino-fp32",
    "openvino-bf16",
    "onnxruntime-int8",
    "openvino-int8",
    "openvino-int8-nncf",
    NATIVE,
    NATIVE_INT8,
)
"""All there are; those of a flat clip model end in FLAT."""
NEEDS = dict.fromkeys((NATIVE, NATIVE_INT8), "edgepv.firmware.compiler:compiler")
"""Variant -> what it cannot be made without: a function that answers None where that is not here."""
STEPS = {
    "onnxruntime-int8": "mixed",
    "openvino-int8": "mixed",
    "openvino-int8-nncf": "int8-openvino",
    NATIVE_INT8: "mixed",
}
"""Variant -> the step that makes it."""
INT8_FILES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("onnxruntime-int8", "model-int8{}.onnx", {"weight_bits": 8}),
    ("openvino-int8", "model-int8-7bit{}.onnx", {"weight_bits": 7}),
    ("openvino-int8-nncf", "model-int8-nncf{}.xml", {}),
)
"""Variant, its file, and what is fixed of its step's options. ONNX Runtime adds eight bits exactly where it
is told to, OpenVINO only seven: see int8_onnx."""


def build(request: BuildRequest) -> BuildResult:
    """Every variant worth measuring on a CPU; the pipeline measures them and keeps the fastest.

    A clip model comes in two forms: OpenVINO prefers the five-dimensional graph, ONNX Runtime's INT8 the
    flat one.
    """
    variants: list[Variant] = []
    for base in request.bases:
        form = FLAT if base is request.flat else ""
        if base.precision == "int8":
            variants += _named(request, base, ("onnxruntime-int8", "openvino-int8"))
            continue
        variants += _named(request, base, (f"onnxruntime-fp32{form}", f"openvino-fp32{form}"))
        if request.wants(f"openvino-bf16{form}", "bf16") and cpu_has_bf16():
            variants += _named(request, replace(base, precision="bf16"), (f"openvino-bf16{form}",))
        for name, file, fixed in INT8_FILES:
            ours, ending = name + form, file.format(form)
            if request.wants(ours, "int8"):
                with request.attempt(ours):
                    even = request.compress("equalise", {}, base, EVEN.format(form))
                    variants += _named(request, request.compress(STEPS[name], fixed, even, ending), (ours,))
    for name, precision in wanted_in_c(request):
        if request.only == name or compiler():
            with request.attempt(name):
                variants.append(in_c(request, name, precision))
    request.failed.update(_unsafe(request, variants))
    kept = tuple(v for v in variants if v.name not in request.failed)
    return BuildResult(
        kept, floats=_floats(request, kept), settle=lambda _, runs: _objects(request, kept, runs)
    )


def wanted_in_c(request: BuildRequest) -> list[tuple[str, str]]:
    """(name, precision) of the variants in C that are asked for; of an INT8 file there is no float one."""
    if request.flat:
        return [(NATIVE + FLAT, "fp32")] if request.wants(NATIVE + FLAT, "fp32") else []
    both = ((NATIVE, "fp32"), (NATIVE_INT8, "int8"))
    given = request.base.precision
    return [(n, p) for n, p in both if request.wants(n, p) and (given != "int8" or p == given)]


def in_c(request: BuildRequest, name: str, precision: str) -> Variant:
    """The step, or the flat window, as C: its ONNX file, of which every machine that has a compiler makes it.

    In INT8 it is the file that ONNX Runtime runs. Raises UsageError for a model that there is no C of.
    """
    needed()
    base = request.flat or request.base
    check_native(base)
    if base.stream is None:  # an operator that no C is generated of is told now
        generate(base, (request.folder / base.path).read_bytes(), base.sha256)
    if precision == "int8" and base.precision != "int8":
        even = request.compress("equalise", {}, base, EVEN.format(""))
        base = request.compress(STEPS[NATIVE_INT8], {"weight_bits": 8}, even, INT8_FILES[0][1].format(""))
    return replace(base, name=name, engine="native")


def _objects(request: BuildRequest, variants: Sequence[Variant], runs: str) -> None:
    """Compiled objects beside a file, for machines without a compiler: where the C is what runs."""
    chosen = next((v for v in variants if (v.name, v.engine) == (runs, "native")), None)
    if chosen is None:
        return
    request.say("compiling the model as C for other machines")
    path = request.folder / chosen.path
    for suffix, data in objects_for_others(chosen, path.read_bytes()).items():
        path.with_suffix(suffix).write_bytes(data)


def _floats(request: BuildRequest, variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """The float graph in every engine and form that runs something made of it; none of an INT8 file."""
    return tuple(
        replace(base, name=f"{engine}-fp32{form}", engine=engine)
        for base, form in zip(request.bases, ("", FLAT))
        for engine in dict.fromkeys(v.engine for v in variants if v.name.endswith(FLAT) == bool(form))
        if base.precision == "fp32"
    )


def _unsafe(request: BuildRequest, variants: Sequence[Variant]) -> dict[str, UsageError]:
    """Those that OpenVINO would compute otherwise on another CPU, and why; ONNX Runtime adds exactly."""
    saturated = {v.name: saturating(request.folder / v.path) for v in variants if v.engine == "openvino"}
    return {
        name: UsageError(
            f"the eight-bit weights '{weights}' make OpenVINO's sums saturate on an x86 without VNNI, so "
            "it would answer otherwise there"
        )
        for name, weights in saturated.items()
        if weights is not None
    }


def _named(request: BuildRequest, variant: Variant, names: tuple[str, ...]) -> list[Variant]:
    """One file under the name of each engine that is to run it."""
    wanted = [name for name in names if request.wants(name, variant.precision)]
    return [replace(variant, name=name, engine=name.split("-")[0]) for name in wanted]


def refuse_bf16() -> None:
    """Raise TargetUnavailableError where OpenVINO would not run bfloat16: it is the CPU, not the model."""
    if not cpu_has_bf16():
        raise TargetUnavailableError(
            "this CPU has no bfloat16, so OpenVINO would run float32 in its place. Export bf16 on a CPU with "
            "AVX512_BF16 or AMX, or choose another precision or variant"
        )


def cpu_has_bf16() -> bool:
    """Whether OpenVINO would run bfloat16 natively on this CPU."""
    ov = need("openvino", extra="cpu")
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
