"""Pack for LiteRT: a float .tflite and two INT8 recipes of it."""

from __future__ import annotations

from dataclasses import replace

from edgepv.errors import UsageError
from edgepv.export.job import FLAT, Job, Packed
from edgepv.export.to_tflite import to_tflite
from edgepv.types import Checkpoint, Variant

VARIANTS = ("litert-fp32", "litert-int8-full", "litert-int8-conv")
"""All there are; those of a flat clip model end in FLAT."""
TOOLS = ("torch", "litert-torch", "litert-converter", "ai-edge-litert")


def build(job: Job) -> Packed:
    """Convert each form once, quantize it twice; the pipeline measures the results and keeps the fastest.

    Raises UsageError for a model given as an ONNX file: litert-torch starts from torch.
    """
    checkpoint = job.checkpoint
    if checkpoint is None:
        raise UsageError(
            "the mobile target converts from torch, and this model is an ONNX file. Give the builder "
            "and its weights: file.py:builder --weights w.safetensors --spec spec.toml"
        )
    variants: list[Variant] = []
    floats: list[Variant] = []
    failed: dict[str, str] = {}
    for source, form in ((checkpoint, ""), (job.flat_checkpoint, FLAT)):
        if source is not None:
            try:
                made, base = _of_form(job, source, form, failed)
                variants += made
                floats += base
            except UsageError as e:
                if job.flat_checkpoint is None:
                    raise
                failed[f"model{form}.tflite"] = str(e)
    return Packed(tuple(variants), failed=failed, floats=tuple(floats))


def _of_form(
    job: Job, source: Checkpoint, form: str, failed: dict[str, str]
) -> tuple[list[Variant], list[Variant]]:
    """(files wanted of one form of the model, its float file); what cannot be quantized is in ``failed``."""
    recipes = [r for r in ("full", "conv") if job.wants(f"litert-int8-{r}{form}", "int8")]
    in_float = job.wants(f"litert-fp32{form}", "fp32")
    if not recipes and not in_float:
        return [], []
    job.say(f"converting to LiteRT{form} (10 to 30 s)")
    base = job.work(
        f"to-tflite{form}",
        {},
        job.base,
        TOOLS,
        lambda folder: to_tflite(source, job.base, folder / f"model{form}.tflite"),
    )
    base = replace(base, name=base.name + form)
    variants = [base] if in_float else []
    for recipe in recipes:
        file = f"model-int8-{recipe}{form}.tflite"
        try:
            options = {"recipe": recipe} | ({"grown": list(job.grown)} if job.grown else {})
            made = job.compress("edgepv.quantize.int8_litert:Step", options, base, file)
        except UsageError as e:
            failed[file] = str(e)
            continue
        variants.append(replace(made, name=f"litert-int8-{recipe}{form}"))
    return variants, [base]
