"""NVIDIA's parser as a witness that may be absent, refuse, hang or crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgepv.base.optional import present
from edgepv.errors import UsageError
from edgepv.export.tensorrt import parser
from edgepv.export.tensorrt.parser import parse_with_nvidia

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402
from planted_rules import CLEAN  # noqa: E402

installed = pytest.mark.skipif(not present("tensorrt_rtx"), reason="needs edgepv[trt-check]")


def _saved(folder: Path, kind: str, **attributes: Any) -> Path:
    """A file with one operator from "x" to "y", both (1, 4, 8, 8)."""
    inputs = ["x"] if kind != "Col2Im" else ["x", "size", "block"]
    sizes = [
        helper.make_tensor(name, TensorProto.INT64, [2], [edge, edge])
        for name, edge in (("size", 8), ("block", 2))
        if name in inputs
    ]
    shape = (1, 16, 16) if kind == "Col2Im" else (1, 4, 8, 8)
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, ["y"], "the_node", **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4, 8, 8))],
        sizes,
    )
    path = folder / "m.onnx"
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


@installed
def test_a_good_file_is_accepted_and_the_version_is_told(tmp_path: Path) -> None:
    verdict = parse_with_nvidia(_saved(tmp_path, "Relu"))
    assert (verdict.ran, verdict.accepted, verdict.errors) == (True, True, ())
    assert verdict.version is not None
    assert verdict.version[0].isdigit()


@installed
def test_a_refusal_brings_the_parsers_own_words_and_the_node(tmp_path: Path) -> None:
    verdict = parse_with_nvidia(_saved(tmp_path, "Col2Im", strides=[2, 2]))
    assert (verdict.ran, verdict.accepted, verdict.reason) == (True, False, None)
    assert any("Col2Im" in line or "the_node" in line for line in verdict.errors)


@installed
def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"not a model")
    verdict = parse_with_nvidia(path)
    assert (verdict.ran, verdict.accepted) == (True, False)


def test_a_file_that_is_not_there_is_our_error_and_not_a_verdict(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        parse_with_nvidia(tmp_path / "m.onnx")


def test_a_missing_package_is_no_verdict_and_names_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parser, "MODULE", "tensorrt_that_nobody_has")
    verdict = parse_with_nvidia(_saved(tmp_path, "Relu"))
    assert (verdict.ran, verdict.accepted, verdict.version) == (False, None, None)
    assert "pip install 'edgepv[trt-check]'" in str(verdict.reason)


CRASH = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
PARSED = (
    """print('library chatter'); print('{"accepted": true, "version": "9", "errors": []}', flush=True);"""
)
BUILT = """print('{"accepted": true, "version": "9", "errors": [], "built": true}')"""


@pytest.mark.parametrize(
    ("program", "ran", "accepted", "built", "reason"),
    [
        (CRASH, True, False, None, "parser crashed with signal 11 (SIGSEGV)"),
        ("import time; time.sleep(60)", True, False, None, "parser gave no answer in 1 s"),
        ("pass", True, False, None, "parser ended without an answer"),
        ("print('half an ans')", True, False, None, "parser ended without an answer"),
        ("import no_such_library", False, None, None, "did not run: ModuleNotFoundError: No module"),
        (PARSED + BUILT, True, True, True, "None"),
        (PARSED + CRASH, True, True, False, "builder crashed with signal 11 (SIGSEGV)"),
        (PARSED + "import time; time.sleep(60)", True, True, False, "builder gave no answer in 1 s"),
        (PARSED, True, True, False, "no engine came of it"),
        (PARSED + "raise SystemExit('Error Code 4: no')", True, True, False, "Error Code 4: no"),
    ],
)
def test_however_the_process_ends_there_is_a_verdict(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    ran: bool,
    accepted: bool | None,
    built: bool | None,
    reason: str,
) -> None:
    monkeypatch.setattr(parser, "MODULE", "json")  # a module that is surely there
    limit = 1 if "sleep" in program else 60
    verdict = parse_with_nvidia(_saved(tmp_path, "Relu"), timeout_s=limit, program=program)
    assert (verdict.ran, verdict.accepted, verdict.built) == (ran, accepted, built)
    assert reason in str(verdict.reason)
    assert (verdict.fault is None) is (built is True or not ran)
    assert parser.encoded(verdict)["proves"].endswith("nothing about INT8, fusions or speed on the device")


@installed
def test_it_builds_and_every_planned_convolution_is_found_between_its_pairs(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(CLEAN["Q/DQ convolution"](), path)
    verdict = parse_with_nvidia(path, planned=["conv"])
    assert (verdict.accepted, verdict.built, verdict.fed, verdict.unfed) == (True, True, 1, ())
    assert verdict.told().endswith("takes it and builds it, all 1 INT8 convolutions between Q/DQ")


@installed
@pytest.mark.parametrize("name", ["no pair", "activation alone"])
def test_a_planned_convolution_without_its_pairs_is_a_finding(tmp_path: Path, name: str) -> None:
    """Both are legal, and neither computes in INT8."""
    model = CLEAN["Q/DQ convolution"]()
    conv = model.graph.node[-1]
    conv.input[1] = "w"
    if name == "no pair":
        conv.input[0] = "x"
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    verdict = parse_with_nvidia(path, planned=["conv"])
    assert (verdict.accepted, verdict.fed, verdict.unfed) == (True, 0, ("conv",))
    assert "without DequantizeLinear on both inputs: conv" in str(verdict.fault)
