"""Where in the picture the labels of rules are: what a rule with a zone goes by.

A tracker says where its points are. A classifier does not say where it sees a label, so it is asked: it is
shown its last frames again with all but the zone blurred and stopped (see ``ZoneSearch``). A restorer has no
label.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgepv.base.optional import need
from edgepv.base.tasks import task_of
from edgepv.data.frames import at_model_size, preprocess
from edgepv.errors import unknown
from edgepv.runtimes.deadline.realtime import yield_to_others
from edgepv.runtimes.engine import Engine
from edgepv.runtimes.events.odd import known
from edgepv.runtimes.events.rules import ANY, MOVING, Polygon, Rule, Rules, Zone
from edgepv.runtimes.events.watch import Positions
from edgepv.runtimes.player import Player, above_mean
from edgepv.types import ModelSpec, Variant

MOVED, MOVED_S, SEEN = 0.03, 1.0, 0.5
"""A point moves if it was this far away, in image heights, within so many seconds, and is seen now."""
HALF, ALMOST_ALL = 0.5, 0.8
"""Shares of what speaks for a label that are left when a zone is shown alone."""
BLUR = 1 / 8
"""Standard deviation of the blur of what is not shown, in image heights."""
AGAIN_S = 1.0
"""Least time between two searches for one label."""
NULL = "null"

Within = Mapping[str, frozenset[str]]
"""label -> names of the zones that hold it."""


def labels_of(spec: ModelSpec) -> tuple[str, ...]:
    """What a rule may be about: the labels, of a segmenter but the background, or "moving" of a tracker."""
    if task_of(spec).follows:
        return (MOVING,)
    return spec.labels[1:] if spec.masks is not None and spec.masks.background else spec.labels


def check_rules(rules: Rules, variant: Variant) -> None:
    """Raise UsageError for a rule that could never fire with this model, or whose zones mean nothing."""
    spec = variant.spec
    if rules.tracks and not task_of(spec).finds:
        raise rules.wrong(
            f"track rule for '{rules.tracks[0].label}': {spec.name} is for {spec.task} and finds no boxes. "
            "Run a model for detection, such as person-detector"
        )
    if any(rule.label != ANY for rule in rules.rules) and not labels_of(spec):
        raise rules.wrong(f"{spec.name} is for {spec.task} and gives no label that a rule could be about")
    for rule in rules.rules:
        if rule.what is not None and rule.what not in known(spec):
            raise rules.wrong(f"rule for '{ANY}': {unknown('score', rule.what, known(spec))}")
        unsure = rule.label == ANY and rule.what is None
        if unsure and (len(spec.labels) < 2 or not task_of(spec).classifies):
            one = task_of(spec).classifies and spec.labels
            what = "a model with one label" if one else f"a model for {spec.task}"
            raise rules.wrong(f"rule for '*': {what} like {spec.name} has no labels to be in doubt about")
        if rule.zones and variant.engine == NULL:
            raise rules.wrong(
                f"rule for '{rule.label}': it has a zone, and {spec.name} cannot say where: its engine "
                "answers without looking. Remove the rule's zones"
            )
    rules.check_labels(labels_of(spec))


class MovingPoints:
    """Which of a tracker's points move, and where."""

    def __init__(self, spec: ModelSpec) -> None:
        height, width = spec.input.shape[-2:]
        self._aspect = width / height
        self.forget()

    def forget(self) -> None:
        """What comes next has nothing to do with what was seen."""
        self._seen: dict[int, deque[tuple[float, float, float]]] = {}

    def __call__(self, time_s: float, tracks: Iterable[Sequence[float]], ids: Sequence[int]) -> Positions:
        """The moving ones as {"moving": [(x, y, visibility)]}, in shares of the picture's width and height.

        tracks: (x, y, visibility), x and y in image heights. ids: the point in each row, -1 for none.
        """
        moving = []
        for name, row in zip(ids, tracks):
            x, y, visible = map(float, row)
            if name < 0 or visible < SEEN:
                continue
            before = self._seen.setdefault(name, deque())
            while before and not 0 <= time_s - before[0][0] <= MOVED_S:
                before.popleft()
            if any((x - u) ** 2 + (y - v) ** 2 >= MOVED**2 for _, u, v in before):
                moving.append((x / self._aspect, y, visible))
            before.append((time_s, x, y))
        self._seen = {name: before for name, before in self._seen.items() if name in ids}
        return {MOVING: moving}


def alone(frames: np.ndarray, polygons: Sequence[Polygon], *, rest: bool = False) -> np.ndarray:
    """The clip with only these parts of the picture in it; all else is one blurred picture that stands still.

    frames: (T, C, h, w). polygons: with ``rest``, the parts that are not shown. What stands still is the mean
    over time, blurred by 1/8 of the height. Source: Fong & Vedaldi 2017, "Interpretable Explanations of Black
    Boxes by Meaningful Perturbation", the blur.
    """
    cv2 = need("cv2", extra="cpu")
    height, width = frames.shape[-2:]
    mean = np.ascontiguousarray(frames.mean(0).transpose(1, 2, 0))
    still = cv2.GaussianBlur(mean, (0, 0), BLUR * height).reshape(height, width, -1).transpose(2, 0, 1)
    parts = np.zeros((height, width), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(parts, [np.rint(np.array(polygon) * (width, height)).astype(np.int32)], 1)
    return np.where((parts == 0) == rest, frames, still).astype(np.float32)


def holding(player: Player, frames: np.ndarray, label: int, zones: Sequence[Zone]) -> frozenset[str]:
    """The zones that hold a label in the frames (T, C, h, w).

    What speaks for a label is its logit above the mean of all, less what it is when nothing is shown. A zone
    holds it if, shown alone, half of that or more is left, and no less than when all but the zone is shown;
    or if so much is left that what happens elsewhere does not matter. If no zone does but all together do,
    the one that holds most of it stands for them. Costs 2 evaluations of the frames, 2 more for each zone,
    and 2 more where there are several.
    """

    def speaks(polygons: Sequence[Polygon], *, rest: bool = False) -> float:
        return above_mean(player.logits(alone(frames, polygons, rest=rest)), label) - none

    def holds(polygons: Sequence[Polygon], inside: float) -> bool:
        return inside >= ALMOST_ALL * whole or (
            inside >= HALF * whole and inside >= speaks(polygons, rest=True)
        )

    none = above_mean(player.logits(alone(frames, ())), label)
    whole = above_mean(player.logits(frames), label) - none
    if whole <= 0:
        return frozenset()
    inside = {z.name: speaks([z.polygon]) for z in zones}
    holders = frozenset(z.name for z in zones if holds([z.polygon], inside[z.name]))
    if holders or len(zones) < 2:
        return holders
    every = [z.polygon for z in zones]
    return frozenset({max(inside, key=lambda n: inside[n])}) if holds(every, speaks(every)) else holders


@dataclass
class _Search:
    """One label's state: whether it is wanted, and which zones held it last."""

    zones: tuple[Zone, ...]
    wanted: bool = False
    holders: frozenset[str] = frozenset()
    next_s: float = 0.0


class ZoneSearch:
    """Finds the zones that hold what a classifier sees, in a thread of low priority, while a label is wanted.

    rules: of one camera. engine: for this alone. fault: hears what goes wrong there; a label is nowhere then.
    cost: calls of the model that one search of the costliest label takes at most.
    """

    def __init__(
        self,
        engine: Engine,
        variant: Variant,
        rules: Sequence[Rule],
        zones: Sequence[Zone],
        fault: Callable[[Exception], None],
    ) -> None:
        self._engine, self._spec, self._fault = engine, variant.spec, fault
        self._player = Player(engine, variant)
        stream = variant.stream
        chunk, warmup = (stream.chunk, stream.warmup) if stream else (1, variant.spec.frames)
        length = -(-warmup // chunk) * chunk
        self._frames: deque[np.ndarray] = deque(maxlen=length)
        self._searches = {
            label: _Search(
                tuple(z for z in zones if any(z.name in r.zones for r in rules if r.label == label))
            )
            for label in dict.fromkeys(r.label for r in rules if r.zones)
        }
        most = max((len(s.zones) for s in self._searches.values()), default=0)
        self.cost = (2 + 2 * most + 2 * (most > 1)) * (length if stream else 1)
        self._lock = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="zones", daemon=True)
        self._thread.start()

    def see(self, frame: np.ndarray, *, restarted: bool = False) -> None:
        """Keep a frame, (H, W, 3) uint8 BGR, that the model is given. restarted: nothing before it counts."""
        small = at_model_size(frame, self._spec)
        with self._lock:
            if restarted:
                self._frames.clear()
            self._frames.append(small)

    def within(self, scores: Mapping[str, float], lows: Mapping[str, float]) -> Within:
        """The zones of each label with a zone, as last found; a label below its ``low`` is not looked for."""
        with self._lock:
            for label, search in self._searches.items():
                search.wanted = scores.get(label, 0.0) >= lows[label]
                if not search.wanted:
                    search.holders = frozenset()
            self._lock.notify_all()
            return {label: search.holders for label, search in self._searches.items()}

    def close(self) -> None:
        """End the thread and free the engine."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self._thread.join(5.0)
        if not self._thread.is_alive():
            self._engine.close()

    def _work(self) -> None:
        yield_to_others()
        while True:
            with self._lock:
                due = self._next()
                while due is None and not self._closed:
                    self._lock.wait(AGAIN_S)
                    due = self._next()
                if self._closed or due is None:
                    return
                label, frames = due, list(self._frames)
            zones: frozenset[str] = frozenset()
            try:
                clip = np.concatenate([preprocess(frame, self._spec) for frame in frames])
                zones = holding(
                    self._player, clip, self._spec.labels.index(label), self._searches[label].zones
                )
            except Exception as e:
                self._fault(e)
            with self._lock:
                search = self._searches[label]
                search.holders = zones if search.wanted else frozenset()
                search.next_s = time.monotonic() + AGAIN_S

    def _next(self) -> str | None:
        """A wanted label whose turn it is, once the model's whole look back is here."""
        if len(self._frames) < (self._frames.maxlen or 0):
            return None
        due = [label for label, s in self._searches.items() if s.wanted and s.next_s <= time.monotonic()]
        return min(due, key=lambda label: self._searches[label].next_s, default=None)


def needs_search(rules: Sequence[Rule], variant: Variant) -> bool:
    """Whether where a label is must be searched for."""
    return task_of(variant.spec).classifies and any(rule.zones for rule in rules)
