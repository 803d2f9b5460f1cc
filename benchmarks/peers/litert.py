"""litert-torch and ai-edge-quantizer, run by LiteRT with XNNPACK.

default: the quantizer's recipe static_wi8_ai8. tuned: only convolutions and matrix products in INT8, with
inputs and outputs in float.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from serve import Case, Infer, Tensors

SIGNATURE = "serving_default"


def make(case: Case, out: Path, tuned: bool) -> dict[str, Any]:
    """Write float.tflite and of it int8.tflite."""
    import litert_torch
    from ai_edge_quantizer import quantizer, recipe

    module, example = case.module()
    litert_torch.convert(module, example).export(str(out / "float.tflite"))
    arguments = {name: f"args_{i}" for i, name in enumerate(case.names["inputs"])}
    asked = products() if tuned else recipe.static_wi8_ai8()
    made = quantizer.Quantizer(str(out / "float.tflite"), asked)
    feeds = [{arguments[name]: value for name, value in feed.items()} for feed in case.calibration()]
    ranges = made.calibrate({SIGNATURE: feeds})
    made.quantize(ranges).export_model(str(out / "int8.tflite"), overwrite=True)
    return {"file": "int8.tflite", "engine": "litert", "inputs": arguments}


def products() -> Any:
    """The tuned recipe."""
    from ai_edge_quantizer import qtyping, recipe_manager
    from ai_edge_quantizer.recipe import AlgorithmName

    kinds, manager = qtyping.TFLOperationName, recipe_manager.RecipeManager()
    for kind in (kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D, kinds.CONV_2D_TRANSPOSE, kinds.FULLY_CONNECTED):
        manager.add_static_config(
            regex=".*",
            operation_name=kind,
            activation_num_bits=8,
            weight_num_bits=8,
            algorithm_key=AlgorithmName.MIN_MAX_UNIFORM_QUANT,
        )
    return manager.get_quantization_recipe()


def open_model(case: Case, out: Path, made: dict[str, Any]) -> Infer:
    """Run by LiteRT, its default delegate on one thread."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(out / made["file"]), num_threads=1)
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    inside, outside = runner.get_input_details(), runner.get_output_details()
    arguments = made["inputs"]

    def infer(feeds: Tensors) -> Tensors:
        found = runner(**{(to := arguments[name]): coded(value, inside[to]) for name, value in feeds.items()})
        return case.by_name(
            [decoded(found[n], outside[n]) for n in (f"output_{i}" for i in range(len(found)))]
        )

    return infer


def coded(value: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """A value as the file takes it: in the codes of its 8 bits, where its inputs are quantized."""
    scale, zero = detail["quantization"]
    if not scale:
        return value.astype(detail["dtype"], copy=False)
    limits = np.iinfo(detail["dtype"])
    return np.clip(np.rint(value / scale) + zero, limits.min, limits.max).astype(detail["dtype"])


def decoded(value: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """What a file answers, as float32."""
    scale, zero = detail["quantization"]
    return ((value.astype(np.float32) - zero) * scale).astype(np.float32) if scale else value
