"""A new bundle's trial on live cameras: what it answers decides whether it stays."""

from __future__ import annotations

import threading
from pathlib import Path

from edgepv.device import canary, slots
from edgepv.runtimes.deadline import Reply


class Trial:
    """A bundle in an update's slots: watched while on trial, then committed, or taken back for what was seen.

    The event rate of a bundle that is not on trial is kept, for the next one to be compared with. Frames are
    counted whose reply was told; a reply that says a variant failed always is. From any thread.
    """

    def __init__(self, root: Path, digest: str) -> None:
        self._root, self._digest, self._lock = root, digest, threading.Lock()
        state = slots.read_state(root)
        self._canary = canary.Canary(canary.Limits(), state.rate) if state.trial else None
        self._verdict: canary.Verdict | None = None
        self._frames = self._events = 0

    def feed(self, reply: Reply, events: int) -> None:
        """One reply of any camera, and how many events it raised; nothing is written here."""
        with self._lock:
            self._frames += 1
            self._events += events
            if self._canary and self._verdict is None:
                failed = reply.why == "failed"
                self._verdict = self._canary.feed(missed=reply.stale, failed=failed, events=events)

    def decide(self) -> str | None:
        """Carry out the verdict once there is one; returns why the bundle was taken back, if it was.

        Writes the slots' state; raises what ``slots.decide`` raises.
        """
        if self._canary is None or self._verdict is None:
            return None
        done = slots.decide(self._root, self._digest, self._verdict, self._canary.rate)
        self._canary = None
        return None if self._verdict.commit or not done else self._verdict.why

    def observed(self) -> None:
        """Keep the event rate seen so far."""
        if self._frames and self._canary is None:
            slots.observe(self._root, canary.Rate(self._frames, self._events))
