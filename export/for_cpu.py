"""Pack for a CPU: one float and one INT8 ONNX that both engines run, and NNCF's own for OpenVINO."""

from __future__ import annotations

from dataclasses import replace

from edgepv.errors import ParityError, UsageError
from edgepv.export.job import FLAT, Job, Packed
from edgepv.optional import need
from edgepv.types import Variant

VARIANTS = (
    "onnxruntime-fp32",
    "openvino-fp32",
    "openvino-bf16",
    "onnxruntime-int8",
    "openvino-int8",
    "openvino-int8-nncf",
)
"""All there are; those of a flat clip model end in FLAT."""
INT8_STEPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("edgepv.quantize.int8_onnx:Step", "model-int8{}.onnx", ("onnxruntime-int8{}", "openvino-int8{}")),
    ("edgepv.quantize.int8_openvino:Step", "model-int8-nncf{}.xml", ("openvino-int8-nncf{}",)),
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
        variants += _named(job, base, (f"onnxruntime-fp32{form}", f"openvino-fp32{form}"))
        if job.wants(f"openvino-bf16{form}", "bf16") and cpu_has_bf16():
            variants += _named(job, replace(base, precision="bf16"), (f"openvino-bf16{form}",))
        for step, file, names in INT8_STEPS:
            ours, ending = tuple(n.format(form) for n in names), file.format(form)
            if any(job.wants(name, "int8") for name in ours):
                try:
                    variants += _named(job, _int8(job, step, base, ending), ours)
                except (UsageError, ParityError) as e:
                    failed[ending] = str(e)
    return Packed(tuple(variants), failed=failed)


def _int8(job: Job, step: str, base: Variant, file: str) -> Variant:
    """By the step as it is, or with its most sensitive layers in float where the user asked for that."""
    if not file.endswith(".onnx") or not (job.keep_float or job.min_sqnr_db):
        return job.compress(step, {"ranges": job.ranges}, base, file)
    options = {"min_sqnr_db": job.min_sqnr_db, "keep": job.keep_float, "ranges": job.ranges}
    return job.compress("edgepv.quantize.mixed:Step", options, base, file)


def _named(job: Job, made: Variant, names: tuple[str, ...]) -> list[Variant]:
    """One file under the name of each engine that is to run it."""
    wanted = [name for name in names if job.wants(name, made.precision)]
    return [replace(made, name=name, engine=name.split("-")[0]) for name in wanted]


def cpu_has_bf16() -> bool:
    """Whether OpenVINO would run bfloat16 natively on this CPU."""
    ov = need("openvino", extra="cpu")
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
