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
from edgepv.errors import DeadlineError, EdgepvError, UsageError
from edgepv.runtimes.deadline.controller import Controller
from edgepv.runtimes.deadline.scheduler import FrameScheduler, Reply, Task
from edgepv.runtimes.engine import CancelledError
from edgepv.runtimes.faults import Faults
from edgepv.runtimes.ladder import Ladder
from edgepv.runtimes.lane import Answer
from edgepv.types import Deadline

Clock = Callable[[], float]
Status = Callable[[str, str], None]
HANG_S = 5.0
IDLE_S = 0.5
PROFILE_S = 5.0


class DeadlineRunner:
    """Steps a ladder of variants so that every frame is answered within ``deadline.limit_ms`` of its arrival.

    Two threads once started: one works, always on the newest frame; the other watches the clock and says
    the last answer, marked stale, when time is up, so that a reply is never late by more than its own
    wake-up. A call that overruns is stopped where the engine can, so that the next frame starts afresh. One
    that has not ended ``hang_s`` after its deadline is left behind with its thread and its variant is not
    used again; neither is one whose answer is no number. When no variant is left, ``failed`` says why.

    Between two frames, the variant that is to take over catches up (see ``Ladder``).

    profiles_ms: of every rung on this machine (see ``profile``). say: gets every reply in order, from
    either thread, and must not wait. status: gets (what, why): "switched", "variant_failed",
    "variant_hung". keep: hold on to this rung, whatever the deadline. extrapolate: makes of an old answer
    and its age in ms what is said in its place, such as tracks moved on at their last speed. faults: counts
    what say, status and extrapolate raise, which costs no other frame its answer; after a ``with`` block that
    ended well the runner raises it as one ReceiverError.
    """

    def __init__(
        self,
        ladder: Ladder,
        profiles_ms: Sequence[float],
        deadline: Deadline,
        *,
        say: Callable[[Reply], None] = lambda reply: None,
        status: Status = lambda what, why: None,
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
        self.desk = FrameScheduler(deadline.limit_ms / 1e3, self._speak, ladder.name)
        self._listener, self._hears_status, self._keep, self._clock = say, status, keep, clock
        self.faults = faults or Faults()
        self._hang_s, self._extrapolate = hang_s, extrapolate
        self._said_ms = 0.0
        self._asked: dict[int, Reply | None] = {}
        self._threads: list[threading.Thread] = []
        self._shift = 0
        self._open = True
        self.failed: EdgepvError | None = None
        if keep is not None:
            self.controller.rung = keep
            ladder.active = ladder.aimed = keep
            self.desk.variant = ladder.name

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
        return self.desk.arrive(
            frame, arrived if time_s is None else time_s, arrived, missed=missed, restarted=restarted
        )

    def ask(self, frame: np.ndarray, **about: Any) -> Reply:
        """Hand in a frame and wait for its reply; needs ``start``. about: as for ``offer``.

        Raises DeadlineError if the deadline's on_miss is "raise" and the reply is stale, and what made every
        variant fail.
        """
        with self.desk.lock:
            number = self.offer(frame, **about)
            self._asked[number] = None
            while self._asked[number] is None and self._open and not self.failed:
                self.desk.lock.wait(IDLE_S)
            reply = self._asked.pop(number)
        if reply is None:
            raise self.failed or UsageError("the runner was closed")
        if reply.stale and self.deadline.on_miss == "raise":
            raise DeadlineError(
                f"frame {number} had no answer within {self.deadline.limit_ms:g} ms: {reply.why}. "
                "Allow more time, or a smaller variant"
            )
        return reply

    def cycle(self) -> bool:
        """Work on the newest frame, or let the next variant catch up by one; False if there is neither."""
        task = self.desk.take(self._clock())
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
        with self.desk.lock:
            if self.desk.working is task:
                self._note_switch()
                in_time = self.desk.done(task, answer, now)
                self.controller.observe(self.ladder.active, 1e3 * (now - began), missed=not in_time)
        return True

    def _choose(self, task: Task) -> None:
        """Aim at the rung that will be in time. Going down does not wait for a quiet moment."""
        if self._keep is not None:
            return
        left_ms = 1e3 * (task.deadline_s - self._clock()) - self._said_ms
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
            with self.desk.lock:
                name = self.ladder.lanes[self.ladder.aimed].variant.name
                self._drop(self.ladder.aimed, "variant_failed", f"{name}: {e}")
        return True

    def _status(self, what: str, why: str) -> None:
        self.faults.call("status", self._hears_status, what, why)

    def _note_switch(self) -> None:
        if self.desk.variant != self.ladder.name:
            before, self.desk.variant = self.desk.variant, self.ladder.name
            slow = f"the machine takes {self.controller.mean:.2f} times its profile"
            self._status("switched", f"from {before} to {self.ladder.name}: {slow}")

    def _fail(self, task: Task, error: Exception) -> None:
        """A variant is broken: leave it out from now on."""
        with self.desk.lock:
            if self.desk.working is task:
                name = self.ladder.name
                self.desk.done(task, None, self._clock(), why="failed")
                self._drop(self.ladder.active, "variant_failed", f"{name}: {error}")

    def _drop(self, rung: int, what: str, why: str) -> None:
        self._status(what, " ".join(why.split()))
        if self._keep is not None or not self.controller.exclude(rung):
            self._end(UsageError(f"no variant is left that works. The last: {why}"))
            return
        self.ladder.leave(rung, self.controller.rung)

    def watch(self) -> float | None:
        """Reply to those whose time is up and deal with a call that overruns; returns the next deadline."""
        now = self._clock()
        with self.desk.lock:
            coming = self.desk.expire(now)
            if self.desk.overdue:
                if self.desk.worked_s(now) > self.deadline.limit_ms / 1e3 + self._hang_s:
                    self._abandon(now)
                else:
                    self.ladder.cancel()
            return coming

    def _abandon(self, now: float) -> None:
        """Leave the working thread to its fate and go on with another variant in a new one."""
        self.desk.give_up(now)
        self._shift += 1
        why = f"{self.ladder.name} has not come back for {self._hang_s:g} s"
        self._drop(self.ladder.active, "variant_hung", why)
        if self._threads:
            self._launch(self._work, self._shift)

    def _speak(self, reply: Reply) -> None:
        began = self._clock()
        if reply.stale and reply.answer and reply.age_ms is not None and self._extrapolate:
            reply = self._moved_on(reply, reply.answer, reply.age_ms, self._extrapolate)
        if reply.number in self._asked:
            self._asked[reply.number] = reply
            self.desk.lock.notify_all()
        if not (reply.stale and self.deadline.on_miss == "drop"):
            self.faults.call("say", self._listener, reply)
        self._said_ms += 0.1 * (1e3 * (self._clock() - began) - self._said_ms)

    def _moved_on(
        self, reply: Reply, answer: Answer, age_ms: float, how: Callable[[Answer, float], Answer]
    ) -> Reply:
        try:
            return replace(reply, answer=how(answer, age_ms))
        except Exception as e:
            self.faults.add("extrapolate", e)
            return reply

    def start(self) -> DeadlineRunner:
        """Start both threads."""
        self._launch(self._work, self._shift)
        self._launch(self._watch_on)
        return self

    def _launch(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True, name=f"edgepv{work.__name__}")
        self._threads.append(thread)
        thread.start()

    def _work(self, shift: int) -> None:
        while self._open and not self.failed and shift == self._shift:
            try:
                worked = self.cycle()
            except Exception as e:  # a fault of ours: to end is better than old answers for ever
                self._end(EdgepvError(f"the deadline runner failed: {type(e).__name__}: {e}"))
                return
            if not worked:
                with self.desk.lock:
                    if not self.desk.waiting and self._open:
                        self.desk.lock.wait(IDLE_S)

    def _end(self, error: EdgepvError) -> None:
        with self.desk.lock:
            self.failed = error
            self.desk.lock.notify_all()

    def _watch_on(self) -> None:
        """Sleep from deadline to deadline. A new frame's deadline is never before the one waited for."""
        idle = min(IDLE_S, self.deadline.limit_ms / 1e3)
        while self._open:
            coming = self.watch()
            now = self._clock()
            time.sleep(max(0.0, min(idle, coming - now)) if coming is not None else idle)

    def finish(self) -> None:
        """Wait until every frame handed in has its reply, which is a deadline at most."""
        while self.desk.expire(self._clock()) is not None and not self.failed:
            time.sleep(self.deadline.limit_ms / 1e4)

    def close(self) -> None:
        """End both threads and free the engines; frames that wait get no reply."""
        with self.desk.lock:
            self._open = False
            self.ladder.cancel()
            self.desk.lock.notify_all()
        for thread in self._threads:
            thread.join(timeout=1.0)
        if not any(t.is_alive() for t in self._threads):
            self.ladder.close()

    def __enter__(self) -> DeadlineRunner:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        raised = self.faults.error()
        if kind is None and raised:
            raise raised


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
