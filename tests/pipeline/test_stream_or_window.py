"""A stream that loses the accuracy of its sliding window gives way to it, however fast it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support import SPEC

from edgepv.base.console import Console
from edgepv.errors import UsageError
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.options import Options, check_options
from edgepv.pipeline.pack import pack
from edgepv.pipeline.prepare import PreparedModel, prepare
from edgepv.pipeline.source import gather, load
from edgepv.targets import target

pytestmark = pytest.mark.slow

NET = """
import torch
from torch import nn

class Padded(nn.Module):
    '''Tells bright from dark by six means over time, which padding darkens to 44 % in a clip of 4 frames.'''

    def __init__(self):
        super().__init__()
        self.means = nn.Sequential(*(nn.Conv3d(3, 3, (3, 1, 1), 1, (1, 0, 0), groups=3) for _ in range(6)))
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.means(x).mean((2, 3, 4)))

def build():
    return Padded()
"""
DARK, BRIGHT, BORDER = 64, 180, 0.2


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Options:
    """A net that is right about its clips, and as a stream calls all of them bright."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("padded")
    (folder / "net.py").write_text(NET)
    spec = SPEC.format(name="padded", shape=[1, 3, 4, 32, 32], layout="NCTHW")
    spec = spec.replace("0.45, 0.45, 0.45", "0, 0, 0").replace("0.225, 0.225, 0.225", "1, 1, 1")
    (folder / "spec.toml").write_text(spec.replace('"fight", "no_fight"', '"bright", "dark"'))
    state = {f"means.{i}.weight": torch.full((3, 1, 3, 1, 1), 1 / 3) for i in range(6)}
    state |= {f"means.{i}.bias": torch.zeros(3) for i in range(6)}
    state["head.weight"] = torch.tensor([[20 / 3] * 3, [0.0] * 3])
    state["head.bias"] = torch.tensor([-20 * BORDER, 0.0])
    save_file(state, folder / "w.safetensors")
    model, weights, spec_file = f"{folder / 'net.py'}:build", folder / "w.safetensors", folder / "spec.toml"
    return Options(model, weights=str(weights), spec=str(spec_file), precision="fp32")


@pytest.fixture
def clips(tmp_path: Path, write_video: Callable[..., Path]) -> str:
    """Twenty clips of 6 frames: 8 to train on, 12 held out."""
    for n in range(20):
        grey = BRIGHT if n % 2 else DARK
        place = tmp_path / "clips" / ("train" if n < 8 else "test") / ("bright" if n % 2 else "dark")
        place.mkdir(parents=True, exist_ok=True)
        shutil.move(write_video(f"{n}.mp4", [grey + n] * 6), place)
    return str(tmp_path / "clips")


def _prepared(options: Options) -> PreparedModel:
    source = load(options)
    return prepare(RunContext(options, Console(quiet=True)), source, gather(options, source.spec))


def test_a_stream_that_loses_too_much_stays_a_window_and_both_are_told(
    padded: Options, clips: str, tmp_path: Path
) -> None:
    options = replace(padded, clips=clips)
    prepared = _prepared(options)
    (row,) = prepared.beside
    assert prepared.lowered.base.form == "window" and prepared.lowered.base.stream is None
    assert row.variant == "torch-stream" and row.drop and row.drop.points == 50
    right = [r.accuracy and r.accuracy.value for r in (prepared.rows[0], row)]
    assert right == [1, 0.5]
    told = "\n".join(prepared.notes)
    assert "padded stays a window" in told and "as a stream it loses 50.0 points against it" in told
    assert "a stream of padded sees 16 frames of field where its clips had 4" in told
    out = tmp_path / "b"
    out.mkdir()
    exported = pack(RunContext(options, Console(quiet=True)), prepared, target("cpu"), out)
    rows = {r.variant: r for r in exported.report.rows}
    assert rows["torch-stream"].drop == row.drop and exported.chosen.form == "window"
    assert exported.chosen.drop and exported.chosen.drop.points == 0


def test_a_stream_that_may_lose_so_much_stays_one_with_a_warning(padded: Options, clips: str) -> None:
    prepared = _prepared(replace(padded, clips=clips, max_drop=60, gate=True))
    assert prepared.lowered.base.form == "step" and prepared.beside == ()
    assert any("tune it with --stream-tune N, or use --stream window" in note for note in prepared.notes)


def test_a_window_has_the_weights_it_was_trained_with_not_those_tuned_to_stream(
    padded: Options, clips: str
) -> None:
    options = replace(padded, clips=clips, steps={"stream_tune": 1})
    prepared = _prepared(options)
    (row,) = prepared.beside
    assert row.variant == "torch-streamtuned-stream" and row.status == "tuned to stream and made to step"
    checkpoint = prepared.lowered.checkpoint
    assert checkpoint and checkpoint.sha256 == load(options).sha256
    assert prepared.rows[-1].variant == "torch-fp32" and prepared.lowered.base.form == "window"


def test_what_tunes_a_stream_is_refused_where_none_is_made(padded: Options) -> None:
    options = replace(padded, steps={"stream_tune": 1})
    for how in ("window", "off"):
        with pytest.raises(UsageError, match=f"--stream-tune is for a stream, --stream {how} makes none"):
            check_options(replace(options, stream=how), [target("cpu")])
