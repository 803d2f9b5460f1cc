"""Every engine speaks the same way: our names in, our names out, wrong inputs named."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgepv import bundle
from edgepv.base.engines import ENGINES
from edgepv.base.files import sha256
from edgepv.base.registry import resolve
from edgepv.errors import TargetUnavailableError, UsageError
from edgepv.export.to_onnx import example_inputs
from edgepv.runtimes import open_engine, open_session
from edgepv.types import Variant


@pytest.fixture(scope="module")
def variant(step_bundle: Path) -> Variant:
    return next(v for v in bundle.read(step_bundle).content.variants if v.name == "onnxruntime-fp32")


def test_engines_that_read_one_file_agree(step_bundle: Path, variant: Variant) -> None:
    inputs = example_inputs(variant.spec, variant.stream)
    a, b = (
        open_engine(replace(variant, engine=e), step_bundle).infer(inputs)
        for e in ("onnxruntime", "openvino")
    )
    assert list(a) == list(b) == ["logits", "before_next", "pool_next"]
    assert all(np.abs(a[n] - b[n]).max() < 1e-5 for n in a)


def test_outputs_are_the_callers_to_keep(step_bundle: Path, variant: Variant) -> None:
    """A state kept from one call must not change under the next one."""
    for name in ("onnxruntime", "openvino"):
        engine = open_engine(replace(variant, engine=name), step_bundle)
        first = engine.infer(example_inputs(variant.spec, variant.stream, seed=1))
        kept = {n: v.copy() for n, v in first.items()}
        engine.infer(example_inputs(variant.spec, variant.stream, seed=2))
        assert all(np.array_equal(first[n], kept[n]) for n in kept), name


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame": None}, "input 'frame' is missing"),
        ({"extra": np.zeros(1)}, "unknown input 'extra'"),
        ({"frame": np.zeros((1, 3, 8, 8), np.float32)}, r"expected float32 \(1, 3, 32, 32\), got"),
        ({"before": np.zeros((1, 8, 1, 256), np.float64)}, "got float64"),
    ],
)
def test_wrong_inputs_are_named(
    step_bundle: Path, variant: Variant, engine: str, change: dict[str, np.ndarray | None], message: str
) -> None:
    inputs = {**example_inputs(variant.spec, variant.stream), **change}
    opened = open_engine(replace(variant, engine=engine), step_bundle)
    with pytest.raises(UsageError, match=message):
        opened.infer({k: v for k, v in inputs.items() if v is not None})


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "litert"])
def test_a_file_that_is_no_model_is_one_line(variant: Variant, tmp_path: Path, engine: str) -> None:
    path = tmp_path / ("x.tflite" if engine == "litert" else "x.onnx")
    path.write_bytes(b"junk" * 64)
    with pytest.raises(UsageError, match="x.* cannot be opened safely: it is no"):
        open_engine(replace(variant, engine=engine, path=path.name), tmp_path)


def test_tensorrt_off_the_device_says_where_to_go(step_bundle: Path, variant: Variant) -> None:
    with pytest.raises(TargetUnavailableError, match="on the Jetson, or replay"):
        open_engine(replace(variant, engine="tensorrt"), step_bundle)


def test_a_missing_engine_says_what_to_install(
    step_bundle: Path, variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgepv.base import optional

    monkeypatch.setattr(optional, "present", lambda module: False)
    for name, extra in (("onnxruntime", "cpu"), ("openvino", "cpu"), ("litert", "mobile")):
        with pytest.raises(TargetUnavailableError, match=rf"pip install 'edgepv\[{extra}\]'"):
            open_engine(replace(variant, engine=name), step_bundle)


def test_the_old_tflite_package_is_not_trusted_with_new_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgepv.base import optional

    monkeypatch.setattr(optional, "present", lambda module: module == "tflite_runtime")
    with pytest.raises(TargetUnavailableError, match="numpy below 2"):
        optional.litert_interpreter()


def test_the_old_tflite_package_is_used_with_old_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    from edgepv.base import optional

    class Interpreter:
        pass

    fake = types.ModuleType("tflite_runtime.interpreter")
    fake.Interpreter = Interpreter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tflite_runtime", types.ModuleType("tflite_runtime"))
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", fake)
    monkeypatch.setattr(optional, "present", lambda module: module == "tflite_runtime")
    monkeypatch.setattr(np, "__version__", "1.26.4")
    assert optional.litert_interpreter() is Interpreter


def test_every_function_of_an_engine_is_there() -> None:
    for name in ENGINES.names():
        engine = ENGINES.find(name)
        for place in filter(None, (engine.opener, engine.audit, engine.tensors)):
            assert callable(resolve(place)), (name, place)


def test_the_null_engine_walks_the_whole_path(variant: Variant, tmp_path: Path) -> None:
    delays = tmp_path / "delays.json"
    delays.write_text("[0.0, 30.0]")
    null = replace(variant, engine="null", path=delays.name, sha256=sha256(delays))
    frame = np.full((48, 64, 3), 90, np.uint8)
    with open_session(null, tmp_path) as session:
        answers = [session.step(frame) for _ in range(4)]
    assert [a.label for a in answers] == ["fight"] * 4
    assert [a.valid for a in answers] == [False, False, False, True]
    assert answers[1].infer_ms >= 30 > answers[2].infer_ms


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"inputs": {"frame": "x"}}, "unknown input 'x'"),
        ({"outputs": {"logits": "x"}}, "unknown output 'x'"),
        ({"inputs": {"frame": "frame"}, "outputs": {"logits": "logits"}}, "nothing feeds its input"),
    ],
)
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_tensors_that_the_file_does_not_have_are_named_when_it_is_opened(
    step_bundle: Path, variant: Variant, engine: str, change: dict[str, dict[str, str]], says: str
) -> None:
    inputs = {**variant.inputs, **change.get("inputs", {})} if len(change) == 1 else change["inputs"]
    outputs = {**variant.outputs, **change.get("outputs", {})} if len(change) == 1 else change["outputs"]
    with pytest.raises(UsageError, match=says):
        open_engine(replace(variant, engine=engine, inputs=inputs, outputs=outputs), step_bundle)


def test_an_answer_of_another_shape_than_the_manifests_is_one_line(
    step_bundle: Path, variant: Variant
) -> None:
    """Three labels for two logits: the third could never be said, or a fourth would be no label."""
    spec = replace(variant.spec, labels=(*variant.spec.labels, "other"))
    with (
        open_session(replace(variant, spec=spec), step_bundle) as session,
        pytest.raises(UsageError, match=r"answered 'logits' \(1, 2\), the manifest says \(1, 3\)"),
    ):
        session.step(np.zeros((48, 64, 3), np.uint8))
