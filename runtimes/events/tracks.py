"""Boxes of one frame after the other become tracks: who is who, from one answer to the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from edgepv.data.boxes import Detections

SURE, NEW, LEAST = 0.5, 0.6, 0.1
"""Scores, as in ByteTrack: a box from SURE on may continue any track, one from NEW on begin one; one between
LEAST and SURE, like that of somebody half hidden, may only continue a track that was seen a moment ago."""
OVERLAP, OVERLAP_UNSURE, OVERLAP_NEW = 0.2, 0.5, 0.3
"""Least overlap (IoU; the first times the score) of a box with where its track should be now, as in
ByteTrack: for a sure box, an unsure one, and for a track's second box."""
LOST_S = 1.5
"""A track that was not seen for so long is over: someone behind a post is out again within it."""
MEASURED = 1 / 20
"""How far a detector's box trembles, in its own size, as in DeepSORT."""
SWERVE = 1.0
"""How much a velocity changes within a second, in box sizes a second: DeepSORT's 1/160 a frame at 30 fps."""
STARTING = 2.0
"""How fast a new track may be, in box sizes a second."""


@dataclass
class Track:
    """One thing that is followed.

    number: never used again; -1 before a second box confirmed the first. seen_s: of its last box. mean:
    (4, 2) centre x, y, width, height and the speed of each, in shares of the picture and such shares a
    second. spread: (4, 2, 2) their covariances, one coordinate independent of the other.
    """

    number: int
    label: int
    score: float
    seen_s: float
    mean: np.ndarray
    spread: np.ndarray

    @property
    def box(self) -> np.ndarray:
        """(4,) x1, y1, x2, y2: where it is, by all that was seen of it."""
        x, y, width, height = self.mean[:, 0]
        return np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])

    @property
    def size(self) -> float:
        """What its speeds are measured by: the mean of its sides."""
        return max(float(self.mean[2:, 0].mean()), 1e-3)

    def move(self, seconds: float) -> None:
        """Predict: each coordinate goes on at its speed, which is less and less known."""
        step = np.array([[1.0, seconds], [0.0, 1.0]])
        unknown = (SWERVE * self.size) ** 2
        drift = unknown * np.array([[seconds**3 / 3, seconds**2 / 2], [seconds**2 / 2, seconds]])
        self.mean = self.mean @ step.T
        self.spread = step @ self.spread @ step.T + drift
        if (self.mean[2:, 0] <= 0).any():  # a box that shrank while nobody saw it
            self.mean[2:] = np.maximum(self.mean[2:], 0) + np.array([1e-3, 0])

    def see(self, box: np.ndarray, score: float, time_s: float) -> None:
        """Correct by one box: the Kalman filter's update for a measured place, coordinate by coordinate."""
        noise = (MEASURED * self.size) ** 2
        gain = self.spread[:, :, 0] / (self.spread[:, :1, 0] + noise)
        self.mean = self.mean + gain * (centred(box) - self.mean[:, 0])[:, None]
        self.spread = self.spread - gain[:, :, None] * self.spread[:, None, 0, :]
        self.score, self.seen_s = score, time_s


class Tracker:
    """Gives the boxes of one camera their numbers, in the order of time. The same boxes get the same numbers.

    ByteTrack's method (Zhang et al., ECCV 2022): sure boxes are matched first, by overlap with where a
    Kalman filter of constant velocity expects each track; then the unsure ones, to tracks still seen. It goes
    by real time, so frames may be missing. A box continues a track of its own label only.
    """

    def __init__(self, lost_s: float = LOST_S) -> None:
        self._lost_s, self._time_s, self._next = lost_s, 0.0, 0
        self._tracks: list[Track] = []

    def step(self, time_s: float, found: Detections) -> Detections:
        """The same boxes with their tracks' numbers; -1 for what is no track, or not yet.

        time_s: the frame's, on the source's clock; a clock that ran backwards ends every track.
        """
        if time_s < self._time_s:
            self.forget()
        before_s, gone, self._time_s = self._time_s, time_s - self._time_s, time_s
        self._tracks = [t for t in self._tracks if time_s - t.seen_s <= self._lost_s]
        for track in self._tracks:
            track.move(gone)
        ids = np.full(len(found), -1, np.int64)
        for track, box in self._matched(found, before_s):
            if track.number < 0:
                track.number, self._next = self._next, self._next + 1
            track.see(found.boxes[box], float(found.scores[box]), time_s)
            ids[box] = track.number
        self._tracks = [t for t in self._tracks if t.number >= 0 or t.seen_s == time_s]
        return replace(found, ids=ids)

    def forget(self) -> None:
        """The camera was away: what comes next are others. Numbers go on."""
        self._tracks = []

    def _matched(self, found: Detections, before_s: float) -> Iterator[tuple[Track, int]]:
        """Pairs of a track and the place of its box. Sure boxes that are left begin tracks of their own."""
        sure = np.flatnonzero(found.scores >= SURE)
        unsure = np.flatnonzero((found.scores >= LEAST) & (found.scores < SURE))
        known = [t for t in self._tracks if t.number >= 0]
        new = [t for t in self._tracks if t.number < 0]
        pairs = self._pairs(known, found, sure, OVERLAP, by_score=True)
        left = [t for t in known if t.seen_s == before_s and not any(t is one for one, _ in pairs)]
        pairs += self._pairs(left, found, unsure, OVERLAP_UNSURE)
        sure = np.setdiff1d(sure, [box for _, box in pairs])
        pairs += self._pairs(new, found, sure, OVERLAP_NEW)
        for box in np.setdiff1d(sure, [box for _, box in pairs]):
            if found.scores[box] >= NEW:
                self._tracks.append(self._begun(found, int(box)))
        yield from pairs

    def _pairs(
        self, tracks: list[Track], found: Detections, boxes: np.ndarray, least: float, by_score: bool = False
    ) -> list[tuple[Track, int]]:
        if not tracks or not len(boxes):
            return []
        alike = overlaps(np.stack([t.box for t in tracks]), found.boxes[boxes])
        if by_score:
            alike = alike * found.scores[boxes]
        alike[np.array([t.label for t in tracks])[:, None] != found.labels[boxes]] = 0
        alike[alike < least] = 0
        return [(tracks[row], int(boxes[column])) for row, column in assigned(alike)]

    def _begun(self, found: Detections, box: int) -> Track:
        place = centred(found.boxes[box])
        mean = np.stack([place, np.zeros(4)], axis=1)
        track = Track(-1, int(found.labels[box]), float(found.scores[box]), self._time_s, mean, np.zeros(0))
        track.spread = np.tile(np.diag([MEASURED**2, STARTING**2]) * track.size**2, (4, 1, 1))
        return track


def centred(box: np.ndarray) -> np.ndarray:
    """(4,) centre x, centre y, width, height of a box x1, y1, x2, y2."""
    low, high = np.asarray(box[:2], float), np.asarray(box[2:], float)
    return np.concatenate([(low + high) / 2, high - low])


def overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N, M) intersection over union of (N, 4) and (M, 4) boxes x1, y1, x2, y2; 0 where both are empty."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    common = (high - low).clip(0).prod(axis=2)
    areas = [(b[:, 2:] - b[:, :2]).clip(0).prod(axis=1) for b in (one, other)]
    union = areas[0][:, None] + areas[1] - common
    return np.divide(common, union, out=np.zeros_like(common, dtype=float), where=union > 0)


def assigned(alike: np.ndarray) -> list[tuple[int, int]]:
    """The pairs (row, column) of the largest total, each row and column in one at most; none of them is 0.

    alike: (N, M), 0 or more. Source: the Hungarian method by shortest augmenting paths (Jonker and Volgenant,
    Computing 38, 1987); checked against scipy's in tests/runtimes/test_tracks.py.
    """
    if alike.shape[0] > alike.shape[1]:
        return sorted((row, column) for column, row in assigned(alike.T))
    cost = np.asarray(alike.max(initial=0) - alike, float)
    rows, columns = cost.shape
    price, row_price = np.zeros(columns), np.zeros(rows)
    owner = np.full(columns, -1)
    for start in range(rows):
        row, column = start, -1
        least, before = np.full(columns, np.inf), np.full(columns, -1)
        done = np.zeros(columns, bool)
        while row >= 0:
            reached = cost[row] - row_price[row] - price + (least[column] if column >= 0 else 0.0)
            closer = ~done & (reached < least)
            least[closer], before[closer] = reached[closer], column
            column = int(np.where(done, np.inf, least).argmin())
            done[column], row = True, owner[column]
        end = least[column]
        row_price[start] += end
        done[column] = False  # its price stays: the path ends there
        row_price[owner[done]] += end - least[done]
        price[done] -= end - least[done]
        while column >= 0:  # hand each column of the path on to the row before it
            earlier = before[column]
            owner[column] = owner[earlier] if earlier >= 0 else start
            column = earlier
    return sorted((int(owner[c]), int(c)) for c in range(columns) if owner[c] >= 0 and alike[owner[c], c] > 0)
