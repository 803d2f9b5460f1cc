"""What a stream is trained by is what the stream answers, frame for frame, and its gradients arrive."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from nets import Net  # noqa: E402
from torch import nn  # noqa: E402

from edgepv.errors import UsageError  # noqa: E402
from edgepv.stream import Stepper, convert  # noqa: E402
from edgepv.stream.rolled import Rolled  # noqa: E402
from edgepv.stream.verify import steps  # noqa: E402
from edgepv.types import ModelSpec, TensorSpec  # noqa: E402

SIZE = 4


def spec(frames: int) -> ModelSpec:
    shape = TensorSpec("clip", (1, 3, frames, SIZE, SIZE), "NCTHW")
    return ModelSpec("net", shape, ("a", "b", "c"), frames=frames)


def deep(*strides: int) -> Net:
    """Padded convolutions over time with these strides, batch norm, a mean, a head."""
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for i, stride in enumerate(strides):
        parts += [nn.Conv3d(4 if i else 3, 4, 3, (stride, 1, 1), 1), nn.BatchNorm3d(4), nn.ReLU()]
    return Net(lambda x, body, head: head(body(x).mean((2, 3, 4))), nn.Sequential(*parts), nn.Linear(4, 3))


@pytest.mark.parametrize("strides", [(1, 1, 1), (2, 1, 2, 1), (4, 1)])
def test_what_is_trained_answers_as_the_stream_does(strides: tuple[int, ...]) -> None:
    net = deep(*strides).eval()
    rolled, model = Rolled(net, spec(8)), convert(net, spec(8))
    length = rolled.frames(3)
    video = torch.randn(length, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    stepper = Stepper(steps(model), model.spec, model.stream)
    got = [stepper.step(frame[None].numpy())["logits"].flatten() for frame in video]
    begins = rolled.begins(length)
    assert len(begins) == 3 and begins[1] - begins[0] == rolled.stride == np.prod(strides)
    wanted = rolled.answers(video).detach().numpy()
    for begin, row in zip(begins, wanted):
        assert np.allclose(got[begin + 7 + model.stream.delay], row, atol=1e-5)


def test_no_answer_rests_on_the_end_of_the_video() -> None:
    net = deep(2, 1, 2, 1).eval()
    rolled = Rolled(net, spec(8))
    video = torch.randn(rolled.frames(1), 3, SIZE, SIZE)
    (begin,) = rolled.begins(len(video))
    longer = torch.cat([torch.randn(4, 3, SIZE, SIZE), video, torch.randn(4, 3, SIZE, SIZE)])
    at = rolled.begins(len(longer)).index(begin + 4)
    assert torch.allclose(rolled.answers(video)[0], rolled.answers(longer)[at], atol=1e-6)


def test_gradients_reach_every_weight() -> None:
    net = deep(2, 1).eval().requires_grad_(True)
    rolled = Rolled(net, spec(8))
    rolled.answers(torch.randn(rolled.frames(2), 3, SIZE, SIZE)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.parameters())


def test_a_stream_that_sees_no_more_than_its_window_is_not_tuned() -> None:
    net = Net(lambda x, conv, head: head(conv(x).mean((2, 3, 4))), nn.Conv3d(3, 4, 1), nn.Linear(4, 3)).eval()
    with pytest.raises(UsageError, match="its stream answers what its window does"):
        Rolled(net, spec(8))


def test_a_stream_that_is_approximate_is_not_tuned() -> None:
    net = Net(
        lambda x, conv, head: head((conv(x) * x.mean((2, 3, 4), keepdim=True)).mean((2, 3, 4))),
        nn.Conv3d(3, 3, 3, 1, 1),
        nn.Linear(3, 3),
    ).eval()
    with pytest.raises(UsageError, match="its stream is approximate, because"):
        Rolled(net, spec(8))
