"""Pack for LiteRT: a float .tflite and two INT8 recipes of it."""

from __future__ import annotations

from dataclasses import replace

from edgepv.errors import UsageError
from edgepv.export.job import Job, Packed
from edgepv.export.to_tflite import to_tflite

TOOLS = ("torch", "litert-torch", "litert-converter", "ai-edge-litert")


def build(job: Job) -> Packed:
    """Convert once, quantize twice; the pipeline measures the results and keeps the fastest.

    Raises UsageError for a model given as an ONNX file: litert-torch starts from torch.
    """
    checkpoint = job.checkpoint
    if checkpoint is None:
        raise UsageError(
            "the mobile target converts from torch, and this model is an ONNX file. Give the builder "
            "and its weights: file.py:builder --weights w.safetensors --spec spec.toml"
        )
    job.say("converting to LiteRT (10 to 30 s)")
    base = job.work(
        "to-tflite",
        {},
        job.base,
        TOOLS,
        lambda folder: to_tflite(checkpoint, job.base, folder / "model.tflite"),
    )
    variants = [base] if "fp32" in job.precisions else []
    failed: dict[str, str] = {}
    for recipe in ("full", "conv") if "int8" in job.precisions and job.feeds else ():
        file = f"model-int8-{recipe}.tflite"
        try:
            made = job.compress("edgepv.quantize.int8_litert:Step", {"recipe": recipe}, base, file)
        except UsageError as e:
            failed[file] = str(e)
            continue
        variants.append(replace(made, name=f"litert-int8-{recipe}"))
    return Packed(tuple(variants), failed=failed)
