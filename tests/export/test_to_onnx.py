"""Lowering keeps the numbers, names every state, and writes equal bytes every time."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import TINY, Tiny

from edgepv.errors import UsageError
from edgepv.export.to_onnx import example_inputs, lower, stream_spec
from edgepv.model.checkpoint import build, from_files
from edgepv.model.spec import read_spec
from edgepv.runtimes import open_engine
from edgepv.runtimes.engines.eager import EagerEngine
from edgepv.stream import Stepper
from edgepv.types import Checkpoint, ModelSpec, TensorSpec, Variant


def _checkpoint(tiny: Tiny) -> Checkpoint:
    return from_files(tiny.model, tiny.weights, read_spec(tiny.spec), trust_pickle=False)


@pytest.fixture(scope="module")
def lowered(tiny_step: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Variant, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    source = _checkpoint(tiny_step)
    return lower(build(source), source.spec, folder / "m.onnx"), folder


def test_the_graph_is_opset_18_with_named_states(lowered: tuple[Variant, Path]) -> None:
    import onnx

    variant, folder = lowered
    model = onnx.load(folder / "m.onnx")
    assert [o.version for o in model.opset_import if o.domain == ""] == [18]
    assert [i.name for i in model.graph.input] == ["frame", "before", "pool"]
    assert [o.name for o in model.graph.output] == ["logits", "before_next", "pool_next"]
    assert variant.form == "step" and variant.stream and variant.stream.warmup == 4
    assert not list(folder.glob("*.data"))


def test_onnx_steps_like_torch_on_changing_states(lowered: tuple[Variant, Path], tiny_step: Tiny) -> None:
    variant, folder = lowered
    assert variant.stream
    steppers = [
        Stepper(engine.infer, variant.spec, variant.stream)
        for engine in (
            EagerEngine(build(_checkpoint(tiny_step)), variant.spec, variant.stream),
            open_engine(variant, folder),
        )
    ]
    rng = np.random.default_rng(0)
    for _ in range(300):
        frame = rng.standard_normal((1, 3, 32, 32)).astype(np.float32)
        a, b = (s.step(frame) for s in steppers)
        for name in a:
            assert np.abs(a[name] - b[name]).max() < 1e-5, name


def test_example_states_are_distinct_and_not_zero(lowered: tuple[Variant, Path]) -> None:
    variant, _ = lowered
    values = list(example_inputs(variant.spec, variant.stream).values())
    assert all(v.any() for v in values)
    assert not any(a is b for i, a in enumerate(values) for b in values[:i])


def test_lowering_twice_gives_equal_bytes(
    lowered: tuple[Variant, Path], tiny_step: Tiny, tmp_path: Path
) -> None:
    source = _checkpoint(tiny_step)
    again = lower(build(source), source.spec, tmp_path / "other" / "m.onnx")
    assert again.sha256 == lowered[0].sha256


def test_no_path_of_this_machine_is_in_the_file(lowered: tuple[Variant, Path]) -> None:
    data = (lowered[1] / "m.onnx").read_bytes()
    assert b"/site-packages/" not in data and str(TINY.parent).encode() not in data


def test_a_clip_model_becomes_a_window(tiny_clip: Tiny, tmp_path: Path) -> None:
    source = _checkpoint(tiny_clip)
    variant = lower(build(source), source.spec, tmp_path / "m.onnx")
    assert variant.form == "window" and variant.stream is None


def test_a_frame_model_needs_a_step_or_one_frame(tiny_step: Tiny) -> None:
    spec = read_spec(tiny_step.spec)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    with pytest.raises(UsageError, match=r"needs a module with init_state\(\) and step"):
        stream_spec(module, spec)
    single = stream_spec(module, replace(spec, frames=1))
    assert single and single.states == () and single.warmup == 1


def test_the_tiny_file_has_what_the_tests_say() -> None:
    assert runpy.run_path(str(TINY))["stepper"]().warmup == 4


def test_a_state_starts_where_the_module_says(tiny_step: Tiny, tmp_path: Path) -> None:
    source = _checkpoint(tiny_step)
    module = build(source)
    zeros = module.init_state()
    module.init_state = lambda: {n: torch.full_like(v, -10.0) for n, v in zeros.items()}
    variant = lower(module, source.spec, tmp_path / "m.onnx")
    assert variant.stream and [s.init for s in variant.stream.states] == [-10.0, -10.0]
    module.init_state = lambda: {n: torch.randn_like(v) for n, v in zeros.items()}
    with pytest.raises(UsageError, match="starts with different values"):
        lower(module, source.spec, tmp_path / "n.onnx")


class Attends(torch.nn.Module):
    """Attention over (batch, tokens, channels), without an axis for heads."""

    def __init__(self) -> None:
        super().__init__()
        self.project = torch.nn.Linear(3 * 8 * 8, 6)
        self.head = torch.nn.Linear(2, 2)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        q, k, v = self.project(clip.transpose(1, 2).flatten(2)).chunk(3, -1)
        return self.head(torch.nn.functional.scaled_dot_product_attention(q, k, v).mean(1))


def test_attention_without_heads_is_lowered_in_parts(tmp_path: Path) -> None:
    spec = ModelSpec("net", TensorSpec("clip", (1, 3, 4, 8, 8), "NCTHW"), ("a", "b"), frames=4)
    module = Attends().eval()
    variant = lower(module, spec, tmp_path / "m.onnx")
    clip = np.random.default_rng(0).standard_normal((1, 3, 4, 8, 8), dtype=np.float32)
    got = open_engine(variant, tmp_path).infer({"clip": clip})["logits"]
    assert np.allclose(got, module(torch.from_numpy(clip)).detach().numpy(), atol=1e-6)


def _refusal(call: Callable[..., Any], *args: Any) -> str:
    """The message of the UsageError that a call ends in: one line without colour codes."""
    with pytest.raises(UsageError) as caught:
        call(*args)
    text = str(caught.value)
    assert "\n" not in text and "\x1b" not in text
    return text


FRAME = ModelSpec("net", TensorSpec("frame", (1, 3, 8, 8)), ("a", "b", "c"))


class Counts(torch.nn.Module):
    """A step whose states, warm-up and answers are as they are given; it multiplies by the last state."""

    def __init__(self, states: Any, warmup: Any = 1, factor: float = 1.0) -> None:
        super().__init__()
        self.states, self.warmup, self.factor = states, warmup, factor

    def init_state(self) -> Any:
        return self.states

    def step(self, frame: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return frame.mean((2, 3)) * self.factor, *states


@pytest.mark.parametrize(
    ("states", "says"),
    [
        ({"h": torch.zeros(1, 0)}, "state 'h' is (1, 0); a state has 1 to 4 axes, none of them empty"),
        ({"h": torch.zeros(1, 1, 1, 1, 1)}, "state 'h' is (1, 1, 1, 1, 1); a state has"),
        ([torch.zeros(1, 2)], "init_state() gives no dict of named tensors but a list. Return"),
        ({"h": [0.0]}, "init_state() gives no dict of named tensors"),
        ({"h": torch.zeros(1, dtype=torch.float64)}, "state 'h' is float64; a state is float32, float16,"),
        ({"logits": torch.zeros(1, 3)}, "state 'logits' has the name of the input or of an answer"),
    ],
)
def test_states_that_no_host_can_keep_are_refused(states: Any, says: str) -> None:
    assert says in _refusal(stream_spec, Counts(states), FRAME)


@pytest.mark.parametrize("warmup", [-5, 0, 10**7, 2.5])
def test_a_warm_up_that_makes_no_sense_is_refused(warmup: Any) -> None:
    module = Counts({"h": torch.zeros(1)}, warmup)
    assert f"its warmup is {warmup}; give 1 to 4096 frames" in _refusal(stream_spec, module, FRAME)


class Forgets(Counts):
    """A step that returns no states."""

    def step(self, frame: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (frame.mean((2, 3)),)


def test_states_that_a_step_does_not_return_are_asked_for(tmp_path: Path) -> None:
    said = _refusal(lower, Forgets({"h": torch.zeros(1)}), FRAME, tmp_path / "m.onnx")
    assert "step returns the states none; init_state has float32 (1,). Return each" in said


class TellsMore(Counts):
    """A step with an answer that its spec does not name, as pv-graph's surprise in a spec of before it."""

    def step(self, frame: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (frame.mean((2, 3)), frame.mean().reshape(1, 1), *states)


def test_an_answer_that_the_spec_does_not_name_is_told_from_a_state(tmp_path: Path) -> None:
    said = _refusal(lower, TellsMore({"h": torch.zeros(1)}), FRAME, tmp_path / "m.onnx")
    assert "returns float32 (1, 1) before its states, and the spec has no such output" in said
    assert "add the rest as [[outputs]]" in said


def test_a_model_that_answers_nan_is_named_as_such(tmp_path: Path) -> None:
    module = Counts({"h": torch.zeros(1)}, 2, factor=float("nan"))
    said = _refusal(lower, module, FRAME, tmp_path / "m.onnx")
    assert "net: the original itself answers NaN or infinity. Check its weights" in said
    assert not any(tmp_path.iterdir())


class Chooses(torch.nn.Module):
    """Takes one of two ways, by the values of its frame."""

    def forward(self, frame: torch.Tensor) -> torch.Tensor:
        if frame.mean() > 0:
            return frame.mean((2, 3))
        return -frame.mean((2, 3))


def test_control_flow_that_depends_on_data_is_told_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = _refusal(lower, Chooses(), FRAME, tmp_path / "m.onnx")
    assert said.startswith(
        "torch.onnx cannot convert net: its control flow or a shape depends on data (test_to_o"
    )
    assert "if frame.mean() > 0:). Compute both ways and choose with torch.where" in said
    assert capfd.readouterr() == ("", "")
