"""The deadline runner: a frame in, a reply at its deadline at the latest, whatever the model does."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np

from edgepv.data.frames import check_frame
from edgepv.errors import DeadlineError, EdgepvError, EngineError, UsageError
from edgepv.runtimes.deadline.controller import Controller
from edgepv.runtimes.deadline.mailbox import Mailbox, News
from edgepv.runtimes.deadline.scheduler import FrameScheduler, Reply, Task
from edgepv.runtimes.engine import CancelledError
from edgepv.runtimes.faults import Faults
from edgepv.runtimes.ladder import Ladder
from edgepv.runtimes.lane import Answer
from edgepv.types import Deadline

Clock = Callable[[], float]
Say = Callable[[Reply], None]
Status = Callable[[str, str], None]
HANG_S = 5.0
"""A call that is so much later than its deadline is taken for one that will not come back."""
IDLE_S = 0.5
"""How long a thread sleeps at most before it looks whether it is to end."""
PROFILE_S = 5.0
"""How long timing the rungs may hold up a start, on a machine where one frame takes long."""
TELL_S = 5.0
"""How long the end waits for a listener to take what it has yet to hear, as for receivers."""


class DeadlineRunner:
    """Steps a ladder of variants so that every frame is answered within ``deadline.limit_ms`` of its arrival.

    Three threads once started: one works, always on the newest frame; one watches the clock and gives the
    last answer, marked stale, when time is up, so that a reply is never late by more than its own wake-up;
    one tells the listeners (see ``Mailbox``), so that nothing waits for them. A call that overruns is
    stopped where the engine can, so that the next frame starts afresh. One that has not ended ``hang_s``
    after its deadline is left behind with its thread and its variant is not used again; neither is one whose
    answer is no number. When no variant is left, ``failed`` says why.

    Not started, it works in the thread of whoever calls ``ask``, or ``cycle`` and ``tell``. With an infinite
    deadline that is a run over a file: every frame is answered, however long it takes.

    Between two frames, the variant that is to take over catches up (see ``Ladder``).

    profiles_ms: of every rung on this machine (see ``profile``). say: hears the replies in order; while it
    takes its time, newer ones replace those that wait, counted in ``replies_dropped``. status: hears
    (what, why): "switched", "variant_failed", "variant_hung", and what is given to ``note``. keep: hold on to
    this rung, whatever the deadline. extrapolate: makes of an old answer and its age in ms what is said in
    its place, such as tracks moved on at their last speed. faults: counts what say, status and extrapolate
    raise, which costs no other frame its answer; after a ``with`` block that ended well the runner raises it
    as one ReceiverError. Raises UsageError for a deadline that is no time.
    """

    def __init__(
        self,
        ladder: Ladder,
        profiles_ms: Sequence[float],
        deadline: Deadline,
        *,
        say: Say | None = None,
        status: Status | None = None,
        keep: int | None = None,
        clock: Clock = time.monotonic,
        hang_s: float = HANG_S,
        extrapolate: Callable[[Answer, float], Answer] | None = None,
        faults: Faults | None = None,
    ) -> None:
        if not deadline.limit_ms > 0:
            raise UsageError(f"a deadline of {deadline.limit_ms} ms: give a number above 0")
        self.deadline, self.ladder = deadline, ladder
        self.controller = Controller(profiles_ms)
        self.scheduler = FrameScheduler(deadline.limit_ms / 1e3, self._hand, ladder.name)
        self._say, self._status, self._keep, self._clock = say, status, keep, clock
        self.faults = faults or Faults()
        self._hang_s, self._extrapolate = hang_s, extrapolate
        self._mailbox = Mailbox()
        self._asked: dict[int, Reply | None] = {}
        self._threads: list[threading.Thread] = []
        self._teller: threading.Thread | None = None
        self._shift = 0
        self._open = True
        self.failed: EdgepvError | None = None
        if keep is not None:
            self.controller.rung = keep
            ladder.active = ladder.aimed = keep
            self.scheduler.variant = ladder.name

    def offer(
        self,
        frame: np.ndarray,
        *,
        time_s: float | None = None,
        arrived_s: float | None = None,
        missed: int = 0,
        restarted: bool = False,
    ) -> int:
        """Hand in a frame, (H, W, 3) uint8 BGR; returns its number at once.

        arrived_s: when this program had it, by the runner's clock; the deadline counts from there. time_s:
        its own time. Both are now by default. missed, restarted: see ``Ladder.step``. Raises UsageError for
        another kind of frame.
        """
        check_frame(frame)
        arrived = self._clock() if arrived_s is None else arrived_s
        return self.scheduler.arrive(
            frame, arrived if time_s is None else time_s, arrived, missed=missed, restarted=restarted
        )

    def ask(self, frame: np.ndarray, **about: Any) -> Reply:
        """Hand in a frame and wait for its reply. about: as for ``offer``.

        Raises DeadlineError if the deadline's on_miss is "raise" and the reply is stale, what made every
        variant fail, and UsageError for another kind of frame or once the runner is closed.
        """
        with self.scheduler.lock:
            number = self.offer(frame, **about)
            self._asked[number] = None
        if not self._threads:
            self.cycle()
        with self.scheduler.lock:
            while self._asked[number] is None and self._open and not self.failed:
                self.scheduler.lock.wait(IDLE_S)
            reply = self._asked.pop(number)
        if reply is None:
            raise self.failed or UsageError("the runner was closed")
        if reply.stale and self.deadline.on_miss == "raise":
            raise DeadlineError(
                f"frame {number} had no answer within {self.deadline.limit_ms:g} ms: {reply.why}. "
                "Allow more time, or a smaller variant"
            )
        return self._moved_on(reply)

    def note(self, what: str, why: str) -> None:
        """Let the ``status`` listener hear of something after the replies made before it; never waits."""
        if self._status:
            self._mailbox.note(what, why)

    @property
    def replies_dropped(self) -> int:
        """Replies that ``say`` has not heard, because it was not done with an older one when a newer came."""
        return self._mailbox.dropped

    def tell(self, wait_s: float = 0.0) -> bool:
        """Tell the listeners what waits, or what comes within ``wait_s`` seconds; False if there was nothing.

        For a runner that was not started; else a thread does it.
        """
        mail = self._mailbox.take(wait_s)
        for one in mail:
            if isinstance(one, News):
                if self._status:
                    self.faults.call("status", self._status, one.what, one.why)
            elif self._say:
                self.faults.call("say", self._say, self._moved_on(one))
        return bool(mail)

    def cycle(self) -> bool:
        """Work on the newest frame, or let the next variant catch up by one; False if there is neither."""
        task = self.scheduler.take(self._clock())
        if task is None:
            return self._catch_up()
        self._choose(task)
        began = self._clock()
        try:
            answer = self.ladder.step(task.pixels, missed=task.missed, restarted=task.restarted)
        except CancelledError:
            answer = None
        except Exception as e:
            self._fail(task, e)
            return True
        now = self._clock()
        with self.scheduler.lock:
            if self.scheduler.working is task:
                self._note_switch()
                in_time = self.scheduler.done(task, answer, now)
                self.controller.observe(self.ladder.active, 1e3 * (now - began), missed=not in_time)
        return True

    def _choose(self, task: Task) -> None:
        """Aim at the rung that will be in time. Going down does not wait for a quiet moment."""
        if self._keep is not None:
            return
        left_ms = 1e3 * (task.deadline_s - self._clock())
        rung = self.controller.choose(left_ms)
        self.ladder.aim(rung)
        if rung > self.ladder.active:
            while self._catch_up():
                pass

    def _catch_up(self) -> bool:
        """Let the variant that is aimed at see one more of the last frames; False if it is level."""
        if not self.ladder.behind:
            return False
        try:
            self.ladder.catch_up()
        except CancelledError:
            pass  # it was for the call before
        except Exception as e:
            with self.scheduler.lock:
                name = self.ladder.lanes[self.ladder.aimed].variant.name
                self._drop(self.ladder.aimed, "variant_failed", f"{name}: {e}")
        return True

    def _note_switch(self) -> None:
        if self.scheduler.variant != self.ladder.name:
            before, self.scheduler.variant = self.scheduler.variant, self.ladder.name
            slow = f"the machine takes {self.controller.mean:.2f} times its profile"
            self.note("switched", f"from {before} to {self.ladder.name}: {slow}")

    def _fail(self, task: Task, error: Exception) -> None:
        """A variant is broken: leave it out from now on."""
        with self.scheduler.lock:
            if self.scheduler.working is task:
                name = self.ladder.name
                self.scheduler.done(task, None, self._clock(), why="failed")
                self._drop(self.ladder.active, "variant_failed", f"{name}: {error}")

    def _drop(self, rung: int, what: str, why: str) -> None:
        self.note(what, " ".join(why.split()))
        if self._keep is not None or not self.controller.exclude(rung):
            self._end(EngineError(f"no variant is left that works. The last: {why}"))
            return
        self.ladder.leave(rung, self.controller.rung)

    def watch(self) -> float | None:
        """Reply to those whose time is up and deal with a call that overruns; returns the next deadline."""
        now = self._clock()
        with self.scheduler.lock:
            coming = self.scheduler.expire(now)
            if self.scheduler.overdue:
                if self.scheduler.worked_s(now) > self.deadline.limit_ms / 1e3 + self._hang_s:
                    self._abandon(now)
                else:
                    self.ladder.cancel()
            return coming

    def _abandon(self, now: float) -> None:
        """Leave the working thread to its fate and go on with another variant in a new one."""
        self.scheduler.give_up(now)
        self._shift += 1
        why = f"{self.ladder.name} has not come back for {self._hang_s:g} s"
        self._drop(self.ladder.active, "variant_hung", why)
        if self._threads:
            self._threads.append(_launched(self._work, self._shift))

    def _hand(self, replies: Sequence[Reply]) -> None:
        """Give them to who asked and to the mailbox. The scheduler is locked: nothing here may wait."""
        asked = [reply for reply in replies if reply.number in self._asked]
        self._asked.update((reply.number, reply) for reply in asked)
        if asked:
            self.scheduler.lock.notify_all()
        drops = self.deadline.on_miss == "drop"
        told = [reply for reply in replies if not (drops and reply.stale)]
        if told and self._say:
            self._mailbox.put(told)

    def _moved_on(self, reply: Reply) -> Reply:
        """The reply, with what an old answer has become by now."""
        if not (self._extrapolate and reply.stale and reply.answer and reply.age_ms is not None):
            return reply
        try:
            return replace(reply, answer=self._extrapolate(reply.answer, reply.age_ms))
        except Exception as e:
            self.faults.add("extrapolate", e)
            return reply

    def start(self) -> DeadlineRunner:
        """Start the threads; returns the runner."""
        self._threads.append(_launched(self._work, self._shift))
        self._threads.append(_launched(self._watch_on))
        if self._say or self._status:
            self._teller = _launched(self._tell_on)
        return self

    def _work(self, shift: int) -> None:
        while self._open and not self.failed and shift == self._shift:
            try:
                worked = self.cycle()
            except Exception as e:  # a fault of ours: to end is better than old answers for ever
                self._end(EdgepvError(f"the deadline runner failed: {type(e).__name__}: {e}"))
                return
            if not worked:
                with self.scheduler.lock:
                    if not self.scheduler.waiting and self._open:
                        self.scheduler.lock.wait(IDLE_S)

    def _end(self, error: EdgepvError) -> None:
        with self.scheduler.lock:
            self.failed = error
            self.scheduler.lock.notify_all()

    def _watch_on(self) -> None:
        """Sleep from deadline to deadline. A new frame's deadline is never before the one waited for."""
        idle = min(IDLE_S, self.deadline.limit_ms / 1e3)
        while self._open:
            coming = self.watch()
            now = self._clock()
            time.sleep(max(0.0, min(idle, coming - now)) if coming is not None else idle)

    def _tell_on(self) -> None:
        while not self._mailbox.ended:
            self.tell(IDLE_S)

    def finish(self) -> None:
        """Wait until every frame handed in has its reply, which is a deadline at most."""
        while self.scheduler.expire(self._clock()) is not None and not self.failed:
            time.sleep(min(IDLE_S, self.deadline.limit_ms / 1e4))

    def close(self) -> None:
        """End the threads and free the engines; frames that wait get no reply.

        What was replied is told, unless the listener takes longer than ``TELL_S`` seconds.
        """
        with self.scheduler.lock:
            self._open = False
            self.ladder.cancel()
            self.scheduler.lock.notify_all()
        for thread in self._threads:
            thread.join(timeout=1.0)
        if not any(t.is_alive() for t in self._threads):
            self.ladder.close()
        self._mailbox.close()
        if self._teller:
            self._teller.join(timeout=TELL_S)
        self._mailbox.clear()

    def __enter__(self) -> DeadlineRunner:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        raised = self.faults.error()
        if kind is None and raised:
            raise raised


def _launched(work: Callable[..., None], *arguments: Any) -> threading.Thread:
    """A thread that does this and ends with the program."""
    thread = threading.Thread(target=work, args=arguments, daemon=True, name=f"edgepv{work.__name__}")
    thread.start()
    return thread


def profile(ladder: Ladder, *, calls: int = 30, clock: Clock = time.perf_counter) -> tuple[float, ...]:
    """Median ms of one frame per rung, preprocessing and inference, taking turns; then forgets all frames."""
    took: dict[int, list[float]] = {rung: [] for rung in range(len(ladder.lanes))}
    height, width = ladder.lanes[0].variant.spec.input.shape[-2:]
    frame = np.random.default_rng(0).integers(0, 255, (2 * height, 2 * width, 3)).astype(np.uint8)
    begun = clock()
    for call in range(calls + 3):
        if call > 3 and clock() - begun > PROFILE_S:
            break
        for rung, lane in enumerate(ladder.lanes):
            began = clock()
            lane.step(frame)
            if call >= 3:
                took[rung].append(1e3 * (clock() - began))
    ladder.reset()
    return tuple(statistics.median(t) for t in took.values())
