"""The models that peers.py gives to every tool, each in a folder, and what they answer in float."""

from __future__ import annotations

import functools
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgepv.base.console import Console
from edgepv.base.files import digest, read_json, write_json
from edgepv.data.calibration import calibration_set, in_turns, rolled_feeds
from edgepv.data.truth import EvalClip, eval_clip
from edgepv.pipeline.build import run_builder
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.evaluate import play_clips
from edgepv.pipeline.line import Lowered, Ready, lowered
from edgepv.pipeline.options import Options
from edgepv.pipeline.source import Clips, gather, load
from edgepv.runtimes.engine import open_engine
from edgepv.stream import Stepper, Tensors, copied, roll
from edgepv.targets import target
from edgepv.types import Variant, decode, encode

HERE = Path(__file__).resolve().parent
CALIBRATED = 48
"""Inputs that set ranges, about, edgepv's own too: some tools keep every activation of every input."""
TESTED = 146
"""Held-out clips that are answered at most, spread over labels and groups: all there are of hand-washing."""
PROBES = 8
"""Inputs that look inside a graph, and that files are timed with."""
TARGETS = ("cpu", "mobile")


@dataclass(frozen=True)
class Model:
    """A model that all are given. why: reason why there is nothing to give."""

    options: Options
    why: str | None = None


def models(data: Path) -> dict[str, Model]:
    """By name. data: folder with the labelled clips; the restorer is shown those of the package."""

    def own(script: str, name: str) -> Options:
        weights = HERE / "weights" / f"{name}.safetensors"
        builder, spec = f"{HERE / script}.py:{name}", str(weights.with_suffix(".toml"))
        return Options(builder, weights=str(weights), spec=spec, clips=str(data), stream="window")

    shown = {"clips": str(data)}
    return {
        "pv-conv-small, step": Model(Options("pv-conv-small-handwash", **shown)),
        "MobileNetV2, half width, frame": Model(own("train_framenet", "mobilenet_v2")),
        "pv-c3d, made to step by edgepv": Model(Options("pv-c3d-handwash", **shown)),
        "pv-c3d, clip of 16 frames": Model(Options("pv-c3d-handwash", stream="window", **shown)),
        "pv-restore-nano-denoise, step": Model(Options("pv-restore-nano-denoise")),
        "R(2+1)D-18, quarter width, clip": Model(own("train_clipnets", "r2plus1d_18")),
        "X3D-S, clip": Model(
            own("train_clipnets", "x3d_s"),
            "no weights: training it on a CPU ended at 29.5 % of the test clips",
        ),
    }


@dataclass(frozen=True)
class Case:
    """A model in a folder as peers are given it."""

    folder: Path

    @functools.cached_property
    def base(self) -> Variant:
        """The float model, model.onnx."""
        return decode(Variant, read_json(self.folder / "base.json"))

    @property
    def warmup(self) -> int:
        """Frames before an answer counts."""
        return Stepper(lambda feeds: feeds, self.base.spec, self.base.stream).warmup

    @functools.cached_property
    def probes(self) -> list[Tensors]:
        """Inputs from the ends of the first test clips, states as the float model rolled them."""
        with np.load(self.folder / "probes.npz") as held:
            values = {name: held[name] for name in held.files}
        return [{name: value[i] for name, value in values.items()} for i in range(PROBES)]

    def ours(self) -> dict[str, Variant]:
        """edgepv's variants by "target/name"; each lies in the folder of its target."""
        return {
            f"{name}/{variant.name}": variant
            for name in TARGETS
            for variant in decode(tuple[Variant, ...], read_json(self.folder / name / "variants.json"))
        }


@dataclass(frozen=True)
class Truth:
    """The test clips, and what the float model answers to them."""

    shown: tuple[EvalClip, ...]
    wanted: tuple[np.ndarray, ...]


def folder_of(name: str, place: Path) -> Path:
    """Where a model's case lies."""
    return place / "cases" / digest([name])[:12]


def prepared(name: str, model: Model, place: Path, tested: int) -> tuple[Case, Truth]:
    """Write a model's folder, with edgepv's own variants, and answer ``tested`` clips in float."""
    case = Case(folder_of(name, place))
    context, source = RunContext(model.options, Console(quiet=True)), load(model.options)
    clips = gather(model.options, source.spec)
    given = calibrated(lowered(context, source, clips), clips)
    written(case, given)
    held_out = [clips.held_out[i] for i in in_turns(clips.held_out)[:tested]]
    shown = tuple(one_window(eval_clip(clip, case.base.spec), case.base) for clip in held_out)
    engine = open_engine(case.base, case.folder)
    try:
        truth = Truth(shown, tuple(play_clips(engine.infer, case.base, shown)))
        stepper = Stepper(engine.infer, case.base.spec, case.base.stream)
        rolled = [[copied(f) for f, _ in roll(stepper, c.frames, c.start) if f] for c in shown[:PROBES]]
    finally:
        engine.close()
    save(case.folder / "probes.npz", [feeds[-1] for feeds in rolled])
    for name in TARGETS:
        if not (case.folder / name / "variants.json").is_file():
            built(case, context, given, name)
    return case, truth


def forget_ours(folder: Path) -> None:
    """Let edgepv's own variants in a model's folder be made anew."""
    for name in TARGETS:
        shutil.rmtree(folder / name, ignore_errors=True)


def calibrated(model: Lowered, clips: Clips) -> Ready:
    """A model with inputs that set its ranges, states rolled."""
    base = model.base
    chosen = calibration_set(clips.calibration, base.spec)
    engine = open_engine(base, model.base_folder)
    try:
        stepper = Stepper(engine.infer, base.spec, base.stream)
        feeds = rolled_feeds(stepper, chosen, base.spec, limit=CALIBRATED)
    finally:
        engine.close()
    return Ready(model, chosen, tuple(feeds), ())


def written(case: Case, given: Ready) -> None:
    """What peers are given: the float model, its checkpoint, and inputs that set ranges."""
    base, checkpoint = given.lowered.base, given.lowered.checkpoint
    assert checkpoint
    case.folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(given.lowered.base_folder / base.path, case.folder / "model.onnx")
    save(case.folder / "calibration.npz", given.feeds)
    write_json(case.folder / "base.json", encode(replace(base, path="model.onnx")))
    write_json(case.folder / "names.json", {"inputs": list(base.inputs), "outputs": list(base.outputs)})
    write_json(case.folder / "checkpoint.json", encode(checkpoint))


def save(path: Path, feeds: list[Tensors] | tuple[Tensors, ...]) -> None:
    """Inputs of many calls, by name."""
    np.savez(path, **{key: np.stack([feed[key] for feed in feeds]) for key in feeds[0]})


def built(case: Case, context: RunContext, given: Ready, name: str) -> None:
    """edgepv's files for a target, as an export makes them; none is chosen."""
    folder = case.folder / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copyfile(case.folder / "model.onnx", folder / "model.onnx")
    made = run_builder(context, given, target(name), case.base, folder)
    write_json(folder / "variants.json", encode(made.variants))


def one_window(clip: EvalClip, base: Variant) -> EvalClip:
    """Of a clip that a window sees, the frames of the middle one; a step is shown all."""
    spare = len(clip.frames) - base.spec.frames
    if base.stream is not None or spare <= 0:
        return clip
    return replace(clip, frames=clip.frames[spare // 2 :][: base.spec.frames])
