"""What cannot be streamed is refused by the operator's name, its source line and a cure."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from edgepv.errors import UsageError  # noqa: E402
from edgepv.stream import NotStreamableError, convert, flatten  # noqa: E402
from edgepv.types import ModelSpec, TensorSpec  # noqa: E402


class Net(nn.Module):
    """A net spelled as one function of its layers and a clip."""

    def __init__(self, run: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.run = nn.ModuleList(layers), run

    def forward(self, x: Tensor) -> Any:
        return self.run(x, *self.layers)


LINE = inspect.getsourcelines(Net.forward)[1] + 1
HERE = f"test_refusals.py:{LINE}"


def spec(frames: int = 8) -> ModelSpec:
    return ModelSpec(
        "net", TensorSpec("clip", (1, 3, frames, 16, 16), "NCTHW"), ("a", "b", "c"), frames=frames
    )


def pooled(x: Tensor) -> Tensor:
    """(1, T, 3)."""
    return x.mean((3, 4)).transpose(1, 2)


def top(x: Tensor) -> Tensor:
    """(1, 3), the largest value of each channel."""
    return x.amax((2, 3, 4))


def attend(x: Tensor, **how: Any) -> Tensor:
    """Attention of the frames' colours over time, (1, 3)."""
    tokens = pooled(x)[:, None]
    return F.scaled_dot_product_attention(tokens, tokens, tokens, **how).mean((1, 2))


@dataclass(frozen=True)
class Refusal:
    """run: a net. why, cure: what the message must say. flat: whether it can be flattened all the same."""

    name: str
    run: Callable[..., Any]
    layers: tuple[Callable[[], nn.Module], ...]
    operator: str
    why: str
    cure: str
    flat: bool = False


REFUSALS = (
    Refusal(
        "positional embedding over time",
        lambda x, m: (pooled(x) + m.weight).mean(1),
        (lambda: nn.Embedding(8, 3),),
        "aten.add",
        "another constant for every position in the clip (a positional embedding)",
        "make it relative to the newest frame",
        flat=True,
    ),
    Refusal(
        "another weight for every frame",
        lambda x: (pooled(x) * torch.arange(8.0)[:, None]).sum(1),
        (),
        "aten.mul",
        "another constant for every position",
        "make it relative to the newest frame",
        flat=True,
    ),
    Refusal(
        "bidirectional LSTM",
        lambda x, m: m(pooled(x))[0].mean(1),
        (lambda: nn.LSTM(3, 2, batch_first=True, bidirectional=True),),
        "aten.lstm",
        "reads the clip backwards as well (bidirectional)",
        "use a forward one",
    ),
    Refusal(
        "LSTM with a projection",
        lambda x, m: m(pooled(x))[0].mean(1),
        (lambda: nn.LSTM(3, 4, batch_first=True, proj_size=3),),
        "aten.lstm",
        "has a projection (proj_size)",
        "write this line",
    ),
    Refusal(
        "recurrence from a learned start",
        lambda x, m, h: m(pooled(x), h.weight.view(1, 1, 3))[0].mean(1),
        (lambda: nn.GRU(3, 3, batch_first=True), lambda: nn.Embedding(1, 3)),
        "aten.gru",
        "starts its recurrence from something else than zeros",
        "start from zeros",
    ),
    Refusal(
        "a loop that leaves out frames",
        lambda x, m: loop(m, pooled(x), (0, 1, 3, 4)),
        (lambda: nn.GRUCell(3, 3),),
        "aten.gru_cell",
        "leaves out frames",
        "write this line",
        flat=True,
    ),
    Refusal(
        "a loop from the end",
        lambda x, m: loop(m, pooled(x), range(7, -1, -1)),
        (lambda: nn.GRUCell(3, 3),),
        "aten.gru_cell",
        "leaves out frames",
        "write this line",
        flat=True,
    ),
    Refusal(
        "attention over all frames",
        attend,
        (),
        "aten.scaled_dot_product_attention",
        "lets every frame of the clip see every other one",
        "use a causal mask",
        flat=True,
    ),
    Refusal(
        "attention with a mask that is no band",
        lambda x: attend(x, attn_mask=torch.eye(8).bool() | (torch.arange(8) == 0)),
        (),
        "aten.scaled_dot_product_attention",
        "a mask that is not a band",
        "write this line",
        flat=True,
    ),
    Refusal(
        "attention that weighs by place",
        lambda x: attend(x, attn_mask=torch.arange(8.0).expand(8, 8)),
        (),
        "aten.scaled_dot_product_attention",
        "weighs frames by their place in the clip",
        "write this line",
        flat=True,
    ),
    Refusal(
        "attention over time with two products",
        lambda x: (torch.softmax(pooled(x) @ pooled(x).transpose(1, 2), -1) @ pooled(x)).mean(1),
        (),
        "aten.matmul",
        "multiplies frames with frames",
        "torch.nn.functional.scaled_dot_product_attention and a causal mask",
    ),
    Refusal(
        "joint space-time attention",
        lambda x: attend(F.avg_pool3d(x, (1, 4, 4)).flatten(2)[..., None, None]),
        (),
        "aten.scaled_dot_product_attention",
        "joint space-time attention",
        "divide it",
    ),
    Refusal(
        "flip over time",
        lambda x: top(x.flip(2) - x),
        (),
        "aten.flip",
        "runs the clip backwards, so the first answer needs the last frame",
        "leave out what reads the clip from its end",
    ),
    Refusal(
        "roll over time",
        lambda x: top(x.roll(1, 2) - x),
        (),
        "aten.roll",
        "puts frames of different origin one after the other",
        "shift with zeros or older frames",
        flat=True,
    ),
    Refusal(
        "group norm over time",
        lambda x, m: top(m(x)),
        (lambda: nn.GroupNorm(1, 3),),
        "aten.group_norm",
        "normalises over all frames of the clip",
        "normalise every frame by itself",
    ),
    Refusal(
        "layer norm over time",
        lambda x, m: top(m(x)),
        (lambda: nn.LayerNorm([8, 16, 16]),),
        "aten.layer_norm",
        "normalises over all frames of the clip",
        "normalise every frame by itself",
    ),
    Refusal(
        "instance norm over time",
        lambda x, m: top(m(x)),
        (lambda: nn.InstanceNorm3d(3),),
        "aten.instance_norm",
        "normalises over all frames of the clip",
        "normalise every frame by itself",
    ),
    Refusal(
        "softmax over time",
        lambda x: top(x.softmax(2)),
        (),
        "aten.softmax",
        "works across the frames of the clip",
        "let it work inside each frame",
    ),
    Refusal(
        "batch norm without running statistics",
        lambda x, m: top(m(x)),
        (lambda: nn.BatchNorm3d(3, track_running_stats=False),),
        "aten._native_batch_norm_legit",
        "normalises with the statistics of each clip (batch norm in training mode)",
        "train with track_running_stats=True, then call eval()",
    ),
    Refusal(
        "batch norm left in training mode",
        lambda x, m: top(m.train()(x)),
        (lambda: nn.BatchNorm3d(3),),
        "aten._native_batch_norm_legit_functional",
        "normalises with the statistics of each clip (batch norm in training mode)",
        "call eval()",
    ),
    Refusal(
        "dropout that never ends",
        lambda x: top(F.dropout(x, training=True)),
        (),
        "aten.native_dropout",
        "has no rule",
        "write this line",
    ),
    Refusal(
        "state hidden in a buffer",
        lambda x, m: m.running_mean.mul_(0.9).add_(pooled(x).mean((0, 1))) + top(x),
        (lambda: nn.BatchNorm3d(3),),
        "aten.add",
        "keeps state in its buffer 'layers.0.running_mean' and changes it in forward()",
        "init_state() and step(frame, *states)",
    ),
    Refusal(
        "upsampling in time",
        lambda x: top(F.interpolate(x, scale_factor=(2, 1, 1))),
        (),
        "aten.upsample_nearest3d",
        "makes new frames in between",
        "enlarge in space only",
        flat=True,
    ),
    Refusal(
        "transposed convolution in time",
        lambda x, m: top(m(x)),
        (lambda: nn.ConvTranspose3d(3, 3, 2, 2),),
        "aten.conv_transpose3d",
        "makes new frames in between",
        "enlarge in space only",
    ),
    Refusal(
        "time split in two dimensions",
        lambda x: x.reshape(1, 3, 4, 2, 256).mean((3, 4)).amax(2),
        (),
        "aten.view",
        "splits the time axis (windows of frames inside the clip)",
        "keep the frames of a clip in one dimension",
    ),
    Refusal(
        "frames that are not evenly spaced",
        lambda x: top(x.index_select(2, torch.linspace(0, 7, 4).long())),
        (),
        "aten.index_select",
        "picks frames that are not evenly spaced: 0, 2, 4, 7",
        "take every 2nd frame, x[:, :, ::2], here 0, 2, 4, 6",
        flat=True,
    ),
    Refusal(
        "frames picked by a list with one twice",
        lambda x: top(x[:, :, torch.tensor([0, 0, 1, 2])]),
        (),
        "aten.index",
        "picks frames that are not evenly spaced: 0, 0, 1, 2",
        "take each frame once, in their order",
        flat=True,
    ),
    Refusal(
        "a sum of all frames so far",
        lambda x: top(x.cumsum(2)),
        (),
        "aten.amax",
        "adds up all frames so far (a cumulative sum), which grows without end in a stream",
        "divide it at once by their number: torch.cumsum(x, dim) / torch.arange(1, T + 1)",
        flat=True,
    ),
    Refusal(
        "a sum of all frames that is the answer",
        lambda x: x.mean((3, 4)).cumsum(2),
        (),
        "aten.cumsum",
        "adds up all frames so far (a cumulative sum), which grows without end in a stream",
        "divide it at once by their number",
        flat=True,
    ),
    Refusal(
        "a sum of all frames divided by something else than their number",
        lambda x: top(x.cumsum(2) / torch.arange(2.0, 10.0).view(8, 1, 1)),
        (),
        "aten.div",
        "adds up all frames so far",
        "divide it at once by their number",
        flat=True,
    ),
    Refusal(
        "a product of all frames so far",
        lambda x: top(x.cumprod(2)),
        (),
        "aten.cumprod",
        "in a number that grows or vanishes in a stream",
        "use a cumulative mean",
    ),
    Refusal(
        "a class token before the frames",
        lambda x, m: torch.cat([m.weight[None].type_as(x), pooled(x)], 1).amax(1),
        (lambda: nn.Embedding(1, 3),),
        "aten.cat",
        "puts something learned beside the frames of the clip (a class token)",
        "read the answer off the frames' own tokens",
        flat=True,
    ),
    Refusal(
        "a class token before tokens of frames",
        lambda x, m: torch.cat([m.weight[None], F.avg_pool3d(x, (1, 8, 8)).flatten(2).mT], 1).amax(1),
        (lambda: nn.Embedding(1, 3),),
        "aten.cat",
        "puts something learned beside the frames of the clip (a class token)",
        "read the answer off the frames' own tokens",
    ),
    Refusal(
        "channels cut in the middle of a frame",
        lambda x: x.transpose(1, 2).flatten(1, 2)[:, 2:5].amax((2, 3)),
        (),
        "aten.slice",
        "cuts a dimension that holds frames and something else, not between two frames",
        "cut whole frames",
    ),
    Refusal(
        "a kernel made of the clip",
        lambda x: F.conv2d(x[:, :, 0], pooled(x).mean(1).reshape(1, 3, 1, 1).expand(3, 3, 1, 1)).amax((2, 3)),
        (),
        "aten.conv2d",
        "convolves with weights that are made from the video",
        "give it weights that stay the same",
    ),
    Refusal(
        "answers for all frames in one dimension",
        lambda x: x.mean((3, 4)).flatten(1),
        (),
        "aten.view",
        "answers for all frames of the clip in one dimension",
        "answer once for the clip",
        flat=True,
    ),
    Refusal(
        "two rates added",
        lambda x: top(x[:, :, ::2] + x[:, :, :4]),
        (),
        "aten.add",
        "joins values that advance at different rates, 1 and 2 frames at a time",
        "let both advance alike: strides and slices x[:, :, ::k] of the same k",
        flat=True,
    ),
    Refusal(
        "windows of different length",
        lambda x: top(F.adaptive_avg_pool3d(x, (3, 1, 1))),
        (),
        "aten.adaptive_avg_pool3d",
        "pools 8 frames to 3, windows of different length",
        "pool to one",
    ),
    Refusal(
        "padding that repeats frames",
        lambda x: top(F.pad(x, (0, 0, 0, 0, 1, 1), "replicate")),
        (),
        "aten.pad",
        "pads time with something else than a constant",
        "pad with zeros",
    ),
    Refusal(
        "a shape that depends on the video",
        lambda x: x[x > 0][:3][None],
        (),
        "aten.index",
        "makes a tensor whose shape depends on what the video shows",
        "torch.where",
    ),
    Refusal(
        "an operator nobody wrote a rule for",
        lambda x: torch.fft.rfft(x, dim=2).abs().amax((2, 3, 4)),
        (),
        "aten.fft_rfft",
        "has no rule that keeps it exact frame by frame",
        "write this line with operators that work frame by frame",
    ),
)


def loop(cell: nn.Module, x: Tensor, order: Any) -> Tensor:
    h = torch.zeros(1, 3)
    for t in order:
        h = cell(x[:, t], h)
    return h


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.name)
def test_a_refusal_names_the_operator_the_line_and_the_cure(case: Refusal) -> None:
    net = Net(case.run, *(make() for make in case.layers)).eval()
    with pytest.raises(NotStreamableError) as refused:
        convert(net, spec())
    pattern = re.escape(f"net: {case.operator} ({HERE}) ") + ".*" + re.escape(case.why) + ".*"
    assert re.fullmatch(
        pattern + re.escape(". To stream it, ") + ".*" + re.escape(case.cure) + ".*", str(refused.value)
    )
    if case.flat:
        clip = torch.randn(spec().input.shape)
        assert float((flatten(net, spec())(clip) - net(clip)).detach().abs().max()) <= 1e-5
    else:
        with pytest.raises(NotStreamableError, match=re.escape(case.operator)):
            flatten(net, spec())


def refusal(net: nn.Module) -> str:
    """What both rewrites say against a net."""
    said = []
    for rewrite in (convert, flatten):
        with pytest.raises(NotStreamableError) as refused:
            rewrite(net, spec())
        said.append(str(refused.value))
    assert said[0] == said[1]
    return said[0]


def branch(x: Tensor) -> Tensor:
    return top(x) if x.mean() > 0 else -top(x)


def count(x: Tensor) -> Tensor:
    return top(x[:, :, : int(x.abs().sum())])


@pytest.mark.parametrize("run", [branch, count])
def test_data_dependent_control_flow_is_refused_with_its_line(run: Callable[..., Tensor]) -> None:
    line = inspect.getsourcelines(run)[1] + 1
    why = f"decides by the content of its tensors (data-dependent control flow) (test_refusals.py:{line})"
    cure = "use torch.where instead of if, and a fixed number of rounds in loops"
    assert refusal(Net(run).eval()) == f"net: {why}. To stream it, {cure}"


def test_training_mode_is_refused() -> None:
    net = nn.Sequential(nn.Conv3d(3, 3, 3), nn.BatchNorm3d(3)).train()
    assert refusal(net) == "net: is in training mode. To stream it, call eval() first"


def test_a_layer_stands_for_a_line_that_is_not_the_models_own() -> None:
    net = nn.Sequential(nn.Conv3d(3, 3, 3), nn.BatchNorm3d(3, track_running_stats=False)).eval()
    assert refusal(net).startswith("net: aten._native_batch_norm_legit (1) normalises with the statistics")


def test_two_inputs_are_refused_by_their_names() -> None:
    class Two(nn.Module):
        def forward(self, video: Tensor, sound: Tensor) -> Tensor:
            return top(video) + sound

    said = refusal(Two().eval())
    assert said.startswith("net: has several inputs or outputs (inputs: video, sound). To stream it, wrap it")


def test_two_outputs_are_refused() -> None:
    net = Net(lambda x: (top(x), pooled(x))).eval()
    said = refusal(net)
    assert said.startswith("net: has several inputs or outputs (outputs: 2). To stream it, wrap it")


def test_a_net_that_does_not_look_is_refused() -> None:
    net = Net(lambda x: torch.ones(1, 3)).eval()
    assert refusal(net) == (
        "net: answers the same whatever the video shows. To stream it, let forward() use its input"
    )


def test_an_error_of_the_nets_own_is_passed_on_with_its_line() -> None:
    net = Net(lambda x, m: m(x.flatten(1)), nn.Linear(5, 3)).eval()
    said = refusal(net)
    assert (
        said.startswith("net: cannot be captured by torch.export (test_refusals.py:")
        and "RuntimeError" in said
    )


def test_packed_sequences_are_refused_by_their_name() -> None:
    def run(x: Tensor, rnn: nn.Module) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(pooled(x), torch.tensor([8]), batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(rnn(packed)[0], batch_first=True)[0][:, -1]

    said = refusal(Net(run, nn.GRU(3, 3, batch_first=True)).eval())
    assert said.startswith("net: packs sequences by their lengths (pack_padded_sequence) (test_refusals.py:")
    assert "give the recurrent layer the frames as they are" in said


@pytest.mark.parametrize(
    ("every", "fits"), [(1, True), (2, True), (4, True), (8, True), (3, False), (6, False)]
)
def test_a_step_must_fit_the_strides(every: int, fits: bool) -> None:
    net = nn.Sequential(nn.Conv3d(3, 3, 1, 2), nn.Conv3d(3, 3, 1, 2), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    if fits:
        assert convert(net.eval(), spec(), every=every).stream.chunk == every
        return
    with pytest.raises(
        UsageError, match=rf"a step of {every} frames does not fit layers that advance .* Use --every 1"
    ):
        convert(net.eval(), spec(), every=every)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "--every 0: give a number of frames above 0"),
        ({"pool": "mean"}, "unknown pool 'mean'. Known: window, running, ema"),
    ],
)
def test_options_that_make_no_sense_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        convert(Net(top).eval(), spec(), **options)


def test_sizes_left_open_are_refused() -> None:
    free = ModelSpec("net", TensorSpec("clip", (1, 3, 8, -1, -1), "NCTHW"), ("a", "b", "c"), frames=8)
    for rewrite in (convert, flatten):
        with pytest.raises(UsageError, match="leaves sizes open. Give every size"):
            rewrite(Net(top).eval(), free)


def test_a_model_of_single_frames_needs_no_conversion() -> None:
    single = ModelSpec("net", TensorSpec("frame", (1, 3, 16, 16)), ("a", "b", "c"))
    with pytest.raises(UsageError, match="eats single frames already"):
        convert(Net(top).eval(), single)
