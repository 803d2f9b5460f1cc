"""What one camera's receivers have yet to be told: a queue of one moment's replies, which nobody waits at."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from edgepv.runtimes.deadline.scheduler import Reply

MOST_NEWS = 256
"""News that may wait for a receiver that does not come back; then the oldest goes."""


@dataclass(frozen=True)
class News:
    """Something happened to the camera or the runner. what: one word, such as "switched". why: a sentence."""

    what: str
    why: str


Mail: TypeAlias = Reply | News


class Mailbox:
    """Holds the newest replies until whoever tells them has time. From any thread; putting never waits.

    Replies that were made at one moment, a fresh one and those to the frames that were dropped for it, come
    and go together. Those that were not taken when the next come are replaced by them and counted in
    ``dropped``: a receiver that is slower than the camera hears the latest word, not an old one late. For
    events this is as if frames had been lost: one begins or ends with the next reply that is told, and what
    was seen in no other reply raises none. So that no event outlives its scene and no broken model goes
    unseen, two kinds stay: the last answer that began another scene, and a reply that says a variant failed.
    News are never replaced, and keep their place among the replies.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[Mail] = []
        self._closed = False
        self.dropped = 0

    def put(self, replies: Sequence[Reply]) -> None:
        """The replies of one moment, in order. After ``close`` they are dropped."""
        with self._changed:
            if self._closed:
                self.dropped += len(replies)
                return
            kept = _kept(self._waiting)
            self.dropped += len(self._waiting) - len(kept)
            self._waiting = [*kept, *replies]
            self._changed.notify()

    def note(self, what: str, why: str) -> None:
        """Something happened. After ``close`` it is not told any more."""
        with self._changed:
            if self._closed:
                return
            news = [mail for mail in self._waiting if isinstance(mail, News)]
            if len(news) >= MOST_NEWS:
                self._waiting.remove(news[0])
            self._waiting.append(News(what, why))
            self._changed.notify()

    def take(self, wait_s: float = 0.0) -> list[Mail]:
        """All that waits, in order, once there is something or after ``wait_s`` seconds."""
        with self._changed:
            if not self._waiting and not self._closed:
                self._changed.wait(wait_s)
            taken, self._waiting = self._waiting, []
            return taken

    @property
    def ended(self) -> bool:
        """Whether it is closed and empty."""
        with self._changed:
            return self._closed and not self._waiting

    def close(self) -> None:
        """Nothing more comes in; what waits can be taken still."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Drop what waits: nobody will take it."""
        with self._changed:
            self.dropped += sum(isinstance(mail, Reply) for mail in self._waiting)
            self._waiting = []


def _kept(waiting: Sequence[Mail]) -> list[Mail]:
    """What newer replies do not replace."""
    restart = next((m for m in reversed(waiting) if isinstance(m, Reply) and m.restarted), None)
    return [m for m in waiting if isinstance(m, News) or m.why == "failed" or m is restart]
