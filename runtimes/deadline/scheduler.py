"""The books of the deadline runtime: which frame waits, which is late, and one reply to each."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from edgepv.runtimes.lane import Answer

Why = Literal["", "dropped", "overrun", "failed"]


@dataclass(frozen=True)
class Task:
    """One frame that is due an answer. missed: model frames lost before it. Times: seconds, monotonic."""

    number: int
    pixels: np.ndarray
    time_s: float
    arrived_s: float
    deadline_s: float
    missed: int = 0
    restarted: bool = False


@dataclass(frozen=True)
class Reply:
    """What is said about one frame, at its deadline at the latest.

    number, time_s: of the frame. answer: the model's latest word, None while there is none. stale: the
    answer rests on an older frame than this one; ``why`` says what happened to this one: "dropped" (a newer
    frame came first), "overrun" (the model was not done), "failed" (the model's answer was no number).
    age_ms: from the arrival of the frame the answer rests on until now; None without an answer. latency_ms:
    from the arrival of this frame until now. wait_ms: what of it passed before work began, None if it never
    began. variant: the name of the one that answered last. replied_s: when this
    was said, by the runner's clock.
    """

    number: int
    time_s: float
    answer: Answer | None
    stale: bool
    why: Why
    age_ms: float | None
    latency_ms: float
    wait_ms: float | None
    variant: str
    replied_s: float = 0.0

    @property
    def restarted(self) -> bool:
        """Whether this is the first answer after the model had forgotten what was before."""
        return self.answer is not None and self.answer.restarted and not self.stale


class FrameScheduler:
    """Takes frames, hands out the newest, and replies to every one in order, exactly once.

    All methods may be called from any thread. ``hand`` gets the replies of one moment in order; since it is
    called under the lock, it puts them where others fetch them and does nothing else.
    limit_s: from a frame's arrival to its reply; infinite without a deadline. variant: the name of the one
    that works, for replies.
    """

    def __init__(self, limit_s: float, hand: Callable[[Sequence[Reply]], None], variant: str) -> None:
        self.limit_s, self._hand, self.variant = limit_s, hand, variant
        self.lock = threading.Condition(threading.RLock())
        self._replies: list[Reply] = []
        self._pending: deque[Task] = deque()
        self._waiting: Task | None = None
        self.working: Task | None = None
        self._began_s = 0.0
        self._last: tuple[Answer, float] | None = None
        self._lost = 0
        self._count = 0

    def arrive(
        self, pixels: np.ndarray, time_s: float, now: float, *, missed: int = 0, restarted: bool = False
    ) -> int:
        """A frame came in at ``now``; one that still waited is dropped. Returns the frame's number."""
        with self.lock:
            if self._waiting:
                self._lost += 1 + self._waiting.missed
                restarted |= self._waiting.restarted
            task = Task(self._count, pixels, time_s, now, now + self.limit_s, missed, restarted)
            self._count += 1
            self._pending.append(task)
            self._waiting = task
            self.lock.notify_all()
            return task.number

    def take(self, now: float) -> Task | None:
        """The newest frame, to be worked on; None if none waits."""
        with self.lock:
            if self._waiting is None or self.working is not None:
                return None
            task = self._waiting
            if self._lost:
                task = replace(task, missed=task.missed + self._lost)
            self.working, self._waiting, self._lost, self._began_s = task, None, 0, now
            return task

    @property
    def waiting(self) -> bool:
        """Whether a frame waits to be worked on."""
        return self._waiting is not None

    def done(self, task: Task, answer: Answer | None, now: float, *, why: Why = "overrun") -> bool:
        """The work on ``task`` ended; ``answer`` is None when it came to nothing, and then ``why`` says so.

        Returns whether the frame got this answer in time. A late answer still is the latest word on later
        frames, with its true age.
        """
        with self.lock:
            if self.working is not task:
                return False  # given up meanwhile
            in_time = answer is not None and now <= task.deadline_s and not self.overdue
            if in_time and answer is not None:
                while self._pending[0].number < task.number:
                    self._reply(self._pending.popleft(), now, "dropped")
                self._last = (answer, task.arrived_s)
                self._reply(self._pending.popleft(), now, "")
            self._close(task, now, why)
            if answer is None:
                self._lost += 1 + task.missed
            else:
                self._last = (answer, task.arrived_s)
            self._hand_over()
            return in_time

    def _close(self, task: Task, now: float, why: Why) -> None:
        """Reply to all up to ``task``, of which nothing more will come, and let another be taken."""
        while self._pending and self._pending[0].number <= task.number:
            late = self._pending.popleft()
            self._reply(late, now, why if late.number == task.number else "dropped")
        self.working = None

    def give_up(self, now: float) -> None:
        """Forget the work that does not end."""
        with self.lock:
            if self.working:
                self._lost += 1 + self.working.missed
                self._close(self.working, now, "overrun")
                self._hand_over()
            self.lock.notify_all()

    def expire(self, now: float) -> float | None:
        """Reply to all whose time is up; returns the next deadline, None if nobody waits."""
        with self.lock:
            while self._pending and self._pending[0].deadline_s <= now:
                late = self._pending.popleft()
                self._reply(late, now, "overrun" if self._at_work(late) else "dropped")
            self._hand_over()
            return self._pending[0].deadline_s if self._pending else None

    @property
    def overdue(self) -> bool:
        """Whether work goes on for a frame that has been answered without it."""
        with self.lock:
            task = self.working
            return task is not None and not any(p.number == task.number for p in self._pending)

    def worked_s(self, now: float) -> float:
        """How long the present work has been going on; 0 when there is none."""
        with self.lock:
            return now - self._began_s if self.working else 0.0

    def _at_work(self, task: Task) -> bool:
        return self.working is not None and self.working.number == task.number

    def _reply(self, task: Task, now: float, why: Why) -> None:
        answer, arrived = self._last or (None, None)
        self._replies.append(
            Reply(
                number=task.number,
                time_s=task.time_s,
                answer=answer,
                stale=bool(why),
                why=why,
                age_ms=None if arrived is None else 1e3 * (now - arrived),
                latency_ms=1e3 * (now - task.arrived_s),
                wait_ms=1e3 * (self._began_s - task.arrived_s) if self._at_work(task) else None,
                variant=self.variant,
                replied_s=now,
            )
        )

    def _hand_over(self) -> None:
        """Let the replies of this moment go."""
        replies, self._replies = self._replies, []
        if replies:
            self._hand(replies)
