"""Answers drawn into the picture: particles, velocities, forces, tracks, boxes, masks, scores as bars."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgepv.base.optional import need
from edgepv.data.masks import Mask
from edgepv.runtimes.record import Record

STRIP = 44
LEAST_LINES = 360
TAIL = 20
PAST = 300
FAINT = 0.05
"""Visibility below which a particle is not drawn."""
ARROW = 6.0
"""How many frames ahead a velocity is drawn; a force is drawn as what it does to the velocity in as many."""
TINT = 0.45
"""Share of a label's colour where it stands; the rest is the picture."""
WHITE, GREEN, ORANGE, BLUE, DARK = (
    (240, 240, 240),
    (80, 200, 120),
    (60, 150, 250),
    (230, 160, 60),
    (24, 24, 24),
)


class Painter:
    """Draws the records of one camera, in order; it remembers where tracks were and what scores were."""

    def __init__(self) -> None:
        self._tails: dict[int, deque[tuple[int, int]]] = {}
        self._scores: deque[tuple[float, bool]] = deque(maxlen=PAST)

    def draw(self, frame: np.ndarray, record: Record) -> np.ndarray:
        """The frame, enlarged to at least 360 lines, with what an "answer" record says.

        Boxes with what is in them, the shares of a mask's labels, tracks with their tails, particles with
        velocity (green) and force (orange) arrows; below it, of a classifier, a strip with label, score and
        the scores so far. Of a restorer ``frame`` is its answer,
        and nothing is drawn. frame: (H, W, 3) BGR, or (H, W) grey. A stale answer is orange and says its
        age. Sides come out even.
        """
        if not {"label", "tracks", "boxes", "areas"} & set(record):
            return even(frame)
        picture = enlarged(frame)
        for x, y, vx, vy, ax, ay, visible in record.get("particles") or ():
            if visible > FAINT:
                at, ahead = _at(picture, x, y), _at(picture, x + ARROW * vx, y + ARROW * vy)
                pulled = _at(picture, x + ARROW * ARROW * ax, y + ARROW * ARROW * ay)
                _arrow(picture, at, pulled, ORANGE)
                _arrow(picture, at, ahead, GREEN)
                _dot(picture, at, BLUE)
        self._tracks(picture, record.get("tracks") or ())
        for one in record.get("boxes") or ():
            _box(picture, one, ORANGE if record["stale"] else None)
        for line, (label, share) in enumerate((record.get("areas") or {}).items(), 1):
            hue = ORANGE if record["stale"] else colour_of(label)
            _written(picture, f"{label} {share:.1%}", (8, 18 * line), hue)
        if "label" not in record:
            return picture
        return np.concatenate([picture, self._strip(picture.shape[1], record)])

    def _tracks(self, picture: np.ndarray, tracks: Sequence[Sequence[Any]]) -> None:
        """A dot and a tail for each track; hollow and without a tail while it is hidden."""
        cv2 = need("cv2", extra="cpu")
        for name, x, y, visible in tracks:
            at, seen = _at(picture, x, y), visible >= 0.5
            tail = self._tails.setdefault(name, deque(maxlen=TAIL))
            if seen:
                tail.append(at)
                cv2.polylines(picture, [np.array(tail, np.int32)], False, colour(name), 1, cv2.LINE_AA)
            _dot(picture, at, colour(name), filled=seen)
        alive = {name for name, *_ in tracks}
        self._tails = {name: tail for name, tail in self._tails.items() if name in alive}

    def _strip(self, width: int, record: Record) -> np.ndarray:
        """Label, score as a bar, and behind them the scores of the last frames as columns."""
        cv2 = need("cv2", extra="cpu")
        strip = np.full((STRIP, width, 3), DARK, np.uint8)
        known = record["valid"] and record["score"] is not None
        self._scores.append((record["score"] if known else 0.0, bool(record["stale"])))
        for i, (score, stale) in enumerate(reversed(self._scores)):
            x = width - 2 - 2 * i
            if x < 0:
                break
            tall = round((STRIP - 8) * score)
            strip[STRIP - tall :, x : x + 2] = np.array(ORANGE if stale else GREEN) // 3
        filled = round((width - 20) * record["score"]) if known else 0
        if filled:
            cv2.rectangle(strip, (10, 32), (10 + filled, 38), ORANGE if record["stale"] else GREEN, -1)
        text_colour = ORANGE if record["stale"] else WHITE
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(strip, caption(record), (10, 23), font, 0.6, text_colour, 1, cv2.LINE_AA)
        return strip


def _box(picture: np.ndarray, one: Record, hue: tuple[int, int, int] | None) -> None:
    """A box, and over it what it holds and how sure that is; in the colour of its track, or of its label."""
    cv2 = need("cv2", extra="cpu")
    x1, y1, x2, y2 = one["box"]
    start, end = _at(picture, x1, y1), _at(picture, x2, y2)
    hue = hue or (colour(one["id"]) if one["id"] is not None else colour_of(one["label"]))
    cv2.rectangle(picture, start, end, hue, 2)
    name = one["label"] + (f" {one['id']}" if one["id"] is not None else "")
    _written(picture, f"{name} {one['score']:.0%}", (start[0] + 2, max(12, start[1] - 4)), hue)


def _written(picture: np.ndarray, text: str, at: tuple[int, int], hue: tuple[int, int, int]) -> None:
    """Small text with a dark edge."""
    cv2 = need("cv2", extra="cpu")
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(picture, text, at, font, 0.45, DARK, 3, cv2.LINE_AA)
    cv2.putText(picture, text, at, font, 0.45, hue, 1, cv2.LINE_AA)


def tinted(picture: np.ndarray, mask: Mask) -> np.ndarray:
    """A picture (H, W, 3) uint8 BGR, each label of its mask but the background in a colour of its own."""
    hues = [colour_of(name) if told else (0, 0, 0) for name, told in zip(mask.names, mask.told, strict=True)]
    laid = mask.on_picture((picture.shape[0], picture.shape[1]))
    shares = (TINT * np.array(mask.told, np.float32))[laid][..., None]
    mixed: np.ndarray = (picture * (1 - shares) + np.array(hues, np.float32)[laid] * shares).astype(np.uint8)
    return mixed


def caption(record: Record) -> str:
    """ "waving 87%", with ", stale 420 ms" behind it if so; "warming up" before the first window is full."""
    if not record["valid"] or record["label"] is None:
        return "warming up"
    text = f"{record['label']} {record['score']:.0%}"
    if not record["stale"]:
        return text
    return f"{text}, stale" + (f" {record['age_ms']:.0f} ms" if record["age_ms"] is not None else "")


def colour_of(label: str) -> tuple[int, int, int]:
    """A label's colour, the same wherever it is drawn."""
    return colour(sum(label.encode()))


def colour(number: int) -> tuple[int, int, int]:
    """A bright BGR colour of its own for each number, by steps of the golden angle around the hue circle."""
    cv2 = need("cv2", extra="cpu")
    hue = int(number * 137.508 / 2) % 180
    blue, green, red = cv2.cvtColor(np.array([[[hue, 200, 255]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0]
    return int(blue), int(green), int(red)


def enlarged(frame: np.ndarray) -> np.ndarray:
    """A copy of a frame, (H, W, 3) BGR or (H, W) grey, in colour, with at least 360 lines and even sides."""
    cv2 = need("cv2", extra="cpu")
    if frame.ndim == 2:
        frame = cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)
    factor = max(1, -(-LEAST_LINES // frame.shape[0]))
    return even(cv2.resize(frame, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC))


def even(picture: np.ndarray) -> np.ndarray:
    """The picture with even sides, which encoders want: the last row or column repeated if need be."""
    cv2 = need("cv2", extra="cpu")
    height, width = picture.shape[:2]
    padded: np.ndarray = cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    return padded


def _at(picture: np.ndarray, x: float, y: float) -> tuple[int, int]:
    """A place, as shares of the picture's width and height, in pixels."""
    height, width = picture.shape[:2]
    return round(x * width), round(y * height)


def _dot(picture: np.ndarray, at: tuple[int, int], colour: tuple[int, int, int], filled: bool = True) -> None:
    cv2 = need("cv2", extra="cpu")
    cv2.circle(picture, at, 4, colour, -1 if filled else 1, cv2.LINE_AA)


def _arrow(
    picture: np.ndarray, start: tuple[int, int], end: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    cv2 = need("cv2", extra="cpu")
    if start != end:
        cv2.arrowedLine(picture, start, end, colour, 1, cv2.LINE_AA, tipLength=0.3)


def decomposed(pixels: np.ndarray, particles: np.ndarray, painted: np.ndarray) -> np.ndarray:
    """The frame with its particles left, what is painted of them right; (H, 2 W, 3) uint8 BGR, even sides.

    A circle is as large as its particle, an arrow goes where it is ``ARROW`` frames on. pixels: (h, w, 3).
    particles: (K, 5 or more) of x, y, vx, vy in shares of width and height, size in heights. painted: as
    pixels, of any size.
    """
    cv2 = need("cv2", extra="cpu")
    left = enlarged(pixels)
    height, width = left.shape[:2]
    right = cv2.resize(painted, (width, height), interpolation=cv2.INTER_CUBIC)
    for i, (x, y, vx, vy, size, *_) in enumerate(particles):
        at, ahead = (
            (round(p * width), round(q * height)) for p, q in ((x, y), (x + ARROW * vx, y + ARROW * vy))
        )
        cv2.circle(left, at, max(1, round(float(size) * height)), colour(i), 1, cv2.LINE_AA)
        if at != ahead:
            cv2.arrowedLine(left, at, ahead, GREEN, 1, cv2.LINE_AA, tipLength=0.3)
    return np.concatenate([left, right], 1)
