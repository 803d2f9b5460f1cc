"""Pack for LiteRT: a float .tflite and two INT8 recipes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgepv.errors import EdgepvError, UsageError
from edgepv.export.request import EVEN, FLAT, BuildRequest, BuildResult
from edgepv.export.to_tflite import onnx_to_tflite, to_tflite
from edgepv.types import Checkpoint, Variant

VARIANTS = ("litert-fp32", "litert-int8-full", "litert-int8-conv")
"""All there are; those of a flat clip model end in FLAT."""
STEPS = {"litert-int8-full": "int8-litert", "litert-int8-conv": "int8-litert"}
"""Variant -> the step that makes it."""
TOOLS = ("torch", "litert-torch", "litert-converter", "ai-edge-litert")


def build(request: BuildRequest) -> BuildResult:
    """Convert each form once, quantize it twice; the pipeline measures the results and keeps the fastest.

    A model given as an ONNX file has no checkpoint: its graph becomes torch again, see ``onnx_module``.
    Raises UsageError for one that is quantized already.
    """
    if request.base.precision == "int8":
        raise UsageError(
            "mobile quantizes for LiteRT itself, and the ONNX file is quantized already. Give the float "
            "model, or leave mobile out of --target"
        )
    variants: list[Variant] = []
    floats: list[Variant] = []
    notes: list[str] = []
    forms = ((request.checkpoint, request.base, ""), (request.flat_checkpoint, request.flat, FLAT))
    for source, plain, form in forms:
        if source is not None or (not form and request.checkpoint is None):
            with request.attempt(f"litert-fp32{form}"):
                files, base, said = _of_form(request, source, plain, form)
                variants += files
                floats += base
                notes += said
    return BuildResult(tuple(variants), notes=tuple(notes), floats=tuple(floats))


def _of_form(
    request: BuildRequest, source: Checkpoint | None, plain: Variant | None, form: str
) -> tuple[list[Variant], list[Variant], list[str]]:
    """(files wanted of one form of the model, its float file, notes), as far as they can be made.

    plain: the float ONNX of this form.
    """
    recipes = [r for r in ("full", "conv") if request.wants(f"litert-int8-{r}{form}", "int8")]
    in_float = request.wants(f"litert-fp32{form}", "fp32")
    if not recipes and not in_float:
        return [], [], []
    request.say(f"converting to LiteRT{form} (10 to 30 s)")
    base = request.work(
        f"to-tflite{form}",
        {},
        request.base,
        TOOLS,
        lambda folder: _in_float(request, source, folder / f"model{form}.tflite"),
    )
    base = replace(base, name=base.name + form)
    variants = [base] if in_float else []
    even, notes = _equalised(request, base, plain, form) if recipes else (base, [])
    for recipe in recipes:
        name, file = f"litert-int8-{recipe}{form}", f"model-int8-{recipe}{form}.tflite"
        with request.attempt(name):
            options = {"recipe": recipe, "grown": request.grown}
            quantized = request.compress(STEPS[f"litert-int8-{recipe}"], options, even, file)
            variants.append(replace(quantized, name=name))
    return variants, [base], notes


def _in_float(request: BuildRequest, source: Checkpoint | None, out: Path) -> Variant:
    """The float file, of the torch model or of the user's ONNX file."""
    if source is None:
        return onnx_to_tflite(request.folder / request.base.path, request.base, out)
    return to_tflite(source, request.base, out)


def _equalised(
    request: BuildRequest, base: Variant, plain: Variant | None, form: str
) -> tuple[Variant, list[str]]:
    """(the float file with its channels equalised like its ONNX, notes); as it was, and why, otherwise."""
    if plain is None:
        return base, []
    try:
        even = request.compress("equalise", {}, plain, EVEN.format(form))
        files = {"plain": plain.path, "even": even.path, "digest": even.sha256}
        given = replace(base, state_scales=even.state_scales)
        return request.compress("equalise-litert", files, given, f"model-even{form}.tflite"), []
    except EdgepvError as e:
        return base, [f"LiteRT's INT8 is made without equalised channels: {e}"]
