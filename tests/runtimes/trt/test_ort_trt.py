"""ONNX Runtime's TensorRT provider: what it is asked for, and that it cannot fall back in silence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepv.base import cache
from edgepv.base.optional import need
from edgepv.bundle import manifest
from edgepv.errors import EngineError, TargetUnavailableError
from edgepv.runtimes import open_engine
from edgepv.runtimes.engines import ort, ort_trt
from edgepv.types import Variant

pytestmark = pytest.mark.slow


@pytest.fixture
def variants(jetson_bundle: Path) -> dict[str, Variant]:
    return {v.name: v for v in manifest.read(jetson_bundle).content.variants}


def test_precision_and_both_caches_are_asked_for_by_the_file(variants: dict[str, Variant]) -> None:
    """All three are off by default there; float16 in a float32 file is what nobody proved."""
    asked = {name: ort_trt.options(variant) for name, variant in variants.items()}
    flags = {name: (o["trt_int8_enable"], o["trt_fp16_enable"]) for name, o in asked.items()}
    assert flags == {
        "tensorrt-fp32": (False, False),
        "tensorrt-fp16": (False, True),
        "tensorrt-int8": (True, False),
        "tensorrt-int8-fp16": (True, True),
    }
    for options in asked.values():
        assert options["trt_engine_cache_enable"] and options["trt_timing_cache_enable"]
        assert Path(options["trt_engine_cache_path"]).is_relative_to(cache.root())
    assert len({o["trt_engine_cache_path"] for o in asked.values()}) == 4, "an engine is one file's"


@pytest.mark.parametrize(
    "opened", [["CPUExecutionProvider"], ["CUDAExecutionProvider", ort_trt.PROVIDER], []]
)
def test_another_provider_in_front_is_refused(opened: list[str]) -> None:
    with pytest.raises(EngineError, match="ONNX Runtime opened m.onnx without TensorRT"):
        ort_trt.refuse_fall_back(opened, "m.onnx")
    ort_trt.refuse_fall_back([ort_trt.PROVIDER, "CPUExecutionProvider"], "m.onnx")


def test_a_session_that_fell_back_is_never_an_engine(
    jetson_bundle: Path,
    variants: dict[str, Variant],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """This ONNX Runtime has no TensorRT: told that it has, it would open the file on the CPU.

    Like one that gives TensorRT a part of the graph and runs the rest there: both are refused.
    """
    library = need("onnxruntime", extra="cpu")
    monkeypatch.setattr(library, "get_available_providers", lambda: [ort_trt.PROVIDER])
    asked: list[Any] = []

    def session(model: bytes, name: str, threads: int, providers: Any, *, alone: bool) -> Any:
        asked.append((providers, alone))
        return ort.session(model, name, threads, providers, alone=alone)

    monkeypatch.setattr(ort_trt, "session", session)
    variant = replace(variants["tensorrt-int8"], engine="onnxruntime-tensorrt")
    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        pytest.raises(EngineError, match="assigned to the default CPU EP.*Use the engine tensorrt"),
    ):
        open_engine(variant, jetson_bundle)
    assert asked == [(((ort_trt.PROVIDER, ort_trt.options(variant)),), True)]
    assert capsys.readouterr().out == "", "ONNX Runtime tells a fall-back on stdout"


def test_without_the_provider_it_says_where_to_go(jetson_bundle: Path, variants: dict[str, Variant]) -> None:
    variant = replace(variants["tensorrt-int8"], engine="onnxruntime-tensorrt")
    with pytest.raises(
        TargetUnavailableError, match="ONNX Runtime has no TensorRT provider. Run the bundle on"
    ):
        open_engine(variant, jetson_bundle)


def test_a_provider_that_fails_in_a_run_is_an_error_and_no_change_of_provider(
    jetson_bundle: Path, variants: dict[str, Variant], capsys: pytest.CaptureFixture[str]
) -> None:
    """Left to itself ONNX Runtime's Python says so on stdout and goes on with another provider."""
    from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def run(self, *_: object) -> None:
            raise EPFail("the GPU is gone")

    variant = variants["tensorrt-fp32"]
    opened = ort.session(
        manifest.read(jetson_bundle).checked(variant.path), "m.onnx", 1, ("CPUExecutionProvider",)
    )
    feeds = {i.name: np.zeros(i.shape, np.float32) for i in opened.get_inputs()}
    real, opened._sess = opened._sess, Failing()
    with pytest.raises(EPFail, match="the GPU is gone"):
        opened.run(None, feeds)
    assert opened.get_providers() == ["CPUExecutionProvider"] and capsys.readouterr().out == ""
