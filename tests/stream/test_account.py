"""What a conversion is said to be: its layers, its cost, its class, and its picture of time."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from support import ROOT

torch = pytest.importorskip("torch")
from torch import Tensor, nn  # noqa: E402

from edgepv.stream import convert  # noqa: E402
from edgepv.stream.account import (  # noqa: E402
    StreamReport,
    StreamTable,
    exactness,
    keys,
    lines,
    of_step,
    of_streams,
    of_window,
    picture,
    savings,
    table_of,
)
from edgepv.types import ModelSpec, StateSpec, StreamProof, StreamSpec, TensorSpec, decode, encode  # noqa: E402

pytestmark = pytest.mark.slow


class Net(nn.Module):
    """A net spelled as one function of its layers and a clip."""

    def __init__(self, run: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.run = nn.ModuleList(layers), run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, *self.layers)


def tell(net: nn.Module, *, frames: int = 4, every: int = 1, size: int = 2) -> StreamTable:
    made = convert(net.eval(), spec(frames, size), every=every)
    return table_of(made.explanation, made.stream, spec(frames, size))


def spec(frames: int = 4, size: int = 2) -> ModelSpec:
    clip = TensorSpec("clip", (1, 3, frames, size, size), "NCTHW")
    return ModelSpec("net", clip, ("a", "b"), frames=frames)


def plain() -> Net:
    """A convolution over three frames that keeps their number, a mean, a linear layer."""
    conv = nn.Conv3d(3, 4, (3, 1, 1), padding=(1, 0, 0))
    return Net(lambda x, conv, head: head(conv(x).mean((2, 3, 4))), conv, nn.Linear(4, 2))


def strided() -> Net:
    """The same with every second frame left out."""
    conv = nn.Conv3d(3, 4, (3, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0))
    return Net(lambda x, conv, head: head(conv(x).mean((2, 3, 4))), conv, nn.Linear(4, 2))


def shifted(x: Tensor, first: nn.Module, head: nn.Module) -> Tensor:
    y = first(x[0].transpose(0, 1)).reshape(1, 4, 4, 2, 2)
    moved = torch.zeros_like(y)
    moved[:, 1:, :2] = y[:, :-1, :2]
    moved[:, :, 2:] = y[:, :, 2:]
    return head(moved.mean((1, 3, 4)))


def looped(x: Tensor, cnn: nn.Module, head: nn.Module) -> Tensor:
    frames = [cnn(x[:, :, t]).mean((2, 3)) for t in range(x.shape[2])]
    return head(torch.stack(frames, 1).mean(1))


def test_a_layer_is_charged_for_a_clip_and_for_a_frame() -> None:
    """Convolution: 4 x 2 x 2 values of 3 x 3 products for each of 4 frames; head: 4 x 2 products, once."""
    conv, mean, head = tell(plain()).layers
    assert (conv.gflops_clip, conv.gflops_frame) == (4 * 288e-9, 288e-9)
    assert (head.gflops_clip, head.gflops_frame) == (16e-9, 16e-9)
    assert (mean.gflops_clip, mean.gflops_frame) == (0, 0)


def test_looking_one_frame_ahead_is_a_delay_of_one_and_two_rows_held() -> None:
    conv, mean, head = tell(plain()).layers
    assert [(r.span, r.delay, r.rate) for r in (conv, mean, head)] == [(3, 1, 1), (6, 1, 1), (6, 1, 1)]
    assert (conv.rows, conv.held, conv.state_bytes) == ((0,), (1, 2), 2 * 3 * 4 * 4)
    assert (mean.held, head.held) == ((1, 2, 3), ())


def test_a_step_of_four_frames_computes_four_rows_and_holds_those_before() -> None:
    conv = tell(plain(), every=4).layers[0]
    assert (conv.rows, conv.held) == ((3, 2, 1, 0), (4, 5))


def test_a_strided_layer_runs_every_second_frame_or_for_both_phases() -> None:
    every_1, every_2 = (tell(strided(), every=n).layers[0] for n in (1, 2))
    assert every_1.rate == every_2.rate == 2
    assert every_1.gflops_frame == 2 * every_2.gflops_frame == 288e-9
    assert every_1.gflops_clip == 2 * 288e-9


def test_a_loop_over_frames_is_charged_for_all_of_them() -> None:
    one = tell(Net(looped, nn.Conv2d(3, 4, 1), nn.Linear(4, 2)))
    assert [r.gflops_clip for r in one.layers if r.operator == "conv2d"] == [4 * 96e-9]
    assert sum(r.gflops_clip for r in one.layers) == pytest.approx(one.gflops_clip)


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize(
    "net",
    [plain(), strided(), Net(looped, nn.Conv2d(3, 4, 1), nn.Linear(4, 2)),
     Net(shifted, nn.Conv2d(3, 4, 1), nn.Linear(4, 2))],
    ids=["plain", "strided", "looped", "shifted"],
)  # fmt: skip
def test_the_layers_add_up_to_the_totals(net: nn.Module, every: int) -> None:
    one = tell(net, every=every)
    assert sum(r.gflops_clip for r in one.layers) == pytest.approx(one.gflops_clip)
    assert sum(r.gflops_frame for r in one.layers) == pytest.approx(one.gflops_frame)
    assert [s for r in one.layers for s in r.states] == [s.name for s in one.stream.states]
    assert sum(r.state_bytes for r in one.layers) == one.state_bytes == one.stream.state_bytes
    assert len(set(keys(one.layers))) == len(one.layers)


def test_a_result_every_frame_saves_the_clip_length_less_what_was_done_once() -> None:
    """4 x 288 + 16 operations against 288 + 16."""
    first, *_, last = savings([tell(plain())])
    assert (first.every, first.ideal) == (1, 4) and first.times == pytest.approx(1168 / 304)
    assert (last.every, last.ideal) == (4, 1)
    assert last.times == pytest.approx(1168 / 4 / 304)  # clips end to end: nothing is saved


def test_a_stride_costs_the_result_every_frame_half_its_saving() -> None:
    """A clip has two positions, 2 x 288 + 16; a stream computes one a frame, or one in two frames."""
    found = savings([tell(strided(), every=n) for n in (1, 2)])
    assert [s.every for s in found] == [1, 2, 4]
    assert [s.times for s in found] == pytest.approx([592 / 304, 296 / 152, 148 / 152])
    assert [s.ideal for s in found] == [4, 2, 1]
    assert found[0].state_bytes != found[1].state_bytes == found[2].state_bytes


def test_only_results_that_a_stream_gives_are_priced() -> None:
    assert [s.every for s in savings([tell(strided(), frames=6, every=4)])] == [4]
    assert [s.every for s in savings([tell(plain(), frames=5)])] == [1, 5]


def test_a_pool_as_long_as_the_clip_is_not_told_as_a_stride_and_fits_any_step() -> None:
    layers = nn.Conv3d(3, 4, (3, 1, 1), padding=(1, 0, 0)), nn.AvgPool3d((4, 2, 2)), nn.Linear(4, 2)
    net = Net(lambda x, conv, pool, head: head(pool(conv(x)).flatten(1)), *layers)
    assert [tell(net, every=n).stride for n in (1, 3, 4)] == [1, 1, 1]
    assert [s.every for s in savings([tell(net)])] == [1, 2, 4]


STREAM = StreamSpec((), warmup=6, receptive_field=6)
SHOWN = StreamProof(clip=1e-7, tolerance=1.6e-6, floor=2e-7, video=3e-7, frames=200)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"exactness": "exact", "proof": SHOWN}, "exact"),
        ({"exactness": "exact", "edges": ("lstm",), "proof": SHOWN}, "exact, away from the ends of the clip"),
        ({"exactness": "delayed", "delay": 1, "proof": SHOWN}, "exact after a delay of 1 frame (0.1 s)"),
        (
            {"exactness": "delayed", "delay": 5, "edges": ("stem",), "proof": SHOWN},
            "exact after a delay of 5 frames (0.5 s), away from the ends of the clip",
        ),
        ({"exactness": "exact"}, "by construction"),
        ({"exactness": "exact", "proof": replace(SHOWN, video=None)}, "by construction"),
        (
            {"exactness": "delayed", "delay": 1, "edges": ("stem",)},
            "by construction, after a delay of 1 frame (0.1 s), away from the ends of the clip",
        ),
        (
            {"exactness": "approximate", "because": ("aten.mul (net.py:3): joins",)},
            "approximate, because of aten.mul (net.py:3): joins",
        ),
        (
            {"exactness": "approximate", "because": ("a", "b"), "delay": 2},
            "approximate, because of a; and of b; after a delay of 2 frames (0.2 s)",
        ),
    ],
)
def test_the_class_is_said_in_words(change: dict[str, object], says: str) -> None:
    assert exactness(replace(STREAM, **change), Fraction(10)) == says  # type: ignore[arg-type]


def test_a_stream_of_an_older_bundle_is_what_it_is_by_construction() -> None:
    old = {key: value for key, value in encode(replace(STREAM, exactness="exact")).items() if key != "proof"}
    assert exactness(decode(StreamSpec, old), None) == "by construction"
    new = replace(STREAM, exactness="exact", proof=SHOWN)
    assert decode(StreamSpec, encode(new)).proof == SHOWN


def account(net: nn.Module, *every: int) -> StreamReport:
    return of_streams([tell(net, every=n) for n in every], spec(), None)


@pytest.mark.parametrize(
    ("proof", "words"),
    [
        (SHOWN, "on a video of 200 frames its answers differ from the untouched clip model's by 3e-07"),
        (SHOWN, "allowed 2e-06 (the clip model's own rounding: 2e-07)"),
        (
            replace(SHOWN, video=None, why="it does not take a longer video"),
            "it does not take a longer video",
        ),
        (replace(SHOWN, floor=None), "the clip model does not run in float64"),
        (None, "not compared"),
    ],
)
def test_what_was_compared_is_said_and_what_was_allowed(proof: StreamProof | None, words: str) -> None:
    one = tell(plain())
    assert (
        words
        in of_streams([replace(one, stream=replace(one.stream, proof=proof))], spec(), None).says["proof"]
    )


def test_padding_that_a_stream_does_not_see_is_named() -> None:
    says = account(plain(), 1).says
    assert says["class"] == "by construction, after a delay of 1 frame, away from the ends of the clip"
    assert "(layers.0 (test_account.py:" in says["edges"] and "compare their accuracy" in says["edges"]
    causal = Net(lambda x, conv: conv(x).mean((3, 4))[:, :, -1], nn.Conv3d(3, 2, (2, 1, 1)))
    assert "edges" not in account(causal, 1).says
    assert account(causal, 1).says["class"] == "by construction"


def test_the_warm_up_and_where_the_saving_ends_are_said() -> None:
    says = account(plain(), 1).says
    assert "rests on 6 frames" in says["memory"] and "not valid before 6 frames" in says["memory"]
    assert says["saving"].startswith("where one result in 4 frames is enough, the clip model costs no more")
    assert (
        "serve 2 interleaved clips, so it saves 1.9 and not 4 times"
        in account(strided(), 1, 2).says["saving"]
    )


def test_a_recurrent_net_has_no_receptive_field() -> None:
    lstm = Net(
        lambda x, lstm: lstm(x.mean((3, 4)).transpose(1, 2))[0][:, -1], nn.LSTM(3, 2, batch_first=True)
    )
    one = tell(lstm)
    assert one.layers[-1].span is None
    assert "every frame since the last reset" in of_streams([one], spec(), None).says["memory"]


def test_a_model_that_computes_nothing_is_told_too() -> None:
    """Its picture has one line, the frames that come in."""
    one = tell(Net(lambda x: x.mean((3, 4))[:, :, -1]))
    assert one.layers == () and [line.name for line in lines(one)] == ["new frames"]
    assert of_streams([one], spec(), None).says["saving"] == "no convolution or matrix product to save"


def test_a_model_that_steps_says_what_the_host_keeps() -> None:
    stream = StreamSpec((StateSpec("s", "s_next", (1, 256)),), warmup=4)
    says = of_step(spec(), stream, 0.5, Fraction(10)).says
    assert (
        says["states"] == "the host keeps 1 state, 1.0 KB" and says["cost"] == "0.500 GFLOPs for a new frame"
    )
    assert says["memory"].startswith("answers are not valid before 4 frames (0.4 s)")


def test_a_window_computes_every_frame_as_often_as_results_overlap() -> None:
    found = of_window(spec(16), "aten.flip (net.py:3) turns time around", "do not", 8.0)
    assert [(s.every, s.clip, s.ideal, s.stream) for s in found.savings] == [
        (1, 8.0, 16, None), (8, 1.0, 2, None), (16, 0.5, 1, None),
    ]  # fmt: skip
    assert found.says["why"] == "aten.flip (net.py:3) turns time around"
    assert found.says["cure"] == "to stream it, do not"


def test_the_picture_has_a_line_where_the_span_grows_and_one_for_the_answer() -> None:
    """The convolution sees 3 frames, the mean 6; the head sees no more, but it is the answer."""
    names = [(line.name, line.held, line.text[:2]) for line in lines(tell(plain()))]
    assert names == [
        ("new frames", (), ("1", "1")),
        ("layers.0", (1, 2), ("3", "1")),
        ("mean", (1, 2, 3), ("6", "1")),
        ("layers.1 = the answer", (), ("6", "1")),
    ]


def test_layers_of_one_span_share_a_line() -> None:
    convs = [nn.Conv3d(3, 3, (1, 1, 1)) for _ in range(60)]
    deep = Net(lambda x, *layers: nn.Sequential(*layers)(x).mean((2, 3, 4)), *convs)
    assert [line.name for line in lines(tell(deep))] == [
        "new frames",
        "layers.0 and 59 more",
        "mean = the answer",
    ]


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_a_picture_is_drawn_the_same_every_time(tmp_path: Path, suffix: str, magic: bytes) -> None:
    paths = [tmp_path / f"{i}{suffix}" for i in range(2)]
    for path in paths:
        picture(account(strided(), 1), path)
    one, other = (path.read_bytes() for path in paths)
    assert one.startswith(magic) and one == other
    assert sorted(tmp_path.iterdir()) == paths


def test_a_picture_says_the_delay_the_clip_and_every_line(tmp_path: Path) -> None:
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none"}):
        picture(account(plain(), 1), tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    for words in ("delay 1", "receptive field 6, warm-up 6", "belongs to, 4 frames", "layers.1 = the answer"):
        assert f"{words}<" in text, words


PAGE = ROOT / "docs" / "stream.md"


@pytest.mark.slow
@pytest.mark.parametrize("block", re.findall(r"```text\n(edgepv stream .*?)```", PAGE.read_text(), re.DOTALL))
def test_the_page_shows_what_the_command_prints(
    block: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line numbers of sources may move; every figure must be the command's."""
    from edgepv.cli.app import main
    from edgepv.stream import verify

    monkeypatch.setattr(verify, "VIDEO", 0)  # as few frames as will do
    monkeypatch.chdir(ROOT)
    command, _, shown = block.partition("\n")
    assert main(command.split()[1:]) == 0
    printed = re.sub(r"\.py:\d+", ".py", capsys.readouterr().out)
    for line in re.sub(r"\.py:\d+", ".py", shown).splitlines():
        assert line.strip() == "..." or line in printed.splitlines(), line


def test_the_page_names_reasons_that_exist() -> None:
    """Every reason in the page's table of refusals is one the converter gives."""
    source = " ".join(path.read_text() for path in (ROOT / "edgepv" / "stream").rglob("*.py"))
    reasons = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert len(reasons) > 4
    for reason in reasons:
        assert reason in source, reason
