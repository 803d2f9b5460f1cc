"""One event, and the records of its life."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass

from edgepv.runtimes.record import Record


@dataclass(frozen=True)
class Event:
    """One event as its records show it. Times are seconds since 1970.

    about: of an event of a track, what else is said of it: its number, its line, the count.
    """

    id: str
    camera: str
    label: str
    score: float
    top_score: float
    start_time: float
    end_time: float | None = None
    zones: tuple[str, ...] = ()
    about: tuple[tuple[str, str | int | float], ...] = ()

    def shown(self) -> Record:
        """The "before" or "after" of a record."""
        return {
            "id": self.id,
            "camera": self.camera,
            "label": self.label,
            "score": self.score,
            "top_score": self.top_score,
            "start_time": self.start_time,
            "end_time": self.end_time,
            "zones": list(self.zones),
            **dict(self.about),
        }


def step_of(kind: str, before: Event | None, after: Event, **more: str) -> Record:
    """The record of one step in an event's life: "new", "update" or "end"."""
    return {"type": kind, "before": before.shown() if before else None, "after": after.shown(), **more}


def random_suffix() -> str:
    """Six letters and digits that make an event's id its own."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(6))
