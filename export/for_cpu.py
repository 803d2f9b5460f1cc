"""Pack for a CPU: one float and one INT8 ONNX that both engines run, and NNCF's own for OpenVINO."""

from __future__ import annotations

from dataclasses import replace

from edgepv.errors import UsageError
from edgepv.export.job import Job, Packed
from edgepv.optional import need
from edgepv.types import Variant

INT8_STEPS = (
    ("edgepv.quantize.int8_onnx:Step", "model-int8.onnx"),
    ("edgepv.quantize.int8_openvino:Step", "model-int8-nncf.xml"),
)


def build(job: Job) -> Packed:
    """Every variant worth measuring on a CPU; the pipeline measures them and keeps the fastest."""
    variants: list[Variant] = []
    failed: dict[str, str] = {}
    if "fp32" in job.precisions:
        variants += _both_engines(job.base, "fp32")
    if "bf16" in job.precisions and cpu_has_bf16():
        variants.append(replace(job.base, name="openvino-bf16", engine="openvino", precision="bf16"))
    if "int8" in job.precisions and job.feeds:
        for step, file in INT8_STEPS:
            try:
                made = job.compress(step, {}, job.base, file)
            except UsageError as e:
                failed[file] = str(e)
                continue
            variants += _both_engines(made, "int8") if file.endswith(".onnx") else [made]
    return Packed(tuple(variants), failed=failed)


def _both_engines(variant: Variant, precision: str) -> list[Variant]:
    return [
        replace(variant, name=f"{engine}-{precision}", engine=engine)
        for engine in ("onnxruntime", "openvino")
    ]


def cpu_has_bf16() -> bool:
    """Whether OpenVINO would run bfloat16 natively on this CPU."""
    ov = need("openvino", extra="cpu")
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
