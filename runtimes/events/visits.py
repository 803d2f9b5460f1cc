"""From tracks to events: who enters a zone, stays in it, leaves it, and who crosses a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from edgepv.data.boxes import Detections
from edgepv.runtimes.events.event import Event, step_of
from edgepv.runtimes.events.rules import Line, Point, Rules, TrackRule, Zone
from edgepv.runtimes.events.tracks import LOST_S
from edgepv.runtimes.record import Record


@dataclass(frozen=True)
class Seen:
    """A track in one answer. at: the middle of its box's lower edge, where a person stands."""

    number: int
    score: float
    at: Point


@dataclass
class _Stay:
    """One track and one zone. inside, outside: answers in a row. since: the first one inside, both clocks."""

    inside: int = 0
    outside: int = 0
    since: tuple[float, float] = (0.0, 0.0)
    seen_at: float = 0.0
    dwelt: bool = False
    event: Event | None = None


@dataclass
class _Passage:
    """One track and one line. left: on which side it is held to be. at: where it was last seen there.

    other: answers in a row on the other side; there: the first of these places; since: its wall time.
    """

    left: bool
    at: Point
    seen_at: float
    other: int = 0
    there: Point = (0.0, 0.0)
    since: float = 0.0


class Visits:
    """What the tracks of one camera do, by one rule. Not for several threads at once."""

    def __init__(self, rule: TrackRule, rules: Rules, camera: str, suffix: Callable[[], str]) -> None:
        self.rule, self._camera, self._suffix = rule, camera, suffix
        self._zones = [zone for zone in rules.zones if zone.name in rule.zones]
        self._lines = [line for line in rules.lines if line.name in rule.lines]
        self._stays: dict[tuple[int, str], _Stay] = {}
        self._passages: dict[tuple[int, str], _Passage] = {}
        self._crossed: Counter[tuple[str, str]] = Counter()
        self._sure: dict[int, float] = {}

    def see(self, now: float, wall: float, found: Detections, labels: Sequence[str]) -> list[Record]:
        """What one answer changes. now: seconds on a clock that never runs backwards. labels: the model's."""
        records = self.blind(now, wall)
        for seen in self._fitting(now, found, labels):
            for zone in self._zones:
                records += self._stay(now, wall, seen, zone)
            for line in self._lines:
                records += self._pass(now, wall, seen, line)
        return records

    def blind(self, now: float, wall: float) -> list[Record]:
        """Time goes by: who was not seen for LOST_S is gone."""
        why = f"not seen for {LOST_S:g} s"
        gone = [key for key, stay in self._stays.items() if now - stay.seen_at > LOST_S]
        records = [record for key in gone for record in self._leave(key, wall, why)]
        self._passages = {k: p for k, p in self._passages.items() if now - p.seen_at <= LOST_S}
        self._sure = {number: seen_at for number, seen_at in self._sure.items() if now - seen_at <= LOST_S}
        return records

    def end(self, now: float, wall: float, why: str) -> list[Record]:
        """Everybody is gone: the camera was away, or the run ends. What was counted stays counted."""
        self._passages = {}
        return [record for key in list(self._stays) for record in self._leave(key, wall, why)]

    def shift(self, by_s: float) -> None:
        """The wall clock was set by so much."""
        for stay in self._stays.values():
            stay.since = (stay.since[0], stay.since[1] + by_s)
            if stay.event:
                stay.event = replace(stay.event, start_time=stay.event.start_time + by_s)
        for passage in self._passages.values():
            passage.since += by_s

    def _fitting(self, now: float, found: Detections, labels: Sequence[str]) -> Iterator[Seen]:
        """The tracks that the rule is about; one that was once as sure as it wants stays so."""
        for box, score, label, number in zip(found.boxes, found.scores, found.labels, found.ids):
            left, top, right, bottom = (float(v) for v in box)
            area = (right - left) * (bottom - top)
            if number < 0 or labels[label] != self.rule.label:
                continue
            if score >= self.rule.min_score or number in self._sure:
                self._sure[int(number)] = now
            if number in self._sure and self.rule.min_area <= area <= self.rule.max_area:
                yield Seen(int(number), round(float(score), 4), ((left + right) / 2, bottom))

    def _stay(self, now: float, wall: float, seen: Seen, zone: Zone) -> list[Record]:
        key = (seen.number, zone.name)
        stay = self._stays.setdefault(key, _Stay())
        stay.seen_at = now
        if zone.holds(*seen.at):
            stay.since = stay.since if stay.inside else (now, wall)
            stay.inside, stay.outside = stay.inside + 1, 0
        else:
            stay.outside += 1
            stay.inside = stay.inside if stay.event else 0
        if stay.event is None:
            return self._enter(key, stay, seen) if stay.inside >= self.rule.inertia else []
        stay.event = replace(stay.event, score=seen.score, top_score=max(seen.score, stay.event.top_score))
        if stay.outside >= self.rule.inertia:
            return self._leave(key, wall, "it left the zone")
        return self._dwell(now, stay, stay.event)

    def _enter(self, key: tuple[int, str], stay: _Stay, seen: Seen) -> list[Record]:
        number, zone = key
        name = f"{stay.since[1]:.6f}-{self._suffix()}"
        about = (("track", number), ("zone", zone), ("count", self._inside(zone) + 1))
        stay.event = Event(
            name, self._camera, self.rule.label, seen.score, seen.score, stay.since[1], None, (zone,), about
        )
        return [step_of("new", None, stay.event, what="enters")]

    def _dwell(self, now: float, stay: _Stay, event: Event) -> list[Record]:
        """Once in an event, when it has lasted for dwell_s."""
        if self.rule.dwell_s is None or stay.dwelt or stay.outside or now - stay.since[0] < self.rule.dwell_s:
            return []
        stay.dwelt = True
        stay.event = self._counted(event)
        return [step_of("update", event, stay.event, what="dwells")]

    def _leave(self, key: tuple[int, str], wall: float, why: str) -> list[Record]:
        event = self._stays.pop(key).event
        if event is None:
            return []
        return [step_of("end", event, replace(self._counted(event), end_time=wall), what="leaves", why=why)]

    def _counted(self, event: Event) -> Event:
        """The event with how many are in its zone now."""
        (zone,) = event.zones
        return replace(event, about=(*event.about[:2], ("count", self._inside(zone))))

    def _inside(self, zone: str) -> int:
        return sum(where == zone and stay.event is not None for (_, where), stay in self._stays.items())

    def _pass(self, now: float, wall: float, seen: Seen, line: Line) -> list[Record]:
        left = line.side(*seen.at) < 0
        passage = self._passages.setdefault((seen.number, line.name), _Passage(left, seen.at, now))
        passage.seen_at = now
        if left == passage.left:
            passage.at, passage.other = seen.at, 0
            return []
        if not passage.other:
            passage.there, passage.since = seen.at, wall
        passage.other += 1
        if passage.other < self.rule.inertia:
            return []
        crossed = line.between(passage.at, passage.there)
        passage.left, passage.at, passage.other = left, seen.at, 0
        return self._cross(passage.since, seen, line, "in" if left else "out") if crossed else []

    def _cross(self, wall: float, seen: Seen, line: Line, direction: str) -> list[Record]:
        """An event that begins and ends at once."""
        self._crossed[line.name, direction] += 1
        count = self._crossed[line.name, direction]
        about = (("track", seen.number), ("line", line.name), ("direction", direction), ("count", count))
        name = f"{wall:.6f}-{self._suffix()}"
        begun = Event(name, self._camera, self.rule.label, seen.score, seen.score, wall, None, (), about)
        ended = replace(begun, end_time=wall)
        return [
            step_of("new", None, begun, what="crosses"),
            step_of("end", begun, ended, why="a line is crossed at once"),
        ]
