"""Pack for LiteRT: a float .tflite and two INT8 recipes of it."""

from __future__ import annotations

from dataclasses import replace

from edgepv.export.job import FLAT, Job, Packed
from edgepv.export.to_tflite import to_tflite
from edgepv.types import Checkpoint, Variant

VARIANTS = ("litert-fp32", "litert-int8-full", "litert-int8-conv")
"""All there are; those of a flat clip model end in FLAT."""
TOOLS = ("torch", "litert-torch", "litert-converter", "ai-edge-litert")


def build(job: Job) -> Packed:
    """Convert each form once, quantize it twice; the pipeline measures the results and keeps the fastest.

    A model given as an ONNX file never comes here (``Target.torch_only``): litert-torch starts from torch.
    """
    variants: list[Variant] = []
    floats: list[Variant] = []
    for source, form in ((job.checkpoint, ""), (job.flat_checkpoint, FLAT)):
        if source is not None:
            with job.attempt(f"litert-fp32{form}"):
                made, base = _of_form(job, source, form)
                variants += made
                floats += base
    return Packed(tuple(variants), floats=tuple(floats))


def _of_form(job: Job, source: Checkpoint, form: str) -> tuple[list[Variant], list[Variant]]:
    """(files wanted of one form of the model, its float file), as far as they can be made."""
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
        name, file = f"litert-int8-{recipe}{form}", f"model-int8-{recipe}{form}.tflite"
        with job.attempt(name):
            options = {"recipe": recipe} | ({"grown": list(job.grown)} if job.grown else {})
            made = job.compress("edgepv.quantize.int8_litert:Step", options, base, file)
            variants.append(replace(made, name=name))
    return variants, [base]
