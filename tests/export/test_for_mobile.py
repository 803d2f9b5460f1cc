"""LiteRT's INT8 is made of the plain file where its channels cannot be equalised, and says why."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

from edgepv.errors import UsageError
from edgepv.export import for_mobile
from edgepv.export.request import BuildRequest
from edgepv.types import ModelSpec, TensorSpec, Variant


def unused(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("called without need")


def variant(name: str, path: str) -> Variant:
    spec = ModelSpec(
        "net", TensorSpec("frame", (1, 3, 8, 8), "NCHW"), ("a", "b"), 1, Fraction(10), task="classification"
    )
    ends = {"frame": "frame"}, {"logits": "logits"}
    return Variant(name, "onnxruntime", "fp32", "step", path, "", spec, None, *ends)


ONNX, TFLITE = variant("onnx-fp32", "model.onnx"), variant("litert-fp32", "model.tflite")


def request(compress: Any) -> BuildRequest:
    return BuildRequest(ONNX, None, Path(), None, None, (), "", ("int8",), unused, compress, unused)


def test_the_equalised_file_has_the_units_and_the_digest_of_its_onnx() -> None:
    even = replace(ONNX, path="model-even.onnx", sha256="d1", state_scales={"past": (1.0, 2.0)})
    asked: list[tuple[str, dict[str, Any], Variant, str]] = []

    def compress(name: str, fixed: dict[str, Any], source: Variant, file: str) -> Variant:
        asked.append((name, fixed, source, file))
        return even if name == "equalise" else replace(source, path=file)

    made, notes = for_mobile._equalised(request(compress), TFLITE, ONNX, "-r4")
    files = {"plain": "model.onnx", "even": "model-even.onnx", "digest": "d1"}
    given = replace(TFLITE, state_scales={"past": (1.0, 2.0)})
    assert asked == [
        ("equalise", {}, ONNX, "model-even-r4.onnx"),
        ("equalise-litert", files, given, "model-even-r4.tflite"),
    ]
    assert made == replace(given, path="model-even-r4.tflite") and notes == []


def test_a_layer_that_is_not_found_leaves_the_plain_file_and_a_note() -> None:
    def compress(name: str, *_: Any) -> Variant:
        if name == "equalise-litert":
            raise UsageError("LiteRT's file has no layer with the weights of 'node_conv2d_3'")
        return ONNX

    made, (note,) = for_mobile._equalised(request(compress), TFLITE, ONNX, "")
    assert made is TFLITE and "without equalised channels" in note and "node_conv2d_3" in note


def test_a_form_without_an_onnx_file_is_quantized_as_it_is() -> None:
    assert for_mobile._equalised(request(unused), TFLITE, None, "-r4") == (TFLITE, [])
