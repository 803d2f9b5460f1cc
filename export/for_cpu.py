"""Pack for a CPU: one float and one INT8 ONNX that both engines run, and NNCF's own for OpenVINO."""

from __future__ import annotations

from dataclasses import replace

from edgepv.errors import ParityError, UsageError
from edgepv.export.job import FLAT, Job, Packed
from edgepv.optional import need
from edgepv.types import Variant

INT8_STEPS = (
    ("edgepv.quantize.int8_onnx:Step", "model-int8{}.onnx"),
    ("edgepv.quantize.int8_openvino:Step", "model-int8-nncf{}.xml"),
)


def build(job: Job) -> Packed:
    """Every variant worth measuring on a CPU; the pipeline measures them and keeps the fastest.

    A clip model comes in two forms: OpenVINO prefers the five-dimensional graph, ONNX Runtime's INT8 the
    flat one.
    """
    variants: list[Variant] = []
    failed: dict[str, str] = {}
    for base in job.bases:
        form = FLAT if base is job.flat else ""
        if "fp32" in job.precisions:
            variants += _both_engines(base, f"fp32{form}")
        if "bf16" in job.precisions and cpu_has_bf16():
            name = f"openvino-bf16{form}"
            variants.append(replace(base, name=name, engine="openvino", precision="bf16"))
        for step, pattern in INT8_STEPS if "int8" in job.precisions and job.feeds else ():
            file = pattern.format(form)
            try:
                made = _int8(job, step, base, file)
            except (UsageError, ParityError) as e:
                failed[file] = str(e)
                continue
            both = file.endswith(".onnx")
            variants += _both_engines(made, f"int8{form}") if both else [_named(made, form)]
    return Packed(tuple(variants), failed=failed)


def _int8(job: Job, step: str, base: Variant, file: str) -> Variant:
    """By the step as it is, or with its most sensitive layers in float where the user set a limit."""
    if job.min_sqnr_db is None or not file.endswith(".onnx"):
        return job.compress(step, {}, base, file)
    return job.compress("edgepv.quantize.mixed:Step", {"min_sqnr_db": job.min_sqnr_db}, base, file)


def _both_engines(variant: Variant, ending: str) -> list[Variant]:
    engines = ("onnxruntime", "openvino")
    return [replace(variant, name=f"{engine}-{ending}", engine=engine) for engine in engines]


def _named(variant: Variant, form: str) -> Variant:
    return replace(variant, name=variant.name + form)


def cpu_has_bf16() -> bool:
    """Whether OpenVINO would run bfloat16 natively on this CPU."""
    ov = need("openvino", extra="cpu")
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
