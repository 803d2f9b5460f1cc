"""The file of a camera's rules: zones, labels, thresholds, times; read strictly."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from edgepv.base.files import check_part, read_toml
from edgepv.base.optional import need
from edgepv.errors import UsageError, unknown
from edgepv.runtimes.events.odd import DOUBTS, Doubt, bounded
from edgepv.types import decode

Point: TypeAlias = tuple[float, float]
Polygon: TypeAlias = tuple[Point, ...]
Covered: TypeAlias = Literal["face", "person"]
ANY = "*"
ANOMALY = "anomaly"
MOVING = "moving"
"""What a rule about a tracker is about: the visibility of the points that move."""
SHOWN = 16
"""Digits of a digest that a message shows."""


@dataclass(frozen=True)
class Rule:
    """When a label becomes an event. All scores are smoothed ones, 0 to 1; all times in seconds.

    threshold: an event starts once the score stayed at or above it for min_s. release: it ends once the
    score is below this; None: the threshold. smooth_s: time constant of the smoothing, 0 for none.
    cooldown_s: from the end of one event to the start of the next. hold_s: how long a running event outlives
    answers that are stale or not valid; longer than the time between two answers.
    zones: where the label must be, in one of them; elsewhere, or while that is not known, it counts as 0.
    camera: the only one the rule is for; None: every one.
    Label "*" is the anomaly rule: its score is how unsure the model is, ``doubt`` says by which measure
    ("entropy": of all scores, 1 where all are equal; "rest": 1 - the highest score; "margin": 1 - by how much
    the highest is above the second). what: another score of the whole picture, by its name (``events.odd``):
    an answer of the model that is one number, which may be above 1, such as "surprise", or "background".
    learned_on: digest of the bundle with which the threshold was learned; None: of none, or nobody says.
    """

    label: str
    threshold: float
    release: float | None = None
    smooth_s: float = 0.0
    min_s: float = 0.0
    cooldown_s: float = 0.0
    hold_s: float = 2.0
    zones: tuple[str, ...] = ()
    camera: str | None = None
    doubt: Doubt = "entropy"
    what: str | None = None
    learned_on: str | None = None

    @property
    def low(self) -> float:
        """Below this score a running event ends."""
        return self.threshold if self.release is None else self.release


@dataclass(frozen=True)
class Zone:
    """A named part of the picture. polygon: corners (x, y), relative to width and height, 0 to 1."""

    name: str
    polygon: Polygon

    def holds(self, x: float, y: float) -> bool:
        """Whether a point is inside or on the edge."""
        cv2 = need("cv2", extra="cpu")
        return bool(cv2.pointPolygonTest(np.array(self.polygon, np.float32), (x, y), False) >= 0)


@dataclass(frozen=True)
class Line:
    """A named line that tracks cross, from ``start`` to ``end``, relative to width and height, 0 to 1.

    Who crosses it to the left of one who goes from start to end comes "in", as in supervision's LineZone:
    drawn from left to right, a line is crossed "in" upwards.
    """

    name: str
    start: Point
    end: Point

    def side(self, x: float, y: float) -> float:
        """Below 0 to the left of the line, above 0 to its right, 0 on it."""
        (x0, y0), (x1, y1) = self.start, self.end
        return (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)

    def between(self, one: Point, other: Point) -> bool:
        """Whether the way from a point on one side to one on the other goes over the line, not round it."""
        way = Line("", one, other)
        return way.side(*self.start) * way.side(*self.end) <= 0


@dataclass(frozen=True)
class TrackRule:
    """When what a detector's tracks do becomes an event: in which zones, over which lines.

    A track is where the middle of its box's lower edge is. min_score: it counts once one of its boxes was so
    sure. min_area, max_area: a box that is smaller or larger counts as not seen; in shares of the picture.
    inertia: so many answers in a row say the
    same before it counts. dwell_s: a stay of so many seconds is told once more; None: it is not. camera: the
    only one the rule is for; None: every one.
    """

    label: str
    zones: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    dwell_s: float | None = None
    min_score: float = 0.5
    min_area: float = 0.0
    max_area: float = 1.0
    inertia: int = 3
    camera: str | None = None


@dataclass(frozen=True)
class Rules:
    """All rules, the zones and lines they name. Raises UsageError if a number or a name makes no sense.

    file: that they were read from, for messages; "" for none.
    """

    rules: tuple[Rule, ...]
    zones: tuple[Zone, ...] = ()
    tracks: tuple[TrackRule, ...] = ()
    lines: tuple[Line, ...] = ()
    file: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        zones, lines = [z.name for z in self.zones], [one.name for one in self.lines]
        for what, names in (("zone", zones), ("line", lines)):
            if len(set(names)) != len(names):
                raise UsageError(
                    f"{what} '{max(names, key=names.count)}' is there twice. Give each its own name"
                )
        for zone in self.zones:
            _refuse_crossing(zone)
            check_polygon(zone.polygon, f"zone '{zone.name}'")
        for line in self.lines:
            _check_line(line)
        for rule in self.rules:
            _check_rule(rule, zones)
        for track in self.tracks:
            _check_track(track, zones, lines)

    @property
    def all(self) -> tuple[Rule | TrackRule, ...]:
        """Those about scores and those about tracks."""
        return (*self.rules, *self.tracks)

    def of(self, camera: str) -> tuple[Rule, ...]:
        """The rules about scores that are for this camera."""
        return tuple(r for r in self.rules if r.camera in (None, camera))

    def tracks_of(self, camera: str) -> tuple[TrackRule, ...]:
        """The rules about tracks that are for this camera."""
        return tuple(r for r in self.tracks if r.camera in (None, camera))

    def shapes(self, camera: str) -> tuple[tuple[str, Sequence[Point]], ...]:
        """Name and corners of each zone and line that a rule of this camera names."""
        tracks = self.tracks_of(camera)
        zones = {name for rule in self.of(camera) for name in rule.zones}
        zones |= {name for rule in tracks for name in rule.zones}
        lines = {name for rule in tracks for name in rule.lines}
        return (
            *((zone.name, zone.polygon) for zone in self.zones if zone.name in zones),
            *((line.name, (line.start, line.end)) for line in self.lines if line.name in lines),
        )

    def wrong(self, what: str) -> UsageError:
        """What is wrong with them, and the file that says it."""
        return UsageError(f"{self.file}: {what}" if self.file else what)

    def learned_elsewhere(self, bundle: str, cameras: Collection[str]) -> tuple[str, ...]:
        """A line for each rule of these cameras whose threshold was learned with another bundle.

        bundle: digest of the one that runs.
        """
        where = f"{self.file}: " if self.file else ""
        return tuple(
            f"{where}the threshold {rule.threshold:g} for {rule.what or rule.doubt} was learned with bundle "
            f"{str(rule.learned_on)[:SHOWN]}, this is {bundle[:SHOWN]}: there may be many more alarms than "
            "were asked for, or none. Learn it again: edgepv calibrate-normal"
            for rule in self.rules
            if rule.learned_on not in (None, bundle) and (rule.camera is None or rule.camera in cameras)
        )

    def check_labels(self, labels: Sequence[str]) -> None:
        """Raise UsageError if a rule is for a label the model does not have: it would never fire."""
        for rule in self.all:
            if rule.label != ANY and rule.label not in labels:
                raise self.wrong(f"rule for '{rule.label}': {unknown('label', rule.label, labels)}")


@dataclass(frozen=True)
class LiveConfig:
    """What a live file says.

    masks: polygons hidden from everyone, the model too. redact: polygons hidden from all but the model.
    cover: what is hidden from all but the model, wherever it is: "face", "person".
    """

    camera: str
    rules: Rules
    masks: tuple[Polygon, ...] = ()
    redact: tuple[Polygon, ...] = ()
    cover: tuple[Covered, ...] = ()


@dataclass(frozen=True)
class _Camera:
    name: str


@dataclass(frozen=True)
class _Mask:
    polygon: Polygon


@dataclass(frozen=True)
class _Redact:
    regions: tuple[Polygon, ...] = ()
    what: tuple[Covered, ...] = ()


@dataclass(frozen=True)
class _Document:
    """The sections of the file, by their names in it."""

    camera: _Camera | None = None
    rule: tuple[Rule, ...] = ()
    track: tuple[TrackRule, ...] = ()
    zone: tuple[Zone, ...] = ()
    line: tuple[Line, ...] = ()
    mask: tuple[_Mask, ...] = ()
    redact: _Redact = field(default_factory=_Redact)


def read_rules(path: Path) -> LiveConfig:
    """A live file (TOML). Raises UsageError naming the place of an unknown key or a wrong value."""
    data = read_toml(path, wanted="--rules wants a TOML file like examples/alarm.toml")
    for key in ("rule", "track", "zone", "line", "mask"):
        if isinstance(data.get(key), dict):
            raise UsageError(f"{path.name}: there may be several of [{key}]. Write [[{key}]]")
    document = decode(_Document, data, where=path.name)
    if document.camera is None:
        raise UsageError(f'{path.name}: the camera has no name. Add [camera] with name = "..."')
    if not (document.rule or document.track or document.mask or document.redact != _Redact()):
        raise UsageError(
            f"{path.name} asks for nothing. Write a [[rule]], a [[track]], a [[mask]] or [redact]"
        )
    try:
        check_part(document.camera.name, "camera.name")
        for n, mask in enumerate(document.mask):
            check_polygon(mask.polygon, f"mask[{n}]")
        for n, region in enumerate(document.redact.regions):
            check_polygon(region, f"redact.regions[{n}]")
        rules = Rules(document.rule, document.zone, document.track, document.line, path.name)
    except UsageError as e:
        raise UsageError(f"{path.name}: {e}") from e
    return LiveConfig(
        document.camera.name,
        rules,
        tuple(m.polygon for m in document.mask),
        document.redact.regions,
        tuple(dict.fromkeys(document.redact.what)),
    )


def check_polygon(polygon: Polygon, what: str) -> None:
    """Raise UsageError unless there are 3 corners or more, within the picture, around some area."""
    if len(polygon) < 3:
        raise UsageError(f"{what}: a polygon has 3 corners or more, this one has {len(polygon)}")
    _check_corners(polygon, what)
    pairs = zip(polygon, (*polygon[1:], polygon[0]))
    if abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs)) < 1e-9:
        raise UsageError(f"{what}: the corners are on one line and hold no area")


def _check_corners(corners: Sequence[Point], what: str) -> None:
    for x, y in corners:
        if not (0 <= x <= 1 and 0 <= y <= 1):  # NaN is outside too
            pixels = ": divide pixels by its width and height" if max(x, y) > 2 else ""
            raise UsageError(
                f"{what}: corner ({x:g}, {y:g}) is outside the picture. Corners are 0 to 1{pixels}"
            )


def _check_line(line: Line) -> None:
    what = f"line '{line.name}'"
    _check_corners((line.start, line.end), what)
    if math.dist(line.start, line.end) < 1e-6:
        raise UsageError(f"{what} begins where it ends. Give it two ends")


def _refuse_crossing(zone: Zone) -> None:
    """Raise UsageError if two edges cross: what is inside of such a polygon is anybody's guess."""
    corners, count = zone.polygon, len(zone.polygon)

    def side(a: Point, b: Point, c: Point) -> float:
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    for i in range(count):
        for j in range(i + 2, count - (i == 0)):
            a, b, c, d = corners[i], corners[i + 1], corners[j], corners[(j + 1) % count]
            if side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0:
                raise UsageError(
                    f"zone '{zone.name}': its edge from corner {i + 1} crosses the one from corner {j + 1}. "
                    "Give the corners in their order around the zone"
                )


def _check_rule(rule: Rule, zones: Sequence[str]) -> None:
    what = f"rule for '{rule.label}'"
    most = 1.0 if rule.what is None or bounded(rule.what) else math.inf
    if not (0 < rule.threshold <= most and rule.threshold < math.inf):
        raise UsageError(f"{what}: threshold {rule.threshold:g} is not above 0 and up to {most:g}")
    if not 0 < rule.low <= rule.threshold:
        raise UsageError(f"{what}: release {rule.low:g} is not above 0 and up to the threshold")
    if not rule.hold_s > 0:
        raise UsageError(f"{what}: hold_s = {rule.hold_s:g} would end every event at the next answer")
    for name in ("smooth_s", "min_s", "cooldown_s", "hold_s"):
        if not 0 <= getattr(rule, name) < math.inf:
            raise UsageError(f"{what}: {name} = {getattr(rule, name):g} is not a number of seconds")
    for zone in rule.zones:
        if zone not in zones:
            raise UsageError(f"{what}: {unknown('zone', zone, zones)}")
    if rule.label == ANY and rule.zones:
        raise UsageError(f"{what}: doubt is about the whole picture and has no place. Remove its zones")
    if rule.what is not None and rule.label != ANY:
        raise UsageError(f"{what}: what = '{rule.what}' is about the whole picture. Write label = \"{ANY}\"")
    if rule.what in DOUBTS:
        raise UsageError(f'{what}: write doubt = "{rule.what}" in place of what')
    if rule.learned_on is not None and not re.fullmatch(r"[0-9a-f]{64}", rule.learned_on):
        raise UsageError(
            f"{what}: learned_on is no digest of a bundle. Leave it as edgepv calibrate-normal wrote it, or "
            "out"
        )


def _check_track(rule: TrackRule, zones: Sequence[str], lines: Sequence[str]) -> None:
    what = f"track rule for '{rule.label}'"
    if rule.label == ANY:
        raise UsageError(f"{what}: write the label of what is followed, such as person")
    if not rule.zones and not rule.lines:
        raise UsageError(f"{what}: it has neither zones nor lines, so nothing would be told. Name some")
    for kind, named, known in (("zone", rule.zones, zones), ("line", rule.lines, lines)):
        for name in named:
            if name not in known:
                raise UsageError(f"{what}: {unknown(kind, name, known)}")
    if rule.inertia < 1:
        raise UsageError(f"{what}: inertia = {rule.inertia} is not a number of answers, 1 or more")
    if not 0 <= rule.min_score <= 1:
        raise UsageError(f"{what}: min_score {rule.min_score:g} is not 0 to 1")
    if not 0 <= rule.min_area < rule.max_area <= 1:
        raise UsageError(
            f"{what}: areas from {rule.min_area:g} to {rule.max_area:g} are no shares of the picture, 0 to 1"
        )
    if rule.dwell_s is not None and not 0 < rule.dwell_s < math.inf:
        raise UsageError(f"{what}: dwell_s = {rule.dwell_s:g} is not a number of seconds")
