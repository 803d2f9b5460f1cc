"""The audit of a TensorRT plan, on layer information written by hand in the forms seen in public."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgepv.errors import UsageError
from edgepv.export.tensorrt.layers import audit, of_bundle
from edgepv.types import Audit, ModelSpec, TensorSpec, Variant

INT8 = "Thirty-two wide channel vectorized row major Int8 format"
HALF = "Channel major FP16 format where channel % 8 == 0"
LINEAR = "Row major linear FP32"


def layer(name: str, kind: str, reads: Any, writes: str, **more: Any) -> dict[str, Any]:
    """One layer as TensorRT 8 and 10 tell it; ``reads`` and ``writes`` are tensors like "x: Int8"."""
    sides = {
        "Inputs": [_tensor(text) for text in ([reads] if isinstance(reads, str) else reads)],
        "Outputs": [_tensor(writes)],
    }
    return {"Name": name, "LayerType": kind, **sides, **more}


def _tensor(text: str) -> dict[str, Any]:
    name, said = text.split(": ")
    return {"Name": name, "Location": "Device", "Dimensions": [1, 8, 4, 4], "Format/Datatype": said}


def conv(name: str, said: str = INT8, *, kind: str = "CaskConvolution", **more: Any) -> dict[str, Any]:
    return layer(name, kind, f"x: {said}", f"y: {said}", ParameterType="Convolution", **more)


def asked(tmp_path: Path, rows: list[Any], *planned: str, plan: str = "int8") -> Audit:
    file = tmp_path / "model-int8-trt10.3.layers.json"
    file.write_text(json.dumps({"Layers": rows, "Bindings": ["x", "y"]}))
    return audit(file, dict.fromkeys(planned, plan))


def executed(found: Audit) -> dict[str, str | None]:
    return {row.node: row.executed for row in found.convolutions}


@pytest.mark.parametrize(
    ("said", "precision", "reason"),
    [
        (INT8, "int8", "8.x and 10.x, a sentence"),
        (INT8 + ".", "int8", "8.2's guide ends it with a full stop"),
        (HALF, "fp16", "the builder found FP16 faster"),
        (LINEAR, "float", "neither flag reached it"),
        ("Int8", "int8", "10.x, layers of the graph compiler"),
        ("Half", "fp16", "the same"),
        ("Float", "float", "the same"),
        ("BFloat16", "bf16", "not read as Float"),
        ("UInt8", None, "an unsigned picture is no INT8 convolution"),
        ("N/A due to dynamic shapes", None, "nothing is said, so nothing is known"),
    ],
)
def test_the_words_for_a_tensors_type(tmp_path: Path, said: str, precision: str | None, reason: str) -> None:
    assert executed(asked(tmp_path, [conv("conv1", said)], "conv1")) == {"conv1": precision}, reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (conv("conv1"), "alone"),
        (conv("w + w_QuantizeLinear + conv1 + PWN(relu1)"), "fused with its weights and its activation"),
        (conv("conv0 + relu0 || conv1 + relu1"), "two convolutions side by side in one kernel"),
        (conv("__myl_Conv_3", "Int8", kind="correlation", Metadata="[ONNX Layer: conv1]"), "graph compiler"),
        (conv("k", Metadata="[ONNX Layer: w_q]\x1e[ONNX Layer: conv1]"), "10.0 parts them by U+001E"),
        (conv("k", Metadata="[ONNX Layer: conv1]\x1f[ONNX Layer: relu1]"), "later by U+001F"),
    ],
)
def test_every_way_a_layer_names_its_nodes(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    assert executed(asked(tmp_path, [row], "conv1")) == {"conv1": "int8"}, reason


def test_a_longer_name_is_another_node_and_an_unnamed_one_is_not_guessed(tmp_path: Path) -> None:
    rows = [conv("conv10"), conv("{ForeignNode[conv2...conv4]}", HALF, kind="Myelin")]
    assert executed(asked(tmp_path, rows, "conv1", "conv2", "conv3", "conv10")) == {
        "conv1": None,
        "conv2": None,
        "conv3": None,
        "conv10": "int8",
    }


def test_a_node_whose_name_has_brackets_is_read_whole(tmp_path: Path) -> None:
    row = conv("k", Metadata="[ONNX Layer: net[0]/conv]\x1f[ONNX Layer: relu]")
    assert executed(asked(tmp_path, [row], "net[0]/conv")) == {"net[0]/conv": "int8"}


def test_the_form_of_tensorrt_11_splits_format_and_type(tmp_path: Path) -> None:
    tensor = {"Name": "x", "Dimensions": [1, 8, 4, 4], "Format": "Row major linear", "DataType": "Int8"}
    row = {
        "Name": "__myl_Conv_myl0_1",
        "LayerType": "correlation",
        "Inputs": [tensor],
        "Outputs": [tensor],
        "Metadata": "[ONNX Layer: conv1]",
    }
    file = tmp_path / "l.json"
    file.write_text(json.dumps({"Layers": [row], "I/O Tensors": [tensor]}))
    assert executed(audit(file, {"conv1": "int8"})) == {"conv1": "int8"}


@pytest.mark.parametrize(
    ("more", "precision", "reason"),
    [
        ({"TacticName": "sm87_xmma_fprop_gemm_i8f16_i8i32_f32_nhwc"}, "int8", "its kernel adds in int32"),
        ({"TacticName": "sm87_xmma_fprop_gemm_f16f16_f16f16_f16"}, "fp16", "its kernel multiplies FP16"),
        ({"TacticName": "0x11bde0e1"}, None, "nothing settles it"),
        ({}, None, "nothing settles it"),
    ],
)
def test_mixed_inputs_are_settled_by_the_kernels_name_alone(
    tmp_path: Path, more: dict[str, Any], precision: str | None, reason: str
) -> None:
    row = layer("conv1 + add", "CaskConvolution", [f"x: {INT8}", f"skip: {HALF}"], f"y: {HALF}", **more)
    assert executed(asked(tmp_path, [row], "conv1")) == {"conv1": precision}, reason


def test_the_type_of_the_weights_counts_where_the_tensors_say_nothing(tmp_path: Path) -> None:
    row = conv("conv1", "N/A due to dynamic shapes", Weights={"Type": "Int8", "Count": 64})
    assert executed(asked(tmp_path, [row], "conv1")) == {"conv1": "int8"}


def test_weights_in_int8_do_not_make_a_float_input_int8(tmp_path: Path) -> None:
    row = conv("conv1", HALF, Weights={"Type": "Int8", "Count": 64})
    assert executed(asked(tmp_path, [row], "conv1")) == {"conv1": None}


def test_a_neighbour_that_names_the_convolution_does_not_speak_for_its_kernel(tmp_path: Path) -> None:
    beside = layer("__myl_Mul_myl0_4", "kgen", "y: Half", "z: Half", Metadata="[ONNX Layer: conv1]")
    kernel = conv("__myl_Conv_myl0_3", "Int8", kind="correlation", Metadata="[ONNX Layer: conv1]")
    assert executed(asked(tmp_path, [beside, kernel], "conv1")) == {"conv1": "int8"}


@pytest.mark.parametrize(("said", "precision"), [("Half", "fp16"), ("Int8", None)])
def test_a_generated_kernel_alone_can_rule_int8_out_but_not_prove_it(
    tmp_path: Path, said: str, precision: str | None
) -> None:
    row = layer("__myl_Fuse", "kgen", f"x: {said}", f"y: {said}", Metadata="[ONNX Layer: conv1]")
    assert executed(asked(tmp_path, [row], "conv1")) == {"conv1": precision}


def test_two_kernels_of_one_convolution_that_disagree_leave_it_open(tmp_path: Path) -> None:
    assert executed(asked(tmp_path, [conv("conv1"), conv("conv1", HALF)], "conv1")) == {"conv1": None}


def chain() -> list[dict[str, Any]]:
    """x -> reformat -> conv1 (INT8) -> conv2 (FP16) -> pool (FP16) -> reformat -> conv3 (INT8) -> shape."""
    copy = "Reformatting CopyNode for Input Tensor 0 to relu0 + conv3"
    return [
        layer("to int8", "Reformat", f"x: {LINEAR}", f"a: {INT8}", Origin="QDQ"),
        layer("conv1 + relu1", "CaskConvolution", f"a: {INT8}", f"b: {HALF}"),
        layer("conv2", "CaskConvolution", f"b: {HALF}", f"c: {HALF}"),
        layer("pool", "CaskPooling", f"c: {HALF}", f"d: {HALF}"),
        layer(copy, "Reformat", f"d: {HALF}", f"e: {INT8}"),
        layer("conv3", "CaskConvolution", f"e: {INT8}", f"f: {INT8}"),
        layer("sizes", "shape_call", "n: Int64", "m: Int64"),
        layer("view", "NoOp", f"c: {HALF}", f"g: {HALF}"),
    ]


def test_silent_float_islands_and_conversions_are_told(tmp_path: Path) -> None:
    found = asked(tmp_path, chain(), "conv1", "conv2", "conv3")
    assert executed(found) == {"conv1": "int8", "conv2": "fp16", "conv3": "int8"}
    assert (found.int8, found.silent_float) == (2, ("conv2",))
    (island,) = found.islands
    assert (island.first, island.operators) == ("conv2", ("CaskConvolution", "CaskPooling"))
    assert (found.conversions, found.conversions_share, island.share) == (2, None, None)
    assert found.source == "TensorRT's layer information, model-int8-trt10.3.layers.json"


def test_a_copy_made_for_a_convolution_is_not_the_convolution(tmp_path: Path) -> None:
    copy, kernel = chain()[4:6]
    assert executed(asked(tmp_path, [copy, conv("conv1")], "conv3", "conv1"))["conv3"] is None
    assert executed(asked(tmp_path, [copy, kernel], "conv3"))["conv3"] == "int8"


def test_a_float_engine_has_no_islands_to_name(tmp_path: Path) -> None:
    found = asked(tmp_path, [conv("conv1", HALF)], "conv1", plan="float")
    assert (executed(found), found.islands, found.conversions) == ({"conv1": "fp16"}, (), None)
    assert found.silent_float == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"Layers": ["conv1 + relu1", "pool"]}', "names its 2 layers .* --profilingVerbosity=detailed"),
        ('{"Layers": []}', "has no layer: .* --profilingVerbosity=detailed"),
        ('{"layers": []}', 'no list "Layers"'),
        ("[1]", 'no list "Layers"'),
        ('{"Layers": [', "not valid JSON"),
        (json.dumps({"Layers": [conv("other")]}), "names none of the 1 convolutions .* build.sh"),
    ],
)
def test_a_file_that_cannot_answer_says_what_to_do(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "l.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        audit(file, {"conv1": "int8"})


def test_a_layer_told_by_its_name_only_leaves_its_convolution_open(tmp_path: Path) -> None:
    assert executed(asked(tmp_path, [conv("conv1"), "conv2"], "conv1", "conv2")) == {
        "conv1": "int8",
        "conv2": None,
    }


@pytest.mark.parametrize("kind", ["fp16", "fp32"])
def test_an_engine_of_a_float_file_is_told_by_its_name_whatever_it_was_built_in(
    tmp_path: Path, kind: str
) -> None:
    from planted_rules import CLEAN

    model = CLEAN["2:4"]().SerializeToString()
    spec = ModelSpec("m", TensorSpec("x", (1, 8, 8, 8)), ("a", "b"))
    variant = Variant("tensorrt-fp32", "tensorrt", "fp32", "step", "m.onnx", "", spec, None, {}, {})
    file = tmp_path / f"model-{kind}-trt10.3.layers.json"
    file.write_text(json.dumps({"Layers": [conv("sparse", LINEAR)]}))
    assert executed(of_bundle(file, lambda _: model, [variant])) == {"sparse": "float"}
