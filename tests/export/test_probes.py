"""A model is asked whether it is what it seems: alike answers, nothing kept, inputs left alone, logits."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgepv.errors import UsageError
from edgepv.export import probes
from edgepv.export.from_onnx import read_onnx
from edgepv.runtimes import open_engine
from edgepv.types import ModelSpec, TensorSpec

SPEC = ModelSpec("net", TensorSpec("clip", (1, 3, 4, 8, 8), "NCTHW"), ("a", "b"), frames=4)
FRAME = ModelSpec("net", TensorSpec("frame", (1, 3, 8, 8)), ("a", "b"), frames=2)


ASKED = itertools.count(1)


class Net(nn.Module):
    """One convolution and a head; ``then`` is done with the features, ``last`` with the logits."""

    def __init__(self, then: Callable[[Any, Tensor], Any] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(3, 4, 3)
        self.norm = nn.BatchNorm3d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 2)
        self.then = then
        self.register_buffer("h", torch.zeros(1, 4))

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x))).mean((2, 3, 4))

    def forward(self, x: Tensor) -> Any:
        y = self.features(x)
        return self.head(y) if self.then is None else self.then(self, y)


def _asked(module: nn.Module, spec: ModelSpec = SPEC) -> probes.ProbeResult:
    return probes.probe(module.eval(), spec)


def _refused(module: nn.Module, spec: ModelSpec = SPEC) -> str:
    with pytest.raises(UsageError) as caught:
        _asked(module, spec)
    said = str(caught.value)
    assert said.startswith("net") and "\n" not in said
    return said


def _monte_carlo(net: Any, y: Tensor) -> Tensor:
    net.drop.train()
    return net.head(net.drop(y))


def test_a_plain_model_answers_logits() -> None:
    assert _asked(Net()) == probes.ProbeResult("logits", "")


@pytest.mark.parametrize(
    ("then", "says"),
    [
        (
            lambda net, y: net.head(F.dropout(y, 0.5)),
            "bernoulli_ draws at random after eval() too (test_probes",
        ),
        (_monte_carlo, "return net.head(net.drop(y))). Dropout takes the mode of the model"),
        (
            lambda net, y: net.head(y + 0.1 * torch.rand_like(y)),
            "Leave it out in eval mode: if self.training",
        ),
        (lambda net, y: net.head(y) * random.random(), "NumPy's generator draws at random"),
        (
            lambda net, y: net.head(y) * float(np.random.rand()),
            "NumPy's generator draws at random",
        ),
        (lambda net, y: net.head(y) * next(ASKED), "on no global variable, no file and no clock"),
    ],
)
def test_what_eval_does_not_switch_off_is_named_with_its_line(then: Any, says: str) -> None:
    said = _refused(Net(then))
    assert "the same input is answered twice differently" in said and says in said


def test_the_random_generators_of_the_process_go_on_as_if_nothing_had_been() -> None:
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    _asked(Net())
    torch.manual_seed(1)
    with pytest.raises(UsageError):
        _asked(Net(lambda net, y: net.head(F.dropout(y, 0.5))))
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), wanted)


class Frozen(Net):
    """Keeps a layer in training mode whatever eval() says."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.kept = layer

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        if hasattr(self, "kept"):
            self.get_submodule(self.kept).training = True
        return self


@pytest.mark.parametrize(
    ("layer", "says"),
    [("norm", "(BatchNorm3d) is in training mode after eval()"), ("drop", "(Dropout) is in training mode")],
)
def test_a_layer_that_eval_does_not_reach_is_named(layer: str, says: str) -> None:
    assert f"layer '{layer}' {says}" in _refused(Frozen(layer))


def _trains(net: Any, y: Tensor) -> Tensor:
    net.norm.train()
    return net.head(y)


def test_a_layer_that_forward_puts_into_training_mode_is_named() -> None:
    assert "layer 'norm' (BatchNorm3d) is in training mode after eval()" in _refused(Net(_trains))


class Careful(Net):
    def forward(self, x: Tensor) -> Tensor:
        assert x.min() >= 0 and x.max() <= 1, "pixels are in [0, 1]"
        return super().forward(x)


def test_the_noise_is_one_that_a_camera_could_see() -> None:
    assert _asked(Careful()).scores == "logits"


class Memory:
    past: Any = None


def _past(net: Any, y: Tensor) -> Tensor:
    before, net.past = getattr(net, "past", torch.zeros_like(y)), y
    return net.head(y + before)


def _buffer(net: Any, y: Tensor) -> Tensor:
    net.h = 0.5 * net.h + y
    return net.head(net.h)


def _in_place(net: Any, y: Tensor) -> Tensor:
    net.h.mul_(0.5).add_(y)
    return net.head(net.h)


def _counted(net: Any, y: Tensor) -> Tensor:
    net.calls = getattr(net, "calls", 0) + 1
    return net.head(y) / net.calls


def _listed(net: Any, y: Tensor) -> Tensor:
    net.seen = [*getattr(net, "seen", []), y]
    return net.head(torch.stack(net.seen).mean(0))


def _held(net: Any, y: Tensor) -> Tensor:
    net.memory = getattr(net, "memory", Memory())
    before, net.memory.past = net.memory.past, y
    return net.head(y if before is None else y + before)


@pytest.mark.parametrize(
    ("then", "what"),
    [
        (_past, "'past' (Net)"),
        (_buffer, "its buffer 'h'"),
        (_in_place, "its buffer 'h'"),
        (_counted, "'calls' (Net)"),
        (_listed, "'seen' (Net)"),
        (_held, "'memory' (Net)"),
    ],
)
def test_what_is_kept_between_calls_is_named_with_its_module(then: Any, what: str) -> None:
    inner = nn.Sequential(Net(then))
    said = _refused(inner)
    assert f"it keeps {what.replace(chr(39), chr(39) + '0.', 1)} between calls" in said
    assert "init_state() and step(frame, *states), see docs/spec.md" in said


def _cached(net: Any, y: Tensor) -> Tensor:
    net.last, net.calls = y, getattr(net, "calls", 0) + 1
    return net.head(y)


def test_what_is_kept_and_never_read_is_left_alone() -> None:
    assert _asked(Net(_cached)).scores == "logits"


class Steps(nn.Module):
    """A mean over two frames, whose past is a state, or an attribute."""

    warmup = 2

    def __init__(self, hidden: bool) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.hidden, self.past = hidden, torch.zeros(1, 3)

    def init_state(self) -> dict[str, Tensor]:
        return {"before": torch.zeros(1, 3)}

    def step(self, frame: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        now = frame.mean((2, 3))
        past, self.past = self.past if self.hidden else before, now.clone()
        return self.head(now + past), now


def test_a_step_is_asked_over_several_frames() -> None:
    assert _asked(Steps(hidden=False), FRAME).scores == "logits"
    assert "it keeps 'past' (Steps) between calls" in _refused(Steps(hidden=True), FRAME)


class InPlace(Net):
    def forward(self, x: Tensor) -> Tensor:
        x -= 0.5
        return self.head(self.features(x))


def test_a_model_that_changes_its_input_in_place_is_refused() -> None:
    assert "it changes its input in place: sub_ (test_probes.py:" in _refused(InPlace())


@pytest.mark.parametrize(
    ("then", "scores", "why"),
    [
        (lambda net, y: net.head(y).softmax(-1), "probabilities", "softmax at its end (test_probes.py:"),
        (lambda net, y: net.head(y)[..., None].softmax(1).squeeze(2), "probabilities", "softmax at its end"),
        (
            lambda net, y: (net.head(y).softmax(1) + net.head(2 * y).softmax(1)) / 2,
            "probabilities",
            "add up to 1",
        ),
        (lambda net, y: torch.sigmoid(net.head(y)), "probabilities", "sigmoid at its end"),
        (lambda net, y: net.head(y).log_softmax(-1), "logits", ""),
        (lambda net, y: net.head(torch.sigmoid(y)), "logits", ""),
        (lambda net, y: torch.full((1, 2), 0.5) + 0 * y[:, :2], "logits", ""),
    ],
)
def test_answers_that_are_probabilities_are_known(then: Any, scores: str, why: str) -> None:
    found = _asked(Net(then))
    assert found.scores == scores and why in found.why


def test_a_spec_that_calls_logits_probabilities_is_refused() -> None:
    from dataclasses import replace

    sure = replace(SPEC, scores="probabilities")
    net = Net(lambda net, y: 10 * net.head(y) - 5)
    assert "the spec says scores = 'probabilities', and noise is answered -" in _refused(net, sure)
    assert _asked(Net(lambda net, y: net.head(y).sigmoid() ** 2), sure).scores == "probabilities"


@pytest.mark.parametrize(
    ("end", "scores"),
    [
        ("Softmax", "probabilities"),
        ("Sigmoid", "probabilities"),
        ("LogSoftmax", "logits"),
        ("Identity", "logits"),
    ],
)
def test_an_onnx_file_is_asked_too(tmp_path: Path, end: str, scores: str) -> None:
    from onnx import TensorProto, helper, save

    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Slice", ["clip", "from", "to"], ["part"]),
        helper.make_node("Reshape", ["part", "shape"], ["row"]),
        helper.make_node(end, ["row"], ["last"], "end"),
        helper.make_node("Reshape", ["last", "shape"], ["logits"]),
    ]
    numbers = {"from": [0] * 5, "to": [1, 2, 1, 1, 1], "shape": [1, 2]}
    constants = [helper.make_tensor(n, TensorProto.INT64, [len(v)], v) for n, v in numbers.items()]
    ends = [info("clip", TensorProto.FLOAT, SPEC.input.shape)], [info("logits", TensorProto.FLOAT, (1, 2))]
    graph = helper.make_graph(nodes, "g", *ends, constants)
    save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9),
        tmp_path / "m.onnx",
    )
    base, _ = read_onnx(tmp_path / "m.onnx", SPEC, tmp_path / "read.onnx")
    found = probes.of_onnx(tmp_path / "read.onnx", base, open_engine(base, tmp_path).infer)
    assert found.scores == scores
    assert found.why == (f"{end.lower()} at its end (node 'end')" if scores != "logits" else "")


@dataclass
class Output:
    logits: Tensor


@pytest.mark.parametrize(
    ("then", "says"),
    [
        (
            lambda net, y: {"aux": y, "logits": net.head(y)},
            "answers dict of aux, logits; return the tensor alone",
        ),
        (lambda net, y: Output(net.head(y)), "answers Output; return the tensor alone: ....logits"),
        (lambda net, y: (net.head(y), None), "answers Tensor, NoneType; return a tensor or a tuple"),
        (lambda net, y: net.head(y)[0], "answers (2,); 2 labels need (1, 2). Keep the axis of the batch"),
        (
            lambda net, y: net.head(y).argmax(1),
            "in whole numbers, int64 (1,). Return the scores of all labels",
        ),
        (
            lambda net, y: net.head(y).expand(4, 2),
            "answers (4, 2); 2 labels need (1, 2). That is one row for each",
        ),
        (lambda net, y: net.head(y)[:, :1], "probability p of it torch.cat([1 - p, p], 1)"),
        (lambda net, y: net.head(y).double(), "in float64; answers are float32. Return .float() of it"),
        (
            lambda net, y: net.head(y) @ torch.zeros(3, 3),
            "raised RuntimeError on an input of shape (1, 3, 4, 8, 8) (t",
        ),
        (lambda net, y: net.head(y.cuda()), "Leave devices to the caller: no .cuda() and no device='cuda'"),
    ],
)
def test_answers_that_nothing_reads_are_named_with_a_cure(then: Any, says: str) -> None:
    assert says in _refused(Net(then))


def test_weights_of_another_kind_are_named() -> None:
    assert "Its weight 'conv.weight' is float64; let the builder return it in float32" in _refused(
        Net().double()
    )


class Eats(Net):
    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x.permute(self.order)))


@pytest.mark.parametrize(
    ("order", "says"),
    [
        (
            (0, 2, 1, 3, 4),
            "It takes (N, T, C, H, W), and is given (N, C, T, H, W): begin forward() with x = x.perm",
        ),
        ((0, 4, 1, 2, 3), "It takes (N, T, H, W, C), and is given (N, C, T, H, W)"),
    ],
)
def test_a_model_of_another_layout_is_told_which(order: tuple[int, ...], says: str) -> None:
    assert says in _refused(Eats(*order))


def test_what_a_model_prints_is_swallowed(capfd: pytest.CaptureFixture[str]) -> None:
    _asked(Net(lambda net, y: (print("hello"), net.head(y))[1]))
    assert capfd.readouterr() == ("", "")
