"""From scores to events: rules with hysteresis, smoothing over time, zones, and one record per change."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from edgepv.data.boxes import Detections
from edgepv.errors import UsageError, unknown
from edgepv.runtimes.events.event import Event, random_suffix, step_of
from edgepv.runtimes.events.odd import doubt
from edgepv.runtimes.events.rules import ANOMALY, ANY, Rule, Rules
from edgepv.runtimes.events.visits import Visits
from edgepv.runtimes.record import Record

Position: TypeAlias = tuple[float, float, float]
Positions: TypeAlias = Mapping[str, Sequence[Position]]
Areas: TypeAlias = Mapping[str, Mapping[str, float]]

UPDATE_RISE = 0.05
UPDATE_S = 1.0


class Events:
    """Watches one camera by the rules that are for it. Not for several threads at once.

    suffix: makes the part of an event's id that follows its start time.
    """

    def __init__(self, rules: Rules, camera: str, *, suffix: Callable[[], str] | None = None) -> None:
        self._zones = rules.zones
        self._watches = [_Watch(rule, camera, suffix or random_suffix) for rule in rules.of(camera)]
        self._visits = [Visits(r, rules, camera, suffix or random_suffix) for r in rules.tracks_of(camera)]
        self._all: tuple[_Watch | Visits, ...] = (*self._watches, *self._visits)
        self._clock, self._time_s, self._wall = 0.0, math.nan, math.nan

    def step(
        self,
        time_s: float,
        wall_time: float,
        scores: Mapping[str, float],
        *,
        valid: bool,
        stale: bool,
        positions: Positions | None = None,
        within: Mapping[str, frozenset[str]] | None = None,
        found: Detections | None = None,
        areas: Areas | None = None,
        odd: Mapping[str, float] | None = None,
    ) -> list[Record]:
        """Records of what changed with one answer.

        time_s: the frame's, on the source's clock. wall_time: seconds since 1970, for the records. scores:
        of every label, 0 to 1. positions: label -> (x, y, score) of where it was seen, relative to width and
        height. within: label -> the zones that hold it; for models that know no points. A label in neither is
        nowhere. areas: zone -> label -> the share of the zone that it takes, which is its score there. found:
        the boxes with their tracks' numbers, their labels places among those of ``scores``.
        odd: how odd the picture is, by the names of scores that rules say in ``what``; NaN where that is not
        known, which starts no event of such a rule.
        Answers that are stale, not valid or not finite start no event.
        Raises UsageError for a rule whose label, or whose ``what``, has no score.
        """
        self._advance(time_s, wall_time)
        if stale or not valid or not all(math.isfinite(s) for s in scores.values()):
            return [record for one in self._all for record in one.blind(self._clock, wall_time)]
        records = []
        for watch in self._watches:
            seen = positions or {}, within or {}, areas or {}
            score, zones = self._seen(watch.rule, scores, odd or {}, *seen)
            if math.isfinite(score):
                records += watch.see(self._clock, wall_time, score, zones)
            else:
                records += watch.blind(self._clock, wall_time)
        for visits in self._visits:
            if found is not None:
                records += visits.see(self._clock, wall_time, found, list(scores))
        return records

    def restart(self, wall_time: float, why: str = "the camera was gone") -> list[Record]:
        """End what is running: what comes next has nothing to do with it.

        Until the next answer cooldowns go by the wall clock.
        """
        if wall_time > self._wall:  # not for NaN: nothing was seen yet
            self._clock += wall_time - self._wall
            self._wall = wall_time
        self._time_s = math.nan
        return [record for one in self._all for record in one.end(self._clock, wall_time, why)]

    def close(self, wall_time: float) -> list[Record]:
        """End what is running because the program ends."""
        return self.restart(wall_time, "shutdown")

    def shift(self, by_s: float) -> None:
        """The wall clock was set by so much: what is running began so much later. Durations stay."""
        self._wall += by_s
        for one in self._all:
            one.shift(by_s)

    def _advance(self, time_s: float, wall_time: float) -> None:
        """Move the clock that never runs backwards, whatever the source's and the wall's do."""
        gone = wall_time - self._wall if math.isnan(self._time_s) else time_s - self._time_s
        if gone > 0:  # not for NaN: the very first answer
            self._clock += gone
        self._time_s, self._wall = time_s, wall_time

    def _seen(
        self,
        rule: Rule,
        scores: Mapping[str, float],
        odd: Mapping[str, float],
        positions: Positions,
        within: Mapping[str, frozenset[str]],
        areas: Areas,
    ) -> tuple[float, tuple[str, ...]]:
        """The score a rule goes by, and the zones its label is in."""
        if rule.label == ANY:
            return _odd(rule, scores, odd), ()
        if rule.label not in scores:
            raise UsageError(f"rule: {unknown('label', rule.label, scores)}")
        if areas:
            zones = self._named(rule, {zone for zone, of in areas.items() if of[rule.label] >= rule.low})
            best = max((areas[zone][rule.label] for zone in rule.zones), default=scores[rule.label])
            return best, zones
        if rule.label not in positions:
            zones = self._named(rule, within.get(rule.label, frozenset()))
            return (scores[rule.label] if zones or not rule.zones else 0.0), zones
        best, inside = 0.0, set()
        for x, y, score in positions[rule.label]:
            where = {z.name for z in self._zones if z.holds(x, y)}
            if where.intersection(rule.zones):
                best = max(best, score)
            if score >= rule.low:
                inside |= where
        return (best if rule.zones else scores[rule.label]), self._named(rule, inside)

    def _named(self, rule: Rule, inside: Collection[str]) -> tuple[str, ...]:
        """Of these zones, those the rule is about; without zones of its own it is about all."""
        return tuple(
            z.name for z in self._zones if z.name in inside and (not rule.zones or z.name in rule.zones)
        )


class _Watch:
    """One rule on one camera: waiting, above the threshold since a while, or in an event."""

    def __init__(self, rule: Rule, camera: str, suffix: Callable[[], str]) -> None:
        self.rule, self._camera, self._suffix = rule, camera, suffix
        self._free_at = -math.inf
        self._event: Event | None = None
        self._told: Event | None = None
        self._told_at = -math.inf
        self._forget()

    def _forget(self) -> None:
        self._score: float | None = None
        self._seen_at = -math.inf
        self._above: tuple[float, float] | None = None

    def shift(self, by_s: float) -> None:
        """The wall clock was set: what began by the old one began ``by_s`` later. What was told was told."""
        if self._above:
            self._above = (self._above[0], self._above[1] + by_s)
        if self._event:
            self._event = replace(self._event, start_time=self._event.start_time + by_s)

    def see(self, now: float, wall: float, raw: float, zones: tuple[str, ...]) -> list[Record]:
        """A good answer. now: seconds on a clock that never runs backwards."""
        records = self._outlived(now, wall)
        score = self._score = self._smoothed(now, raw)
        self._seen_at = now
        if self._event is None:
            return records + self._wait(now, wall, score, zones)
        entered = tuple(z for z in zones if z not in self._event.zones)
        self._event = replace(
            self._event,
            score=score,
            top_score=max(score, self._event.top_score),
            zones=self._event.zones + entered,
        )
        if score < self.rule.low:
            return records + self.end(now, wall, f"the score fell below {self.rule.low:g}")
        return records + self._tell(now)

    def blind(self, now: float, wall: float) -> list[Record]:
        """An answer that says nothing: it starts nothing, and a running event lives for hold_s."""
        return self._outlived(now, wall)

    def end(self, now: float, wall: float, why: str) -> list[Record]:
        """The end of the running event, if there is one; what was seen is forgotten."""
        event, told = self._event, self._told
        self._forget()
        if event is None or told is None:
            return []
        self._event = self._told = None
        self._free_at = now + self.rule.cooldown_s
        ended = replace(event, end_time=max(wall, event.start_time))
        return [step_of("end", told, ended, why=why)]

    def _outlived(self, now: float, wall: float) -> list[Record]:
        if now - self._seen_at <= self.rule.hold_s:
            return []
        return self.end(now, wall, f"no fresh and valid answer for {self.rule.hold_s:g} s")

    def _smoothed(self, now: float, raw: float) -> float:
        """Exponential smoothing over time: after smooth_s a step has come 63 % of its way."""
        return smoothed(self._score, raw, now - self._seen_at, self.rule.smooth_s)

    def _wait(self, now: float, wall: float, score: float, zones: tuple[str, ...]) -> list[Record]:
        if score < self.rule.threshold:
            self._above = None
            return []
        since, start = self._above = self._above or (now, wall)
        if now - since < self.rule.min_s or now < self._free_at:
            return []
        label = ANOMALY if self.rule.label == ANY else self.rule.label
        name = f"{start:.6f}-{self._suffix()}"
        self._event = self._told = Event(name, self._camera, label, score, score, start, zones=zones)
        self._told_at = now
        return [step_of("new", None, self._event)]

    def _tell(self, now: float) -> list[Record]:
        """An update if the event got clearly stronger or entered a zone, at most one a second."""
        event, told = self._event, self._told
        if event is None or told is None or now - self._told_at < UPDATE_S:
            return []
        if event.top_score - told.top_score < UPDATE_RISE - 1e-9 and event.zones == told.zones:
            return []
        self._told, self._told_at = event, now
        return [step_of("update", told, event)]


def smoothed(before: float | None, raw: float, gone_s: float, smooth_s: float) -> float:
    """A score smoothed over time. before: the smoothed one ``gone_s`` seconds ago, None for none."""
    if before is None or smooth_s == 0:
        return raw
    return before + (raw - before) * -math.expm1(-gone_s / smooth_s)


def _odd(rule: Rule, scores: Mapping[str, float], odd: Mapping[str, float]) -> float:
    """The score the anomaly rule goes by. Raises UsageError if nobody gives it."""
    if rule.what is None:
        return doubt(list(scores.values()), rule.doubt)
    if rule.what not in odd:
        raise UsageError(f"rule for '{ANY}': {unknown('score', rule.what, odd)}")
    return odd[rule.what]
