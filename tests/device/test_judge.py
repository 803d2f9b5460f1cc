"""Engines built on a device are judged on clips before one is kept; TensorRT and CUDA are LABELLED FAKES."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgepv.bundle import manifest
from edgepv.device.judge import Judge
from edgepv.errors import AccuracyGateError, UsageError
from edgepv.runtimes.trt import bundle, device, kit, measure, store
from edgepv.runtimes.trt.engine import TrtEngine

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def short_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "WARMUP", 2)


def test_both_engines_are_judged_on_the_clips_and_it_is_noted(
    jetson_bundle: Path, few_clips: Path, on_jetson: Callable[..., ModuleType]
) -> None:
    on_jetson()
    whole = manifest.read(jetson_bundle)
    lines: list[str] = []
    judge = Judge(whole, few_clips, 1.0)
    found = kit.build(bundle.Bundle(jetson_bundle), lines.append, calls=2, judge=judge)
    float_, int8 = (found["accuracy"][name] for name in ("tensorrt-fp32", "tensorrt-int8"))
    assert float_["accuracy"]["n"] == int8["accuracy"]["n"] > 0
    assert float_["drop"] is None and int8["drop"]["max_drop"] == 1.0
    told = [line for line in lines if "accuracy on this device: top-1" in line]
    assert len(told) == 2 and "against tensorrt-fp32: " in told[1]
    del lines[:]
    kit.build(bundle.Bundle(jetson_bundle), lines.append, calls=2, judge=judge, only="tensorrt-int8")
    assert any(line.endswith(", with no engine in float to hold it against") for line in lines)


def one_label(folder: Path, label: str, few_clips: Path) -> Path:
    (folder / label).mkdir(parents=True)
    for clip in (few_clips / "test" / label).iterdir():
        (folder / label / clip.name).symlink_to(clip.resolve())
    return folder


def test_an_engine_that_loses_too_much_is_not_kept(
    jetson_bundle: Path,
    few_clips: Path,
    tmp_path: Path,
    on_jetson: Callable[..., ModuleType],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The INT8 engine swaps the labels, and its golden answers are not looked at: the clips tell it."""
    fake = on_jetson()
    whole, kits = manifest.read(jetson_bundle), bundle.Bundle(jetson_bundle)
    judges = [Judge(whole, one_label(tmp_path / n, n, few_clips), 1.0) for n in ("fight", "no_fight")]
    right = []  # the tiny net gives all clips one label: these are the clips that carry it
    for judge in judges:
        found = kit.build(kits, lambda line: None, only="tensorrt-fp32", calls=1, judge=judge)
        right += [judge] * (found["accuracy"]["tensorrt-fp32"]["accuracy"]["value"] == 1.0)
    model = onnx.load_from_string(kits.checked(kits.model("tensorrt-int8").path))
    last = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before_the_lie" if name == last else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 0], np.int64), "order"))
    model.graph.node.append(onnx.helper.make_node("Gather", ["before_the_lie", "order"], [last], axis=1))
    fake.script.onnx = model.SerializeToString()
    monkeypatch.setattr(kit, "replayed", lambda *a: (0.0, 1.0))
    lines: list[str] = []
    found = kit.build(kits, lines.append, calls=2, judge=right[0])
    assert found["accuracy"]["tensorrt-int8"]["accuracy"]["value"] == 0.0
    assert found["variant"] == "tensorrt-fp32"
    assert any(line.startswith("tensorrt-int8: not kept: it loses +100.0") for line in lines)


def test_a_refused_engine_is_not_kept_however_fast(
    jetson_bundle: Path, on_jetson: Callable[..., ModuleType]
) -> None:
    on_jetson()
    lines: list[str] = []

    def judge(engines: dict[str, TrtEngine]) -> dict[str, kit.Judgement]:
        assert next(iter(engines)) == "tensorrt-fp32", "one in float comes first"
        return {n: kit.Judgement("told", "it loses" if "int8" in n else "", {}) for n in engines}

    found = kit.build(bundle.Bundle(jetson_bundle), lines.append, calls=2, judge=judge)
    assert found["variant"] == "tensorrt-fp32"
    assert "tensorrt-int8: not kept: it loses" in lines


def test_what_clips_refused_is_not_kept_by_a_later_run_without_clips(
    jetson_bundle: Path, on_jetson: Callable[..., ModuleType]
) -> None:
    on_jetson()
    opened, lines = bundle.Bundle(jetson_bundle), list[str]()

    def judge(engines: dict[str, TrtEngine]) -> dict[str, kit.Judgement]:
        return {n: kit.Judgement("top-1", "it loses" if "fp32" in n else "", {"n": 1}) for n in engines}

    kit.build(opened, lines.append, calls=2, judge=judge)
    runs: list[Callable[..., dict[str, Any]]] = [kit.bench, kit.build]
    for again in runs:
        del lines[:]
        assert again(opened, lines.append, calls=2)["fit"] == ["tensorrt-int8"]
        assert "tensorrt-fp32: not kept: it loses" in lines
        assert "tensorrt-fp32: accuracy on this device: top-1, as judged before" in lines
    with pytest.raises(AccuracyGateError, match="no engine is kept: it loses.*--clips DIR"):
        kit.build(opened, lines.append, calls=2, only="tensorrt-fp32")
    assert store.kept(opened.digest, device.find()) == ("tensorrt-int8",), "what was kept stays"
    kit.build(opened, lines.append, calls=2, only="tensorrt-int8")
    assert kit.bench(opened, lines.append, calls=2)["fit"] == ["tensorrt-int8"]
    seen = {n: kit.Judgement("top-1", "", {"n": 1}) for n in ("tensorrt-fp32", "tensorrt-int8")}
    assert len(kit.build(opened, lines.append, calls=2, judge=lambda engines: seen)["fit"]) == 2
    assert len(kit.bench(opened, lines.append, calls=2)["fit"]) == 2


def test_clips_without_labels_judge_nothing(jetson_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        Judge(manifest.read(jetson_bundle), tmp_path / "none", 1.0)
