"""What is odd: ``python benchmarks/odd.py --data DIR --natural DIR``.

Four scores of a picture, by which an anomaly rule may go:

* surprise: pv-graph-nano's, in float and in INT8;
* background: the share of pixels that differ from a mixture of Gaussians learned as it goes (MOG2);
* distance: of a frame-average net, pv-conv-nano, which answers from features averaged over 16 frames: how far
  its logits for hand washing, which no camera here shows, are from those of normal footage (Mahalanobis);
* entropy: how unsure pv-graph-nano is of fight or no fight.

Parts:

* fights: the 52 test clips of fight and no_fight; a clip's score is the highest smoothed one. Intervals draw
  groups (cameras) again. "labels" is what pv-graph-nano says, which learned fights from labels.
* films, planted: events on three films, at times that are known, held against the same excerpts without them.
  The films are three: intervals draw excerpts again and say nothing of a fourth.
* films, alarms: each film shown again and again with other noise and light is a camera's "normal footage". A
  threshold is learned on one half as ``edgepv calibrate-normal`` does, and alarms are counted on the other.
  These are hours of simulated footage of half a minute to two minutes of film; they are no independent hours.

No time is measured. Each part replaces its own section of odd.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from measured_at import now

from edgepv import zoo
from edgepv.base.files import read_json, write_json
from edgepv.data.calibration import calibration_set, rolled_feeds
from edgepv.data.clips import Clip, find_clips
from edgepv.data.split import Sample
from edgepv.data.video import open_video, taken
from edgepv.device.normal import NormalRequest, Scored, events_of, rule_for
from edgepv.errors import InconclusiveError
from edgepv.export.to_onnx import lower
from edgepv.metrics.stats import roc_auc
from edgepv.metrics.tails import Limit
from edgepv.model.checkpoint import build
from edgepv.quantize.int8_onnx import Step
from edgepv.quantize.step import Calibration
from edgepv.runtimes import open_engine
from edgepv.runtimes.events.odd import Background, doubt
from edgepv.runtimes.events.rules import Rule
from edgepv.runtimes.events.watch import smoothed
from edgepv.runtimes.session import Session, open_session
from edgepv.stream import Stepper
from edgepv.types import Variant
from edgepv.zoo.training.data import read_manifest
from edgepv.zoo.training.motion import blob

OUT = Path(__file__).resolve().with_suffix(".json")
GRAPH, CONV = "pv-graph-nano-fight", "pv-conv-nano-handwash"
FILMS = ("car-detection.mp4", "vtest.avi", "one-by-one-person-detection.mp4")
FPS = Fraction(10)
HEIGHT = 120
SMOOTH_S, COOLDOWN_S = 1.0, 5.0
PER_HOUR = 12.0
HOURS = 0.25
"""Simulated hours of each film that a threshold is learned on, and as many that it is judged on."""
EXCERPTS = 8
"""Excerpts of each film for each kind of event."""
EXCERPT, BEGIN, LONG = 160, 100, 40
"""Frames of an excerpt, the frame in which an event begins, and how many it lasts."""
NAMES = ("surprise", "surprise int8", "background", "distance", "entropy")
DRAWS = 1000
Frames = list[np.ndarray]


class Nets:
    """The nets opened for use, and their scores of a clip."""

    def __init__(self, folder: Path) -> None:
        graph, conv = (_lowered(name, folder) for name in (GRAPH, CONV))
        small = _int8(graph, folder)
        self.sessions = {
            name: open_session(variant, folder)
            for name, variant in (("float", graph), ("int8", small), ("conv", conv))
        }

    def scores(
        self, frames: Frames, names: Sequence[str] = NAMES, settled: int = 16
    ) -> dict[str, np.ndarray]:
        """By name, (T,) after each frame, or (T, labels) for "logits", of which distances are made later."""
        background, rows = Background(settled), dict[str, list[Any]]()
        wanted = {"float": "surprise" in names, "int8": "surprise int8" in names, "conv": "distance" in names}
        asked: dict[str, Session] = {key: self.sessions[key] for key, on in wanted.items() if on}
        for session in asked.values():
            session.reset()
        for frame in frames:
            said = {key: session.step(frame) for key, session in asked.items()}
            if "float" in said:
                _add(rows, "surprise", float(said["float"].outputs["surprise"].reshape(())))
                _add(rows, "entropy", doubt(said["float"].scores, "entropy"))
                _add(rows, "labels", said["float"].scores[0])
            if "int8" in said:
                _add(rows, "surprise int8", float(said["int8"].outputs["surprise"].reshape(())))
            if "conv" in said:
                _add(rows, "logits", said["conv"].outputs["logits"])
            _add(rows, "background", background(frame))
        return {name: np.array(values) for name, values in rows.items()}


def _add(rows: dict[str, list[Any]], name: str, value: Any) -> None:
    rows.setdefault(name, []).append(value)


def _lowered(name: str, folder: Path) -> Variant:
    checkpoint = zoo.checkpoint(name)
    return lower(build(checkpoint), checkpoint.spec, folder / f"{name}.onnx")


def _int8(base: Variant, folder: Path) -> Variant:
    """Calibrated on the clips that ship for it."""
    clips = find_clips(zoo.HERE / "clips" / "calibration", base.spec.labels)
    chosen = calibration_set([Clip(c.path, c.label, c.group) for c in clips], base.spec)
    stepper = Stepper(open_engine(base, folder).infer, base.spec, base.stream)
    feeds = rolled_feeds(stepper, chosen, base.spec)
    return Step()(base, folder / "int8.onnx", Calibration(folder, feeds, chosen.digest))


@dataclass(frozen=True)
class Distance:
    """Mahalanobis distance from the mean of normal logits, the covariance shrunk by a tenth."""

    mean: np.ndarray
    inverse: np.ndarray

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        off = logits - self.mean
        return np.asarray(np.sqrt(np.einsum("ti,ij,tj->t", off, self.inverse, off)))


def distance_from(logits: np.ndarray) -> Distance:
    """logits: (n, labels) of normal footage."""
    cov = np.cov(logits.T)
    shrunk = 0.9 * cov + 0.1 * np.trace(cov) / len(cov) * np.eye(len(cov))
    return Distance(logits.mean(0), np.linalg.inv(shrunk))


def smooth(score: np.ndarray) -> np.ndarray:
    """As a rule smooths it."""
    found, before = [], None
    for raw in score.tolist():
        before = smoothed(before, raw, 1 / float(FPS), SMOOTH_S)
        found.append(before)
    return np.array(found)


def auc(positive: np.ndarray, score: np.ndarray, groups: Sequence[str]) -> dict[str, Any]:
    """ROC-AUC, and a 95 % interval over groups drawn again."""
    rng, members = np.random.default_rng(0), {g: np.flatnonzero(np.array(groups) == g) for g in set(groups)}
    names, drawn = sorted(members), list[float]()
    for _ in range(DRAWS):
        rows = np.concatenate([members[names[i]] for i in rng.integers(len(names), size=len(names))])
        one = roc_auc(positive[rows], score[rows])
        drawn += [] if one is None else [one]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {
        "auc": round(roc_auc(positive, score) or 0.0, 3),
        "low": round(float(low), 3),
        "high": round(float(high), 3),
        "n": len(score),
        "groups": len(names),
    }


# fights


def fights(args: argparse.Namespace, nets: Nets) -> dict[str, Any]:
    """AUC of fight against no_fight on the test split; distances are from training clips without a fight."""
    samples = [s for s in read_manifest(args.data) if s.task == "fight"]
    normal = [s for s in samples if s.split == "train" and s.label == 1][::4]
    calm = [nets.scores(_frames(s.path), ("distance",))["logits"][15:] for s in normal]
    distance = distance_from(np.concatenate(calm))
    test = [s for s in samples if s.split == "test"]
    found = [_of_clip(nets, s, distance) for s in test]
    positive, groups = np.array([s.label == 0 for s in test]), [s.group or "" for s in test]
    rows = {
        name: auc(positive, np.array([one[name] for one in found]), groups) for name in (*NAMES, "labels")
    }
    pairs = np.concatenate([np.stack([o["float"], o["int8"]]) for o in found], 1)
    return {"scores": rows, "int8_correlation": round(float(np.corrcoef(pairs)[0, 1]), 4)}


def _of_clip(nets: Nets, sample: Sample, distance: Distance) -> dict[str, Any]:
    """The highest smoothed score of a clip, by name; and every surprise of both precisions."""
    rows = nets.scores(_frames(sample.path))
    rows["distance"] = distance(rows.pop("logits"))
    best: dict[str, Any] = {name: float(smooth(row[15:]).max()) for name, row in rows.items()}
    return best | {"float": rows["surprise"][15:], "int8": rows["surprise int8"][15:]}


def _frames(path: Path, height: int | None = None) -> Frames:
    """A film at the nets' rate, at least 20 frames, the last one held."""
    with open_video(path) as film:
        frames = [_resized(frame.pixels, height) for frame in taken(film, FPS)]
    return frames + [frames[-1]] * (20 - len(frames))


def _resized(frame: np.ndarray, height: int | None) -> np.ndarray:
    if height is None:
        return frame
    width = round(frame.shape[1] * height / frame.shape[0])
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA))


# films


class Camera:
    """A film as a camera that shows it again and again, with other noise and light each time."""

    def __init__(self, path: Path, seed: int) -> None:
        self.name, self.frames = path.name, _frames(path, HEIGHT)
        self.rng = np.random.default_rng(seed)
        self._grain = self.rng.standard_normal((16, *self.frames[0].shape), dtype=np.float32)

    def shown(self, frames: Sequence[np.ndarray]) -> Frames:
        """Frames with noise of 1 to 6 of 255, a light that sways by up to 10 %, and a gamma of 0.9 to 1.1."""
        sigma, gamma = self.rng.uniform(1, 6), self.rng.uniform(0.9, 1.1)
        sway, period, phase = self.rng.uniform(0, 0.1), self.rng.uniform(200, 1200), self.rng.uniform(0, 6.28)
        ramp = 255 * (np.arange(256) / 255) ** gamma
        told = []
        for t, frame in enumerate(frames):
            light = 1 + sway * np.sin(6.28 * t / period + phase)
            grain = np.roll(self._grain[int(self.rng.integers(16))], int(self.rng.integers(1000)), axis=1)
            curve = (light * ramp).astype(np.float32)
            told.append(np.clip(curve[frame] + sigma * grain, 0, 255).astype(np.uint8))
        return told


def backwards(camera: Camera, at: int) -> Frames:
    """From ``BEGIN`` on the film runs backwards for ``LONG`` frames, then on from there: no jump."""
    return _by_index(camera, [*range(at, at + BEGIN), *range(at + BEGIN, at + BEGIN - LONG, -1)], at)


def faster(camera: Camera, at: int) -> Frames:
    """Three times as fast while the event lasts."""
    return _by_index(camera, [*range(at, at + BEGIN), *range(at + BEGIN, at + BEGIN + 3 * LONG, 3)], at)


def _by_index(camera: Camera, places: list[int], at: int) -> Frames:
    places += range(places[-1] + 1, places[-1] + 1 + EXCERPT - len(places))
    return [camera.frames[p % len(camera.frames)] for p in places]


def crossing(camera: Camera, at: int) -> Frames:
    """A textured thing, 15 % of the height, crosses the picture in a second, again and again."""
    return _with_thing(camera, at, lambda t, width: (t % 10) / 10 * width)


def stopping(camera: Camera, at: int) -> Frames:
    """The thing comes in within a second, and stays where it is."""
    return _with_thing(camera, at, lambda t, width: min(t, 10) / 20 * width)


def _with_thing(camera: Camera, at: int, where: Callable[[int, int], float]) -> Frames:
    side, (height, width) = round(0.15 * HEIGHT) + 6, camera.frames[0].shape[:2]
    cover = blob(camera.rng, side)[..., None]
    texture = np.kron(camera.rng.integers(0, 255, (4, 4, 3)), np.ones((side // 4 + 1,) * 2 + (1,)))[
        :side, :side
    ]
    top, frames = int(camera.rng.integers(height - side)), normal(camera, at)
    for t in range(LONG):
        frame = np.pad(frames[BEGIN + t], ((0, 0), (side, side), (0, 0)))
        left = round(where(t, width)) + side // 2
        part = frame[top : top + side, left : left + side]
        part[:] = (part + cover * (texture - part)).astype(np.uint8)
        frames[BEGIN + t] = np.ascontiguousarray(frame[:, side:-side])
    return frames


def normal(camera: Camera, at: int) -> Frames:
    """The excerpt as it is."""
    return _by_index(camera, list(range(at, at + EXCERPT)), at)


EVENTS: dict[str, Callable[[Camera, int], Frames]] = {
    "thing crosses fast": crossing,
    "thing comes and stays": stopping,
    "three times as fast": faster,
    "backwards": backwards,
}


def films(args: argparse.Namespace, nets: Nets) -> dict[str, Any]:
    """Planted events and false alarms, film by film; those that are done with as many hours are left."""
    found: dict[str, Any] = read_json(OUT).get("films", {}) if OUT.is_file() and not args.again else {}
    for seed, name in enumerate(FILMS):
        if name not in found or found[name].get("asked_hours", HOURS) != args.hours:
            found[name] = _film(Camera(args.natural / "stream" / name, seed), nets, args.hours)
            _keep("films", found)
    return found


def _film(camera: Camera, nets: Nets, hours: float) -> dict[str, Any]:
    say(f"{camera.name}: {len(camera.frames)} frames")
    learned, judged = (list(_shown_for(hours, camera, nets)) for _ in range(2))
    calm = nets.scores(camera.shown(camera.frames), ("distance",))["logits"][15:]
    told = {name: _rule(name, learned) for name in learned[0]}
    rules = {name: one for name, one in told.items() if not isinstance(one, str)}
    alarms = {
        name: {
            "threshold": round(found.level, 5),
            "low": round(found.low, 5),
            "high": round(found.high, 5),
            "asked_per_hour": PER_HOUR,
            "learned_hours": round(found.hours, 3),
            "hours": round(sum(len(one[name]) for one in judged) / float(FPS) / 3600, 3),
            "alarms": events_of(rule, _scored(name, judged)),
        }
        for name, (rule, found) in rules.items()
    }
    say(f"{camera.name}: {alarms}")
    limits = {name: rule.threshold for name, (rule, _) in rules.items()}
    planted = _planted(camera, nets, distance_from(calm), limits)
    refused = {name: one for name, one in told.items() if isinstance(one, str)}
    seconds = len(camera.frames) / float(FPS)
    return {
        "seconds_of_film": seconds,
        "asked_hours": hours,
        "alarms": alarms,
        "refused": refused,
        "planted": planted,
    }


def _shown_for(hours: float, camera: Camera, nets: Nets) -> Iterator[dict[str, np.ndarray]]:
    """So many hours of the film, a pass after the other: the scores once they are valid."""
    left = hours * 3600 * float(FPS)
    while left > 0:
        rows = nets.scores(camera.shown(camera.frames), ("surprise",), settled=50)
        left -= len(camera.frames)
        yield {name: rows[name][15:] for name in ("surprise", "background", "entropy")}


def _scored(name: str, passes: Sequence[dict[str, np.ndarray]]) -> list[Scored]:
    return [Scored(np.arange(len(rows[name])) / float(FPS), rows[name]) for rows in passes]


def _rule(name: str, learned: Sequence[dict[str, np.ndarray]]) -> tuple[Rule, Limit] | str:
    """The rule and where it comes from; why there is none for a score whose footage is too short."""
    request = NormalRequest(Path(), Path(), PER_HOUR, Path(), smooth_s=SMOOTH_S, cooldown_s=COOLDOWN_S)
    try:
        return rule_for("score", _scored(name, learned), 1 / float(FPS), request)
    except InconclusiveError as e:
        return str(e)


def _planted(
    camera: Camera, nets: Nets, distance: Distance, limits: dict[str, float]
) -> dict[str, dict[str, Any]]:
    """By kind of event and score: AUC of excerpts with it against without, and how many are found."""
    last = len(camera.frames) - EXCERPT - 3 * LONG
    starts = camera.rng.integers(max(1, last), size=EXCERPTS).tolist()
    calm = [_peaks(camera, nets, distance, normal(camera, at)) for at in starts]
    found: dict[str, dict[str, Any]] = {}
    for kind, make in EVENTS.items():
        say(f"{camera.name}: {kind}")
        odd = [_peaks(camera, nets, distance, make(camera, at)) for at in starts]
        positive, groups = np.repeat([True, False], EXCERPTS), [str(i) for i in range(EXCERPTS)] * 2
        found[kind] = {
            name: auc(positive, np.array([one[name] for one in (*odd, *calm)]), groups)
            | ({"found": sum(one[name] >= limits[name] for one in odd)} if name in limits else {})
            for name in ("surprise", "background", "distance", "entropy")
        }
    return found


def _peaks(camera: Camera, nets: Nets, distance: Distance, frames: Frames) -> dict[str, float]:
    """The highest smoothed score from the frame on in which an event would begin, until a second after it."""
    rows = nets.scores(camera.shown(frames), ("surprise", "distance"), settled=50)
    rows["distance"] = distance(rows.pop("logits"))
    return {n: float(smooth(row[15:])[BEGIN - 15 : BEGIN - 5 + LONG].max()) for n, row in rows.items()}


SHOWN = ("surprise", "background", "distance", "entropy")


def table(found: dict[str, Any]) -> str:
    """The rows of docs/odd.md: AUC, of films one after the other, and alarms where some were asked for."""
    parts = found["films"]
    head = "| what is odd | surprise | background | frame-average distance | entropy |"
    rows = [("a fight, 52 clips (95 %)", [_told(found["fights"]["scores"][name]) for name in SHOWN])]
    rows += [
        (kind, [" / ".join(f"{parts[f]['planted'][kind][name]['auc']:.2f}" for f in parts) for name in SHOWN])
        for kind in EVENTS
    ]
    count = EXCERPTS * len(EVENTS)
    hits = [[_hits(parts[f]["planted"], name) for f in parts] for name in SHOWN]
    rows.append((f"found of these at the learned threshold, of {count}", [" / ".join(one) for one in hits]))
    alarms = [[_alarms(parts[f]["alarms"].get(name)) for f in parts] for name in SHOWN]
    asked = " / ".join(
        f"{PER_HOUR * next(iter(part['alarms'].values()))['hours']:.1f}" for part in parts.values()
    )
    rows.append((f"alarms without anything odd, {asked} expected", [" / ".join(cells) for cells in alarms]))
    lines = [f"| {what} | {' | '.join(cells)} |" for what, cells in rows]
    return "\n".join([head, "|---|---|---|---|---|", *lines]) + "\n"


def _told(one: dict[str, Any]) -> str:
    return f"{one['auc']:.2f} ({one['low']:.2f} to {one['high']:.2f})"


def _hits(planted: dict[str, Any], name: str) -> str:
    found = [rows[name].get("found") for rows in planted.values()]
    return "-" if None in found else str(sum(found))


def _alarms(one: dict[str, Any] | None) -> str:
    return "-" if one is None else str(one["alarms"])


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


def _keep(part: str, found: dict[str, Any]) -> None:
    """Replace one section of the result."""
    rows = read_json(OUT) if OUT.is_file() else {}
    stamps = rows.get("measured_at", {}) | {part: now()}
    write_json(OUT, {**rows, part: found, "measured_at": stamps})


PARTS: dict[str, Callable[[argparse.Namespace, Nets], dict[str, Any]]] = {"fights": fights, "films": films}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv and clips")
    parser.add_argument("--natural", type=Path, required=True, help="folder of natural video")
    parser.add_argument("--part", choices=list(PARTS), action="append", help="default: all")
    parser.add_argument("--again", action="store_true", help="films that are done, anew")
    parser.add_argument(
        "--hours", type=float, default=HOURS, help="of each film to learn on, and to judge (default: 0.25)"
    )
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        nets = Nets(Path(scratch))
        for part in args.part or PARTS:
            _keep(part, PARTS[part](args, nets))
    return 0


if __name__ == "__main__":
    sys.exit(main())
