"""Covers people or their faces in every picture that leaves, wherever they are: by what finders say of it.

It fails closed: a finder that raises, says what are no boxes, or is late leaves a picture of one colour.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

Finder: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""Takes a picture (H, W, 3) uint8 BGR; returns boxes (N, 4), x1, y1, x2, y2, in shares of it."""

MARGIN = 0.2
"""How far a cover reaches over its box, in the box's sides: hair, ears and what moves between two frames."""
HELD = 8
"""Pictures in which a box stays covered, the first one included: detectors lose somebody for a few."""
LATE_S = 1.0
"""Within this a finder has to answer: it is many times what one takes where it can be used at all."""
CLOSE_S = 5.0
"""For a search that still runs at the end, as receivers have: after that it is taken for one that hangs."""
GREY = 64
"""What a cover is filled with, the same everywhere, so that nothing can be had back from it."""


class Cover:
    """Covers what is found in the pictures of one camera, in their order.

    finders: each looks at every picture, in a thread of their own. label: what the running model finds
    itself and must be covered too; None: nothing. alone: no finder looks for that, so a picture to which the
    model did not answer is covered whole. fault: hears what finders raise. counts: "covered" pictures, and of
    them those covered whole, by why: "covered_failed" (a finder raised), "covered_late" (it did not answer in
    time), "covered_unanswered" (the model did not).
    """

    def __init__(
        self,
        finders: Sequence[Finder],
        *,
        label: str | None = None,
        alone: bool = False,
        fault: Callable[[Exception], None] = lambda error: None,
        late_s: float = LATE_S,
    ) -> None:
        self.label, self._alone = label, alone
        self._fault, self._late_s = fault, late_s
        self._search = _Search(finders) if finders else None
        self._held: deque[np.ndarray] = deque(maxlen=HELD)
        self.counts: Counter[str] = Counter()

    def __call__(self, picture: np.ndarray, answered: np.ndarray | None = None) -> np.ndarray:
        """A new picture (H, W, 3) uint8 in which nothing is left of who was found; the rest is as it was.

        answered: with a ``label``, the boxes (N, 4) that the running model found in it; None: it did not
        answer to this very picture.
        """
        self.counts["covered"] += 1
        try:
            found = self._found(picture, answered)
        except TimeoutError:
            return self._whole(picture, "late")
        except Exception as e:  # a finder's fault of whatever kind must not show anybody
            self._fault(e)
            return self._whole(picture, "failed")
        if found is None:
            return self._whole(picture, "unanswered")
        self._held.append(found)
        return covered(picture, np.concatenate(list(self._held)))

    def close(self, within_s: float = CLOSE_S) -> None:
        """End the thread; one that hangs is left behind, and told as a fault."""
        if self._search and not self._search.close(within_s):
            self._fault(TimeoutError("a search for what is to be covered has not come back"))

    def _found(self, picture: np.ndarray, answered: np.ndarray | None) -> np.ndarray | None:
        if self._alone and answered is None:
            return None
        parts = self._search.find(picture, self._late_s) if self._search else []
        more = [] if answered is None else [answered]
        return np.concatenate([_checked(part) for part in (*parts, *more)])

    def _whole(self, picture: np.ndarray, why: str) -> np.ndarray:
        self.counts[f"covered_{why}"] += 1
        return np.full_like(picture, GREY)


def covered(picture: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """A copy with these boxes, (N, 4) in shares of it, and a margin around each in one grey."""
    shown = picture.copy()
    height, width = picture.shape[:2]
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    margin = MARGIN * (high - low)
    first = np.floor((low - margin).clip(0, 1) * (width, height)).astype(int)
    last = np.ceil((high + margin).clip(0, 1) * (width, height)).astype(int)
    for (left, top), (right, bottom) in zip(first, last):
        shown[top:bottom, left:right] = GREY
    return shown


def _checked(boxes: np.ndarray) -> np.ndarray:
    """(N, 4) float. Raises ValueError for what are no boxes."""
    given = np.asarray(boxes, float)
    if given.ndim != 2 or given.shape[1] != 4 or not np.isfinite(given).all():
        raise ValueError(f"what was found are no boxes: {given.shape} with values that may not be finite")
    return given


@dataclass
class _Asked:
    """One picture and what was found in it, once ``done``."""

    picture: np.ndarray
    found: list[np.ndarray] = field(default_factory=list)
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)


class _Search:
    """Asks finders in a thread of their own, so that one that hangs holds up nobody."""

    def __init__(self, finders: Sequence[Finder]) -> None:
        self._finders = tuple(finders)
        self._queue: queue.Queue[_Asked | None] = queue.Queue()
        self._asked: _Asked | None = None
        self._thread = threading.Thread(target=self._run, name="cover", daemon=True)
        self._thread.start()

    def find(self, picture: np.ndarray, within_s: float) -> list[np.ndarray]:
        """What each finder found. Raises TimeoutError if that takes longer, at once while one is due."""
        if self._asked and not self._asked.done.is_set():
            raise TimeoutError
        asked = self._asked = _Asked(picture)
        self._queue.put(asked)
        if not asked.done.wait(within_s):
            raise TimeoutError
        if asked.error:
            raise asked.error
        return asked.found

    def close(self, within_s: float) -> bool:
        """End the thread; False if it does not come back."""
        self._queue.put(None)
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (asked := self._queue.get()) is not None:
            try:
                asked.found = [find(asked.picture) for find in self._finders]
            except Exception as e:
                asked.error = e
            asked.done.set()
