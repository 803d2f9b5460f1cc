"""Bundles for one board: its files alone, and nothing that export proved wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import Tiny

from edgepv import bundle
from edgepv.cli.app import main
from edgepv.targets import jetson

pytestmark = pytest.mark.slow
WRITTEN = {"checks.json", "precision_plan.json", "calibration_table.json", "build.sh", "kit.pyz"}


def _exported(tiny: Tiny, target: str, out: Path, *more: str) -> tuple[set[str], str, Any]:
    """(models in the bundle, build.sh, the precisions planned)."""
    assert main(["export", *tiny.arguments, "--target", target, "--out", str(out), *more]) == 0
    models = out / "models"
    names = {p.name for p in models.iterdir()}
    assert names >= WRITTEN
    plan = json.loads((models / "precision_plan.json").read_text())
    return names - WRITTEN, (models / "build.sh").read_text(), {row["precision"] for row in plan}


@pytest.mark.parametrize(
    ("target", "files", "generations"),
    [
        ("jetson-orin-nano@6.2", {"model-fp32-op17.onnx", "model-int8-op17.onnx"}, ["10.3"]),
        ("jetson-nano@4.6", {"model-fp32-op13.onnx"}, ["8.0"]),
        (
            "jetson-thor@7.2.2",
            {"model-fp32-op17.onnx", "model-fp16-op19.onnx", "model-int8-fp16-op19.onnx"},
            ["10.12", "11"],
        ),
    ],
)
def test_a_board_gets_what_it_can_build(
    tiny_step: Tiny, tmp_path: Path, target: str, files: set[str], generations: list[str]
) -> None:
    found, script, planned = _exported(tiny_step, target, tmp_path / "b")
    assert found == files
    assert [line.strip()[1:-2] for line in script.splitlines() if line.endswith('")')] == generations
    assert "fp16" in planned and ("--fp16" in script) is ("--stronglyTyped" not in script)
    opened = bundle.read(tmp_path / "b")
    assert {Path(v.path).name for v in opened.content.variants} == files
    rows = json.loads((tmp_path / "b" / "measured.json").read_text())["rows"]
    assert {row["variant"] for row in rows} >= {"tensorrt-fp32", "tensorrt-fp16"}, "examined, built or not"
    checks = json.loads((tmp_path / "b" / "models" / "checks.json").read_text())
    assert {row["file"] for row in checks} == files
    assert not [f for row in checks for f in row["rules"] if f["severity"] == "error"]


@pytest.mark.parametrize("target", ["jetson", "jetson-orin-nano@6.2", "jetson-thor@7.2"])
def test_float16_that_failed_its_exam_is_in_no_plan_and_no_build(
    tiny_step: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """No float16 file can promise 500 dB, and no INT8 one; float32 files can promise 80."""
    monkeypatch.setattr(
        jetson, "TARGET", replace(jetson.TARGET, min_sqnr_db={"fp32": 80.0, "fp16": 500.0, "int8": 500.0})
    )
    found, script, planned = _exported(tiny_step, target, tmp_path / "b")
    assert found == {"model-fp32-op17.onnx"}
    assert "--fp16" not in script and "--int8" not in script and "op19" not in script
    assert planned == {"fp32"}


def test_half_precision_alone_is_the_float32_file_and_a_flag_where_flags_set_types(
    tiny_step: Tiny, tmp_path: Path
) -> None:
    more = ("--precision", "fp16")
    found, script, planned = _exported(tiny_step, "jetson-orin-nano@6.2", tmp_path / "b", *more)
    assert found == {"model-fp32-op17.onnx"} and planned == {"fp16"}
    assert "--fp16" in script and "--int8" not in script
