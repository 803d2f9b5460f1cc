"""Each rule on a tiny model that breaks it alone, with NVIDIA's parser as the witness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
import planted_rules as planted  # noqa: E402
from onnx import helper  # noqa: E402
from planted_rules import CLEAN, PLANTED, found  # noqa: E402

from edgepv.base.optional import present  # noqa: E402
from edgepv.export.for_jetson import summary  # noqa: E402
from edgepv.export.tensorrt import opset, rewrite  # noqa: E402
from edgepv.export.tensorrt.parser import parse_with_nvidia  # noqa: E402
from edgepv.export.tensorrt.rules import RULES, check  # noqa: E402


@pytest.mark.parametrize("name", PLANTED)
def test_the_rule_finds_the_one_thing_that_is_wrong(name: str) -> None:
    findings = found(PLANTED[name])
    assert {f.rule for f in findings} == {PLANTED[name].rule}
    assert PLANTED[name].words in findings[0].message and findings[0].cure


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_model_has_no_findings(name: str) -> None:
    assert check(CLEAN[name](), opset_limit=18) == []


@pytest.mark.parametrize(
    ("limit", "rules", "reason"),
    [
        (18, set(), "the device reads the file's opset"),
        (17, {"opset"}, "JetPack 5.1 and 6.0 stop at opset 17"),
    ],
)
def test_the_opset_is_held_against_the_device(limit: int, rules: set[str], reason: str) -> None:
    assert {f.rule for f in check(CLEAN["Q/DQ convolution"](), opset_limit=limit)} == rules, reason


@pytest.mark.parametrize("name", [n for n in PLANTED if n != "own domain"])
def test_the_models_are_legal_onnx_but_for_what_the_rule_says(name: str) -> None:
    onnx.checker.check_model(PLANTED[name].build(), full_check=True)


@pytest.mark.parametrize(
    ("name", "limits", "reason"),
    [
        ("int8 constant", {"opset_limit": 19}, "a strongly typed file has INT8 constants"),
        ("LayerNormalization", {"tensorrt": (8, 6)}, "8.6 knows it"),
        ("Reciprocal", {"tensorrt": (8, 5)}, "8.5 knows it"),
        ("GridSample", {"tensorrt": (8, 5)}, "8.5 knows it"),
        ("GridSample in 5-D", {"tensorrt": (11, 4)}, "11 takes it"),
        ("zeros in no pattern", {"sparse": False}, "that board has no sparse kernels anyway"),
        ("Conv3d", {"dla": False}, "that board has no DLA"),
        ("Floor", {"dla": False}, "that board has no DLA"),
        ("Q/DQ on a DLA", {"dla": False}, "that board has no DLA"),
    ],
)
def test_a_rule_holds_for_the_devices_it_is_about(name: str, limits: dict[str, Any], reason: str) -> None:
    assert found(PLANTED[name]), reason
    assert check(PLANTED[name].build(), **{"opset_limit": 21, **limits}) == [], reason


def test_a_finding_names_the_node_and_says_what_to_do() -> None:
    (one,) = found(PLANTED["two groups"])
    assert (one.node, one.severity) == ("conv", "warning")
    assert one.message.startswith("an INT8 convolution with 2 groups. INT8 kernels work on 4")
    assert one.cure == "leave it in float (edgepv does)"


def test_what_stands_in_a_branch_is_checked_too() -> None:
    """Detectors of torchvision have them."""
    inside = PLANTED["TopK"].build().graph
    branch = helper.make_graph(inside.node, "branch", [], inside.output, inside.initializer)
    which = helper.make_tensor("which", onnx.TensorProto.BOOL, [], [True])
    node = helper.make_node("If", ["which"], ["y", "i"], "choose", then_branch=branch, else_branch=branch)
    graph = helper.make_graph([node], "g", inside.input, inside.output, [which])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    assert [f.rule for f in check(model, opset_limit=21)] == ["topk", "topk"]


def test_an_export_says_where_the_first_error_is_and_what_to_do() -> None:
    assert summary(found(PLANTED["TopK"])) == (
        "our rules found 1 errors (at 'TopK_y': TopK with K = 3841. It parses and the build fails: at most "
        "K = 3840; take fewer), 0 warnings"
    )
    told = summary(found(PLANTED["dynamic"]))
    assert told.startswith("our rules found 1 errors (at 'the file': the shape of input 'x' is not static")
    assert summary(found(PLANTED["two groups"])) == "our rules found 0 errors, 1 warnings"


def test_every_rule_of_the_table_is_broken_by_a_model_and_has_a_cure_and_a_source() -> None:
    assert {one.rule for one in PLANTED.values()} == {rule.name for rule in RULES}
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.reason and rule.cure and rule.source for rule in RULES)


@pytest.mark.parametrize("name", ["LayerNormalization", "Reciprocal"])
def test_what_an_old_parser_does_not_know_is_spelled_out_and_computes_the_same(name: str) -> None:
    model = PLANTED[name].build()
    spelled = rewrite.spelled_out(model, (8, 2))
    assert check(spelled, opset_limit=17, tensorrt=(8, 2)) == []
    onnx.checker.check_model(spelled, full_check=True)
    feed = {"x": np.random.default_rng(0).normal(1, 2, planted.SHAPE).astype(np.float32)}
    ours, theirs = [
        ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)[0]
        for m in (model, spelled)
    ]
    assert np.allclose(ours, theirs, atol=1e-5)
    assert rewrite.spelled_out(model, (8, 6)).SerializeToString() == model.SerializeToString()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("int32 bias", "the bias is written in float"),
        ("int8 constant", "float weights, and a Q before their DQ"),
        ("uint8 around 128", "the same codes, 128 less"),
    ],
)
def test_what_another_quantizer_wrote_is_rewritten_and_computes_the_same(name: str, reason: str) -> None:
    uint8 = planted._conv(kind=np.uint8, zero=128)
    model = uint8 if name == "uint8 around 128" else PLANTED[name].build()
    for node in model.graph.node:
        node.name = node.name or f"{node.op_type}_{node.output[0]}"
    assert check(model, opset_limit=17), reason
    read = rewrite.as_read(model)
    assert {f.rule for f in check(read, opset_limit=17)} <= {"opset"}, reason
    onnx.checker.check_model(read, full_check=True)
    feed = {"x": np.random.default_rng(0).normal(0, 4, planted.SHAPE).astype(np.float32)}
    ours, theirs = [
        ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)[0]
        for m in (model, read)
    ]
    assert np.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("name", ["zero point", "uint8", "int16"])
def test_what_has_no_form_that_tensorrt_reads_is_left_for_the_rules(name: str) -> None:
    model = PLANTED[name].build()
    rules = {f.rule for f in check(rewrite.as_read(model), opset_limit=21)}
    assert PLANTED[name].rule in rules


def test_opset_13_is_really_written_and_computes_the_same() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "relu"),
        helper.make_node("Reshape", ["a", "shape"], ["y"], "reshape", allowzero=1),
    ]
    model = planted._model(nodes, {"shape": np.array([1, 4, 64], np.int64)}, outputs={"y": (1, 4, 64)})
    old = opset.to_opset(model, 13)
    assert (opset.opset_of(old), old.ir_version) == (13, 7)
    feed = {"x": np.random.default_rng(0).normal(size=planted.SHAPE).astype(np.float32)}
    for m in (model, old):
        session = ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
        assert np.array_equal(session.run(None, feed)[0], np.maximum(feed["x"], 0).reshape(1, 4, 64))


def test_an_operator_newer_than_opset_13_is_named() -> None:
    with pytest.raises(Exception, match="LayerNormalization is newer than opset 13"):
        opset.to_opset(PLANTED["LayerNormalization"].build(), 13)


NEEDS_PARSER = pytest.mark.skipif(not present("tensorrt_rtx"), reason="needs edgepv[trt-check]")


@NEEDS_PARSER
@pytest.mark.parametrize("name", [n for n, one in PLANTED.items() if one.refused])
def test_nvidias_parser_refuses_it_for_the_same_reason(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(PLANTED[name].build(), path)
    verdict = parse_with_nvidia(path)
    assert (verdict.ran, verdict.accepted) == (True, False)
    assert str(PLANTED[name].refused) in verdict.errors[0]


@NEEDS_PARSER
@pytest.mark.parametrize("name", [n for n, one in PLANTED.items() if not one.refused])
def test_only_our_rules_see_it_for_nvidias_parser_accepts_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(PLANTED[name].build(), path)
    assert parse_with_nvidia(path).accepted


@NEEDS_PARSER
@pytest.mark.parametrize("name", CLEAN)
def test_nvidias_parser_accepts_a_clean_model(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(CLEAN[name](), path)
    assert parse_with_nvidia(path).accepted
