"""Where answers and events go: one file per kind of receiver, and what they have in common."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np

Record: TypeAlias = dict[str, Any]
"""Plain JSON data. ``record["type"]`` is one of

"answer": one per frame that was due (label, score, valid, stale, age_ms, variant, time_s ...);
"new", "update", "end": the life of one event, with "before" (None for new) and "after": id, camera, label,
score, top_score, start_time, end_time (None until the end), zones. Times are seconds since 1970 (UTC).
"status": something about the camera or the runner: "what" (camera_lost, camera_back, restarted, switched,
stale, ...), "why".
"""


class Sink(Protocol):
    """A receiver. ``put`` never waits for the network or the disk and never raises for their sake.

    pixels: whether it wants the frame with every record; frames are redacted before they come here.
    """

    pixels: bool

    def put(self, record: Record, frame: np.ndarray | None = None) -> None:
        """Take one record for delivery."""

    def counts(self) -> dict[str, int]:
        """How many records were taken, delivered, are waiting, were lost ("taken", "sent", "queued", "lost")."""

    def close(self) -> None:
        """Deliver what can be delivered within a few seconds, keep on disk what cannot, and end."""
