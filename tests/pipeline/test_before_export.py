"""The chain before the model is judged with it, kept only if it pays, and travels in the bundle."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from safetensors.torch import save_file
from support import Tiny

import edgepv
from edgepv import bundle
from edgepv.base.console import Console
from edgepv.bundle.golden import load, of_variant, replay
from edgepv.cli.app import main
from edgepv.data.before import chained
from edgepv.data.clips import Clip, find_clips
from edgepv.data.frames import at_model_size
from edgepv.data.video import open_video, taken
from edgepv.errors import LatencyGateError, UsageError
from edgepv.model.checkpoint import from_files
from edgepv.pipeline import before
from edgepv.pipeline import run as pipeline_run
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.options import Options, refuse_chain
from edgepv.pipeline.source import Clips, Source
from edgepv.pipeline.spoilt import CLEAN
from edgepv.targets import target
from edgepv.types import ModelSpec, PairedDrop, Target, TensorSpec

QUIET = Console(quiet=True)
NET = """
import torch
from torch import nn

class Texture(nn.Module):
    warmup = 1

    def __init__(self):
        super().__init__()
        self.edges = nn.Conv2d(1, 1, 3, bias=False)
        self.head = nn.Linear(1, 2)

    def init_state(self):
        return {}

    def step(self, frame):
        rough = self.edges(frame.mean(1, keepdim=True)).abs().mean((2, 3))
        return (self.head(rough),)

def build():
    net = Texture()
    with torch.no_grad():
        net.edges.weight.copy_(torch.tensor([[0., -1, 0], [-1, 4, -1], [0, -1, 0]]))
        net.head.weight.copy_(torch.tensor([[20.0], [-20.0]]))
        net.head.bias.copy_(torch.tensor([-1.0, 1.0]))
    return net
"""
"""Says "fight" where the picture is rough: above 0.05 in the mean."""


SPEC = ModelSpec("rough", TensorSpec("frame", (1, 3, 48, 48)), ("fight", "no_fight"))


@dataclass(frozen=True)
class Prepared:
    """What the packing is told of a prepared model."""

    before: tuple[str, ...]
    notes: tuple[str, ...] = ()
    chain_ms: float = 0.0
    sensitivity: tuple[()] = ()


@pytest.fixture
def rough(tmp_path: Path) -> tuple[Source, Clips]:
    """A net that looks for texture, and dim pictures: those of one label have too little for it."""
    (tmp_path / "net.py").write_text(NET)
    module: dict[str, Any] = {}
    exec(NET, module)
    save_file(module["build"]().state_dict(), tmp_path / "w.safetensors")
    net = from_files(f"{tmp_path / 'net.py'}:build", tmp_path / "w.safetensors", SPEC, trust_pickle=False)
    rng = np.random.default_rng(0)
    clips = []
    for k in range(60):
        size = rng.uniform(0.5, 4) if k % 2 else rng.uniform(0, 0.3)
        grey = 40 + size * rng.standard_normal((48, 48, 1)).repeat(3, 2)
        cv2.imwrite(str(tmp_path / f"{k}.png"), np.clip(grey.round(), 0, 255).astype(np.uint8))
        clips.append(Clip(tmp_path / f"{k}.png", SPEC.labels[1 - k % 2], str(k), "test"))
    return Source(SPEC, net), Clips((), (), tuple(clips), "here")


def run(**options: Any) -> RunContext:
    return RunContext(Options(**options), QUIET)


@pytest.mark.slow
def test_auto_keeps_the_chain_that_surely_gains_and_says_what_was_tried(rough: tuple[Source, Clips]) -> None:
    source, clips = rough
    made = before.with_chain(run(before="auto"), source, clips)
    assert made.by_itself and made.source.spec.before == ("clahe",)
    assert made.source.checkpoint and made.source.checkpoint.spec == made.source.spec
    clahe_told, denoise_told = made.notes
    assert clahe_told.startswith("before clahe, 60 clips: +") and clahe_told.endswith("ms at p99: kept")
    assert denoise_told.endswith("not kept, no sure gain") and "in low light" in denoise_told
    without = made.without(["cpu"])
    assert without.source.spec == SPEC and not without.p99_ms and "--latency-ms" in without.notes[-1]


@pytest.mark.slow
def test_what_takes_all_the_time_there_is_is_not_kept_and_not_given_either(
    rough: tuple[Source, Clips],
) -> None:
    source, clips = rough
    made = before.with_chain(run(before="auto", latency_ms=1e-6), source, clips)
    assert not made.by_itself and made.source.spec == SPEC and len(made.notes) == 2
    with pytest.raises(LatencyGateError, match="the chain alone takes .* of 1e-06 ms"):
        before.with_chain(run(before="clahe", latency_ms=1e-6), source, clips)


@pytest.mark.slow
def test_without_truth_nothing_is_kept_and_what_is_asked_for_is_done(rough: tuple[Source, Clips]) -> None:
    source, clips = rough
    clips = replace(clips, held_out=tuple(replace(c, label=None) for c in clips.held_out))
    made = before.with_chain(run(before="auto"), source, clips)
    assert made.source.spec == SPEC and all("gain not measured" in note for note in made.notes)
    asked = before.with_chain(run(before="denoise,clahe"), source, clips)
    assert asked.source.spec.before == ("denoise", "clahe") and not asked.by_itself
    with pytest.raises(UsageError, match="has a chain of its own"):
        before.with_chain(run(before="clahe"), asked.source, clips)


def drop(points: float, low: float, high: float) -> PairedDrop:
    verdict: Any = "pass" if high <= 0 else "fail" if low > 0 else "inconclusive"
    return PairedDrop(points, low, high, 0, 0, 50, 0.0, verdict)


@pytest.mark.parametrize(
    ("one", "other", "kept"),
    [
        (drop(-2, -3, -1), drop(-1, -2, -0.5), ("clahe",)),
        (drop(-2, -3, 0.5), drop(-1, -2, -0.5), ("denoise",)),
        (drop(-2, -5, 1), drop(1, -1, 3), ()),
        (drop(0, 0, 0), drop(3, 2, 4), ()),
    ],
    ids=["the larger gain", "the sure one", "none is sure", "none gains"],
)
def test_a_gain_must_be_decided(one: PairedDrop, other: PairedDrop, kept: tuple[str, ...]) -> None:
    tried = [
        before.Tried(replace(SPEC, before=("clahe",)), {CLEAN: one}, 0.1, 0.2),
        before.Tried(replace(SPEC, before=("denoise",)), {CLEAN: other}, 0.1, 0.2),
    ]
    made = before.chosen(Source(SPEC, None), (), tried, 10.0)
    assert made.source.spec.before == kept and made.by_itself == bool(kept)
    assert sum(note.endswith(": kept") for note in made.notes) == len(kept)
    late = before.chosen(Source(SPEC, None), (), tried, 0.2)
    assert late.source.spec == SPEC and all("leaves no time for the model" in note for note in late.notes)


@pytest.mark.parametrize("by_itself", [True, False])
def test_a_target_that_is_late_with_what_auto_kept_is_made_without_it(
    by_itself: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The packing itself stands aside here: whether it is in time depends on the machine."""
    chain = before.Chained(Source(replace(SPEC, before=("clahe",)), None), by_itself=by_itself)
    asked: list[tuple[str, tuple[str, ...]]] = []

    def prepared(context: RunContext, source: Source, clips: Clips) -> Prepared:
        return Prepared(source.spec.before)

    def bundled(context: RunContext, given: Prepared, wanted: Target) -> SimpleNamespace:
        asked.append((wanted.name, given.before))
        assert ("taken off again for mobile," in " ".join(given.notes)) == (not given.before)
        if wanted.name == "mobile" and given.before:
            raise LatencyGateError("no artifact answers within 5 ms")
        return SimpleNamespace(target=wanted.name, before=given.before)

    monkeypatch.setattr(pipeline_run, "with_chain", lambda *_: chain)
    monkeypatch.setattr(pipeline_run, "prepare", prepared)
    monkeypatch.setattr(pipeline_run, "_sensitivity", lambda *_: ())
    monkeypatch.setattr(pipeline_run, "_bundled", bundled)
    targets = ("mobile", "cpu")
    options = Options("pv-conv-nano", targets, out=str(tmp_path / "b"), before="auto", latency_ms=5.0)
    found = pipeline_run.export(options, QUIET)
    kept = ("cpu", ("clahe",))
    made: list[Any] = list(found.made)
    if by_itself:
        assert asked == [("mobile", ("clahe",)), kept, ("mobile", ())] and not found.not_made
        assert [(one.target, one.before) for one in made] == [("mobile", ()), kept]
    else:
        assert asked == [("mobile", ("clahe",)), kept]
        assert [(one.target, one.before) for one in made] == [kept]
        assert [(one.target, one.exit_code) for one in found.not_made] == [("mobile", 4)]


def test_targets_in_c_refuse_it_before_any_work() -> None:
    with pytest.raises(UsageError, match="on firmware nothing comes before the model"):
        refuse_chain(("clahe",), target("firmware"))
    refuse_chain(("clahe",), target("cpu"))
    refuse_chain((), target("firmware"))


@pytest.mark.slow
def test_it_travels_in_the_bundle_and_the_live_path_answers_as_the_goldens(
    tiny_step: Tiny, few_clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "b"
    more = ["--clips", few_clips, "--precision", "fp32", "--variant", "onnxruntime-fp32", "--robustness", 0]
    words = ["export", *tiny_step.arguments, *more, "--before", "denoise,clahe", "--out", out]
    assert main([str(word) for word in words]) == 0
    made = bundle.read(out)
    assert made.content.spec.before == ("denoise", "clahe")
    assert made.content.preprocessing == "resize-area/denoise/clahe/normalise/1"
    assert any(line.startswith("before denoise, clahe, 8 clips: ") for line in made.measured.reasons)
    recorded = of_variant(load(made), "onnxruntime-fp32")
    held_out = sorted(find_clips(few_clips / "test", ("fight", "no_fight")), key=lambda c: str(c.path))[0]
    with open_video(held_out.path) as video:
        frames = [
            f.pixels for f in itertools.islice(taken(video, made.content.spec.fps), len(recorded["frames"]))
        ]
    spec = made.content.spec
    for frame, golden in zip(frames, recorded["frames"], strict=True):
        np.testing.assert_array_equal(chained(at_model_size(frame, spec), spec), golden)
    with edgepv.open(out) as session:
        answers = [session.step(frame).outputs["logits"] for frame in frames]
    np.testing.assert_allclose(answers, recorded["onnxruntime-fp32"], atol=1e-5)
    assert [one.error is not None for one in replay(made)] == [True]
    assert main(["firmware", str(out), "--out", str(tmp_path / "c")]) == 2
    assert not (tmp_path / "c").exists()
