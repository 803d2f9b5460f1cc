"""``edgepv bench``: what artifacts do on this machine, by the call and at a camera's rate."""

from __future__ import annotations

import contextlib
import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from edgepv.base.console import Console
from edgepv.base.machine import LoadWatch
from edgepv.base.optional import need
from edgepv.bundle.manifest import Bundle
from edgepv.data.clips import Clip, survey, unheld_told, unlabelled_told
from edgepv.data.split import split_clips
from edgepv.errors import TargetUnavailableError, UsageError
from edgepv.measure import latency, replay
from edgepv.measure.artifacts.artifact import Artifact, Asked, Opened
from edgepv.measure.artifacts.find import distinct, found
from edgepv.measure.camera import at_camera_rate, supported
from edgepv.measure.compare import SCHEMA
from edgepv.measure.fresh import cold_start
from edgepv.measure.loadgen import loadgen_check
from edgepv.measure.mallocs import mallocs
from edgepv.measure.replay import Replayed
from edgepv.measure.setup import EnergyMeter, celsius, energy_mj, setup
from edgepv.runtimes.deadline import profile
from edgepv.runtimes.ladder import open_ladder
from edgepv.types import (
    BenchResult,
    BenchRow,
    CameraLoad,
    ColdStart,
    Deadline,
    Latency,
    LoadGenCheck,
    Variant,
)

LADDER = "ladder"
TIMES_LARGEST = 2.0


@dataclass(frozen=True)
class BenchOptions:
    """Options of a benchmark of artifacts.

    asked: what the user says of artifacts that do not say it. fps: of a camera whose load is measured for
    ``seconds``; None: no such load. loadgen: whether LoadGen asks too.
    """

    threads: int = 1
    asked: Asked = field(default_factory=Asked)
    fps: float | None = None
    seconds: float = 10.0
    loadgen: bool = False


@dataclass(frozen=True)
class _Alone:
    """What is measured of one artifact by itself, behind the turns that all take. chunk: frames of a call."""

    chunk: int
    camera: CameraLoad | None
    loadgen: LoadGenCheck | None
    start: ColdStart | None
    rss_mib: float | None
    mallocs: int | None
    energy_mj: float | None


def measured(words: Sequence[str], options: BenchOptions, console: Console) -> BenchResult:
    """Every artifact that the words mean, interleaved in one run; then what is measured of each alone.

    As many calls as p99 needs, if that takes no longer than ``latency.SURE_BUDGET_S``.
    Raises UsageError for a word that is none, TargetUnavailableError if nothing of it runs here.
    """
    if options.loadgen:
        need("mlperf_loadgen", extra="loadgen")  # else it would be missed after minutes
    with contextlib.ExitStack() as stack:
        pairs = [(a, word) for word in words for a in found(word, options.asked, options.threads, stack)]
        _refuse_unused(options.asked, {a.kind for a, _ in pairs})
        artifacts, left_out = distinct([a for a, _ in pairs], [word for _, word in pairs]), list[str]()
        with latency.alone():
            warm = celsius()
            opened = _opened(artifacts, options.threads, left_out, stack)
            present = [a for a in artifacts if a.name in opened]
            clocks, times = _timed(present, opened, options.threads, lone=len(words) == 1)
            alone = {
                a.name: _alone(a, opened[a.name], times[a.name], options)
                for a in console.track(present, "measuring each by itself")
            }
            after = celsius()
        return BenchResult(
            schema=SCHEMA,
            at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            setup=setup(options.threads),
            rows=tuple(_row(a, clocks[a.name], times[a.name], alone[a.name], options) for a in present),
            celsius=(warm, after) if warm is not None and after is not None else None,
            left_out=tuple(left_out),
        )


def _refuse_unused(asked: Asked, kinds: set[str]) -> None:
    """Raise UsageError for what the user says of artifacts of which none is there."""
    for option, given, meant in (
        ("--shape", asked.shapes, {"onnx", "tflite", "openvino", "tensorrt", "torch"}),
        ("--spec", asked.spec, {"onnx", "torch"}),
        ("--weights", asked.weights, {"torch"}),
    ):
        if given and not kinds & meant:
            raise UsageError(f"{option} says something of {', '.join(sorted(meant))}, and none is given")


def _opened(
    artifacts: Sequence[Artifact], threads: int, left_out: list[str], stack: contextlib.ExitStack
) -> dict[str, Opened]:
    """The artifacts that open here; a variant of a bundle whose engine is missing is left out, and why.

    Raises TargetUnavailableError if none is left, or if one that the user named alone does not open.
    """
    opened = {}
    for artifact in artifacts:
        try:
            opened[artifact.name] = artifact.open(threads)
            stack.callback(opened[artifact.name].engine.close)
        except TargetUnavailableError as e:
            if len(artifacts) == 1 or artifact.kind != "bundle":
                raise
            left_out.append(f"{artifact.name}: {e}")
    if not opened:
        raise TargetUnavailableError(f"no engine of these artifacts is on this machine. {left_out[0]}")
    return opened


def _timed(
    artifacts: Sequence[Artifact], opened: Mapping[str, Opened], threads: int, *, lone: bool
) -> tuple[dict[str, latency.Clock], dict[str, Latency]]:
    """Calls in turns, and what they tell. Ratios are to the first artifact and to the bundles' float rows.

    lone: the user gave one artifact; of a bundle, its float rows are what the others are told against.
    """
    engines = {a.name: (opened[a.name].engine, [opened[a.name].feeds()]) for a in artifacts}
    floats = [a.name for a in artifacts if a.kind == "bundle" and a.precision == "fp32"]
    clocks, load = latency.taken_in_turns(
        engines,
        calls=latency.SURE_CALLS,
        budget_s=latency.SURE_BUDGET_S,
        least_s=LoadWatch.LEAST_S,
    )
    first = [] if lone and floats else [artifacts[0].name]
    against = list(dict.fromkeys([*first, *floats]))
    return clocks, latency.summaries(clocks, load, threads=threads, floats=against)


def _alone(artifact: Artifact, opened: Opened, times: Latency, options: BenchOptions) -> _Alone:
    """What is measured of one artifact while no other runs."""
    feeds = opened.feeds()

    def call() -> object:
        return opened.engine.infer(feeds)

    camera = None
    if options.fps is not None:
        camera = at_camera_rate(opened.step, options.fps, options.seconds, threads=options.threads)
    start, rss_mib = cold_start(artifact, options.threads)
    return _Alone(
        chunk=opened.chunk,
        camera=camera,
        loadgen=loadgen_check(call, times.n) if options.loadgen else None,
        start=start,
        rss_mib=rss_mib,
        mallocs=mallocs(artifact),
        energy_mj=energy_mj(call, EnergyMeter()),
    )


def _row(
    artifact: Artifact, clock: latency.Clock, times: Latency, alone: _Alone, options: BenchOptions
) -> BenchRow:
    rate = options.fps or artifact.rate
    return BenchRow(
        name=artifact.name,
        kind=artifact.kind,
        engine=artifact.engine,
        build=artifact.build,
        policy=artifact.policy,
        sha256=artifact.sha256,
        latency=times,
        p90_ms=supported(clock.calls, 90),
        fps=alone.chunk * len(clock.calls) / math.fsum(clock.calls),
        turns_ms=tuple(1e3 * s for s in clock.wall),
        turns_cpu_ms=tuple(1e3 * s for s in clock.cpu),
        precision=artifact.precision,
        rate=rate,
        cameras_per_core=1e3 * alone.chunk / (times.cpu_ms * rate) if times.cpu_ms and rate else None,
        bytes=artifact.bytes,
        state_bytes=artifact.state_bytes,
        rss_mib=alone.rss_mib,
        cold_start=alone.start,
        camera=alone.camera,
        loadgen=alone.loadgen,
        mallocs=alone.mallocs,
        energy_mj=alone.energy_mj,
    )


@dataclass(frozen=True)
class LiveBench:
    """Options of a live benchmark. rate: times the camera's speed. limit: clips per variant."""

    clips: str | None = None
    deadline_ms: float | None = None
    rate: float = 1.0
    limit: int = 12
    seed: int = 0
    threads: int = 1


def live(bundle: Bundle, options: LiveBench, console: Console) -> list[Replayed]:
    """The ladder, if there is one, and every rung of it alone, on the same clips in the same order."""
    variants = bundle.ladder()
    played = replay.shots(_chosen_clips(bundle, options, console), variants[0].spec)
    times = _profile(variants, bundle, options.threads)
    limit_ms = options.deadline_ms or TIMES_LARGEST * times[0]
    names = [*([LADDER] if len(variants) > 1 else []), *(v.name for v in variants)]
    results = []
    for name in console.track(names, "replaying"):
        rungs = list(variants) if name == LADDER else [v for v in variants if v.name == name]
        profiles = times if name == LADDER else (times[[v.name for v in variants].index(name)],)
        ladder = open_ladder(rungs, bundle.checked, threads=options.threads)
        results.append(
            replay.replay(
                name,
                ladder,
                profiles,
                played,
                Deadline(limit_ms),
                rate=Fraction(options.rate).limit_denominator(1000),
            )
        )
    return results


def _profile(variants: Sequence[Variant], bundle: Bundle, threads: int) -> tuple[float, ...]:
    ladder = open_ladder(variants, bundle.checked, threads=threads)
    try:
        return profile(ladder)
    finally:
        ladder.close()


def _chosen_clips(bundle: Bundle, options: LiveBench, console: Console) -> list[Clip]:
    """Held-out clips, spread over the labels by the seed."""
    import edgepv.zoo

    labels = bundle.content.spec.labels
    if not labels:
        raise UsageError(
            f"{bundle.folder} is for {bundle.content.spec.task}; bench --live counts right labels"
        )
    shipped = Path(edgepv.zoo.__file__).parent / "clips"
    if options.clips is None and set(labels) != set(edgepv.zoo.TASKS["fight"]):
        raise UsageError(
            f"{bundle.folder} knows {', '.join(labels)}; no such clips are shipped. Give --clips DIR"
        )
    if options.limit < 1 or not 0 < options.rate < math.inf:
        raise UsageError("--limit and --rate want numbers above 0")
    there = survey(Path(options.clips) if options.clips else shipped, labels)
    if there.left_out:
        console.say(f"left out of {options.clips}: {there.left_out}")
    if bare := unlabelled_told(there.clips):
        console.say(f"{bare}: they are left out")
    _, held_out = split_clips([c for c in there.clips if c.label], calibration=1)
    chosen = replay.drawn(held_out, labels, options.seed, options.limit)
    if told := unheld_told(chosen, labels, "replayed"):
        console.say(f"{told}: what is right says nothing of them")
    return chosen
