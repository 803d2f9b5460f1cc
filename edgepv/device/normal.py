"""What a camera's own normal footage says of false alarms: footage in, its anomaly rule out."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgepv.base.console import PLAIN_EVERY_S, Console
from edgepv.base.files import refuse_out, sha256, write_text
from edgepv.bundle import signing
from edgepv.bundle.manifest import check
from edgepv.data.clips import Clip, clips_digest, find_clips
from edgepv.data.video import VideoFrame, at_rate, open_video
from edgepv.errors import InconclusiveError, UsageError, unknown
from edgepv.measure.here import fitting
from edgepv.metrics.stats import figure
from edgepv.metrics.tails import PEAKS_AN_ALARM, Limit, Stretch, limit, refuse_short
from edgepv.runtimes.events.odd import DOUBTS, Doubt, Odd, bounded, known
from edgepv.runtimes.events.rules import ANY, LiveConfig, Rule, Rules, read_rules
from edgepv.runtimes.events.watch import Events, smoothed
from edgepv.runtimes.output import NO_RULES
from edgepv.runtimes.picture.privacy import PrivacyMask
from edgepv.runtimes.session import Session, open_session
from edgepv.types import ModelSpec

SCORE = "score"
CAMERA = "camera"
"""What a camera is called for which no rules are given."""


@dataclass(frozen=True)
class NormalRequest:
    """What is to be learned.

    bundle: folder or .zip. footage: folder of video in which nothing odd happens. per_hour: false alarms that
    may be. score: a name of ``events.odd``; None: the model's own number, else how unsure it is. rules: a
    live file whose masks hide from the model, and which the new rule joins.
    """

    bundle: Path
    footage: Path
    per_hour: float
    out: Path
    score: str | None = None
    smooth_s: float = 1.0
    cooldown_s: float = 30.0
    rules: Path | None = None
    variant: str | None = None
    threads: int = 1


@dataclass(frozen=True)
class Normal:
    """What was learned.

    events: that the rule raises on the footage itself. repeated: files left out as copies of others. footage:
    digest of the clips. model, variant, bundle: who gave the score; the last is the manifest's digest.
    """

    score: str
    rule: Rule
    limit: Limit
    events: int
    clips: int
    repeated: int
    footage: str
    model: str
    variant: str
    bundle: str


@dataclass(frozen=True)
class Scored:
    """One run of answers that belong together. time_s, raw: (n,) of the frames and the score as it comes."""

    time_s: np.ndarray
    raw: np.ndarray


def learn_normal(request: NormalRequest, console: Console) -> Normal:
    """Play the footage as a camera's, write the rules file of ``request``, and say what is in it.

    Raises UsageError for what cannot be played or a score that this model has not, InconclusiveError where
    the footage cannot support the rate.
    """
    _check(request)
    config = read_rules(request.rules) if request.rules else NO_RULES
    clips, repeated = _apart(find_clips(request.footage, ()), console)
    with signing.opened(request.bundle, None) as bundle:
        check(bundle)
        wanted = bundle.variant(request.variant, None)
        fit = fitting(bundle, (wanted,), fixed=bool(request.variant), threads=request.threads)
        for note in fit.notes:
            console.say(note)
        variant = fit.variants[0]
        score = _named(request.score, variant.spec)
        _refuse_second(score, config)
        _refuse_short(clips, request)
        with open_session(variant, bundle.checked, threads=request.threads, cuts=True) as session:
            runs = [run for clip in clips for run in play(session, clip.path, score, config, console)]
        digest = bundle.digest
    rule, found = rule_for(score, runs, float(1 / variant.spec.fps), request)
    rule = replace(rule, learned_on=digest)
    normal = Normal(
        score,
        rule,
        found,
        events_of(rule, runs),
        len(clips),
        repeated,
        clips_digest(clips),
        variant.spec.name,
        variant.name,
        digest,
    )
    write_text(request.out, rules_text(normal, request.rules))
    return normal


def _check(request: NormalRequest) -> None:
    """Raise UsageError for a rate that no footage supports and for paths that cannot be, before any work."""
    if request.out.is_dir():
        raise UsageError(f"--out {request.out} is a folder. Give the name of a file")
    refuse_out(request.out)
    if not request.footage.is_dir():
        raise UsageError(f"{request.footage} is not a folder. --footage wants a folder of video")
    most = 3600 / request.cooldown_s / PEAKS_AN_ALARM
    if not 0 < request.per_hour <= most:
        raise UsageError(
            f"--per-hour {request.per_hour:g}: give above 0, and with alarms {request.cooldown_s:g} s apart "
            f"at most {most:g}"
        )


def _apart(clips: Sequence[Clip], console: Console) -> tuple[list[Clip], int]:
    """Each file once: a copy holds no further hour."""
    unique = {sha256(clip.path): clip for clip in reversed(clips)}
    repeated = len(clips) - len(unique)
    if repeated:
        console.say(f"{repeated} of {len(clips)} files are copies of others: left out")
    return sorted(unique.values(), key=lambda clip: str(clip.path)), repeated


def _refuse_short(clips: Sequence[Clip], request: NormalRequest) -> None:
    """Raise InconclusiveError for footage that is too short whatever is in it, before hours of it are played.

    A file that does not say for certain how long it lasts has to be played.
    """
    lengths_s = []
    for clip in clips:
        with open_video(clip.path) as film:
            lengths_s.append(film.most_s)
    known_s = [float(length_s) for length_s in lengths_s if length_s is not None]
    if len(known_s) == len(clips):
        refuse_short([length_s / 3600 for length_s in known_s], request.per_hour, request.cooldown_s)


def _named(score: str | None, spec: ModelSpec) -> str:
    """The score that is asked for. Raises UsageError if this model's cameras have it not."""
    names = known(spec)
    if score is None:
        return next(iter((*spec.numbers, *names)))
    if score not in names:
        raise UsageError(f"--score: {unknown('score', score, names)}")
    return score


def _refuse_second(score: str, config: LiveConfig) -> None:
    """Raise UsageError if the file has a rule about this score already."""
    for rule in config.rules.rules:
        if rule.label == ANY and (rule.what or rule.doubt) == score:
            raise UsageError(f"--rules has an anomaly rule about '{score}' already. Take it out first")


def play(
    session: Session, path: Path, score: str, config: LiveConfig, console: Console | None = None
) -> Iterator[Scored]:
    """The score after every valid answer to a film, a run for each scene; as ``edgepv run`` shows it.

    While it is not known, as the background of a new scene, there is none, and no time goes by.

    config: its masks hide from the model. Raises UsageError like ``open_video``.
    """
    console = console or Console(quiet=True)
    mask = PrivacyMask(config.masks) if config.masks else None
    odd, rows, told_s = Odd((score,)), list[tuple[float, float]](), time.monotonic()
    session.reset()
    with open_video(path) as film:
        for frame, owed in at_rate(film, session.variant.spec.fps):
            if frame.jump_s is not None:
                session.reset()
            if time.monotonic() - told_s > PLAIN_EVERY_S:
                told_s = time.monotonic()
                console.say(f"{path.name}: {float(frame.time_s) / 60:.1f} minutes seen")
            for _ in range(owed):
                rows, over = _answered(session, frame, mask, odd, score, rows)
                if len(over):
                    yield _run(over)
    if rows:
        yield _run(rows)


def _answered(
    session: Session,
    frame: VideoFrame,
    mask: PrivacyMask | None,
    odd: Odd,
    score: str,
    rows: list[tuple[float, float]],
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """(rows of this run with one frame more, those of a run that ended before it)."""
    pixels = mask(frame.pixels) if mask else frame.pixels
    answer, over = session.step(pixels), list[tuple[float, float]]()
    if answer.restarted:
        odd.forget()
        rows, over = [], rows
    value = odd(answer, pixels)[score]
    if answer.valid and math.isfinite(value):
        rows.append((float(frame.time_s), value))
    return rows, over


def _run(rows: Sequence[tuple[float, float]]) -> Scored:
    table = np.array(rows)
    return Scored(table[:, 0], table[:, 1])


def rule_for(score: str, runs: Sequence[Scored], step_s: float, request: NormalRequest) -> tuple[Rule, Limit]:
    """The anomaly rule for a rate, and where its threshold comes from. step_s: between two answers.

    An alarm ends where the tail begins that the threshold was read from, and the next one is a cooldown away:
    then alarms are what was counted as separate peaks.
    """
    stretches = [Stretch(run.time_s, _smooth(run, request.smooth_s), step_s) for run in runs]
    found = limit(stretches, request.per_hour, request.cooldown_s)
    threshold, release = float(f"{found.level:.6g}"), float(f"{found.release:.6g}")
    if threshold > 1 and bounded(score):
        raise InconclusiveError(
            f"'{score}' would have to be above {threshold:.3g}, and it is never above 1: normal footage is "
            "as odd as anything for it. Name another score, or give a higher --per-hour"
        )
    rule = Rule(
        ANY,
        threshold,
        release,
        smooth_s=request.smooth_s,
        cooldown_s=request.cooldown_s,
        doubt=_doubt(score),
        what=None if score in DOUBTS else score,
    )
    Rules((rule,))
    return rule, found


def _doubt(score: str) -> Doubt:
    return next((name for name in DOUBTS if name == score), "entropy")


def _smooth(run: Scored, smooth_s: float) -> np.ndarray:
    """The score as the rule will see it."""
    before: float | None = None
    seen, last_s = np.empty(len(run.raw)), 0.0
    for i, (at_s, raw) in enumerate(zip(run.time_s.tolist(), run.raw.tolist(), strict=True)):
        before = seen[i] = smoothed(before, raw, at_s - last_s, smooth_s)
        last_s = at_s
    return seen


def events_of(rule: Rule, runs: Sequence[Scored]) -> int:
    """How many events the rule raises on these runs: counted by what raises them on a camera."""
    events, count, wall_s = Events(Rules((replace(rule, what=SCORE),)), CAMERA), 0, 0.0
    for run in runs:
        wall_s += rule.cooldown_s
        events.restart(wall_s)
        for at_s, raw in zip(run.time_s.tolist(), run.raw.tolist(), strict=True):
            told = events.step(at_s, wall_s + at_s, {}, valid=True, stale=False, odd={SCORE: raw})
            count += sum(record["type"] == "new" for record in told)
        wall_s += float(run.time_s[-1])
    return count


def told(normal: Normal) -> list[str]:
    """What was learned, in sentences."""
    at, rule = normal.limit, normal.rule
    lines = [
        f"{normal.score}: threshold {figure(at.level)} (95 %: {figure(at.low)} to {figure(at.high)}) for "
        f"{at.per_hour:g} false alarms an hour (95 %: {figure(at.rate_low)} to {figure(at.rate_high)})",
        f"learned on {normal.clips} clip{'s' * (normal.clips != 1)}, {figure(at.hours)} hours, by {at.peaks} "
        f"peaks above {figure(at.release)}, where an alarm ends; smoothed over {rule.smooth_s:g} s, alarms "
        f"at least {rule.cooldown_s:g} s apart",
        f"on this footage itself the rule raises {normal.events} alarms",
    ]
    if at.beyond:
        lines.append(
            f"extrapolated: once in {1 / at.per_hour:.3g} hours was asked of {figure(at.hours)} hours; the "
            "threshold is what the tail of the peaks promises, not what was seen"
        )
    return lines


def rules_text(normal: Normal, joined: Path | None = None) -> str:
    """The live file, with where its numbers come from. joined: a live file that the rule is added to."""
    about = [
        f"edgepv calibrate-normal, model {json.dumps(normal.model)}, variant {json.dumps(normal.variant)}, "
        f"bundle {normal.bundle[:16]}, footage {normal.footage[:16]}",
        *told(normal),
        "other seconds below, another bundle or another camera: calibrate again",
    ]
    rule = normal.rule
    which = f'doubt = "{rule.doubt}"' if rule.what is None else f"what = {json.dumps(rule.what)}"
    lines = [
        *(f"# {line}" for line in about),
        "[[rule]]",
        f'label = "{ANY}"',
        which,
        f"threshold = {rule.threshold!r}",
        f"release = {rule.low!r}",
        f"smooth_s = {rule.smooth_s!r}",
        f"cooldown_s = {rule.cooldown_s!r}",
        *([f"learned_on = {json.dumps(rule.learned_on)}"] if rule.learned_on else []),
    ]
    before = joined.read_text(encoding="utf-8") if joined else f'[camera]\nname = "{CAMERA}"\n'
    return before.rstrip("\n") + "\n\n" + "\n".join(lines) + "\n"
