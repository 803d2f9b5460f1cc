"""A rule or a receiver that takes its time: no camera waits for it, not even its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import pytest
from live_support import until
from simulated import variant

from edgepv.runtimes.deadline import DeadlineRunner, profile
from edgepv.runtimes.engines.null import NullEngine
from edgepv.runtimes.faults import error_of
from edgepv.runtimes.health.state import Health
from edgepv.runtimes.ladder import Ladder
from edgepv.runtimes.lane import Lane
from edgepv.runtimes.on_camera import Live
from edgepv.runtimes.output import NO_RULES, Output
from edgepv.runtimes.places import Within, ZoneSearch
from edgepv.runtimes.record import Record
from edgepv.runtimes.sources import Frame
from edgepv.types import Deadline

pytestmark = pytest.mark.slow

FRAMES, EVERY_S, SLEEP_S = 20, 0.03, 1.0


class Camera:
    """Gives so many frames, one every EVERY_S seconds, and notes when it was asked for the last one."""

    live = True
    fps: Fraction | None = Fraction(10)

    def __init__(self, frames: int = FRAMES) -> None:
        self._frames, self._given = frames, 0
        self.ended_s = 0.0

    def read(self) -> Frame | None:
        if self._given == self._frames:
            self.ended_s = time.monotonic()
            return None
        time.sleep(EVERY_S)
        self._given += 1
        return Frame(np.zeros((8, 8, 3), np.uint8), self._given / 10, time.monotonic())

    def close(self) -> None:
        """Nothing to let go."""


class Receiver:
    pixels = False

    def __init__(self, sleep_s: float) -> None:
        self.heard: list[Record] = []
        self._sleep_s = sleep_s

    def put(self, record: Record, frame: np.ndarray | None = None) -> None:
        time.sleep(self._sleep_s)
        self.heard.append(record)

    def counts(self) -> dict[str, int]:
        return {"taken": 0, "sent": 0, "queued": 0, "lost": 0}

    def close(self) -> None:
        """Nothing waits."""


class Closing(Receiver):
    """Notes that it was closed."""

    def __init__(self) -> None:
        super().__init__(0)
        self.closed = False

    def close(self) -> None:
        self.closed = True


class SlowRules(ZoneSearch):
    """What a rule with a zone asks, and waits for."""

    def __init__(self) -> None:
        """No engine."""

    def see(self, frame: np.ndarray, *, restarted: bool = False) -> None:
        """Looks at nothing."""

    def within(self, scores: Mapping[str, float], lows: Mapping[str, float]) -> Within:
        time.sleep(SLEEP_S)
        return {}

    def close(self) -> None:
        """Nothing to end."""


class Hanging(Receiver):
    """Never comes back from the first record of one type, or from its end."""

    def __init__(self, at: str) -> None:
        super().__init__(0)
        self._at = at

    def put(self, record: Record, frame: np.ndarray | None = None) -> None:
        self._hang(record["type"])
        super().put(record)

    def close(self) -> None:
        self._hang("close")

    def _hang(self, where: str) -> None:
        if where == self._at:
            threading.Event().wait()


def live(camera: Camera, receiver: Receiver, search: ZoneSearch | None, *others: Receiver) -> Live:
    one = variant("one")
    output = Output("cam", one.spec, [receiver, *others], NO_RULES, Health("cam"), search=search)
    ladder = Ladder([Lane(NullEngine(one, [0]), one)])
    runner = DeadlineRunner(
        ladder,
        profile(ladder, calls=1),
        Deadline(5000),
        say=lambda reply: made.tell(reply),
        status=output.status,
    )
    made = Live(camera, runner, output, NO_RULES, Fraction(10), search=search)
    return made


@pytest.mark.parametrize("who", ["receiver", "rule"])
def test_who_is_slow_on_one_camera_holds_up_neither_it_nor_another_one(who: str) -> None:
    cameras = Camera(), Camera()
    receivers = Receiver(SLEEP_S if who == "receiver" else 0), Receiver(0)
    search = SlowRules() if who == "rule" else None
    runs = live(cameras[0], receivers[0], search), live(cameras[1], receivers[1], None)
    threads = [threading.Thread(target=run.run) for run in runs]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    threads[1].join()
    heard = [r for r in receivers[1].heard if r["type"] == "answer"]
    for thread in threads:
        thread.join()
    assert max(c.ended_s for c in cameras) - began < FRAMES * SLEEP_S / 2  # read at its own pace
    summaries = [r.heard[-1] for r in receivers]
    assert [s["frames_answered"] + s["replies_dropped"] for s in summaries] == [FRAMES, FRAMES]
    assert summaries[0]["replies_dropped"] > FRAMES / 2
    assert len(heard) == summaries[1]["frames_answered"] > FRAMES / 2
    told = [r for r in receivers[0].heard if r["type"] == "answer"]
    assert not any(r["stale"] for r in (*told, *heard))
    assert told[-1]["number"] == heard[-1]["number"] == FRAMES - 1  # the last one is told


def test_a_run_that_is_stopped_while_a_receiver_sleeps_ends_with_its_summary() -> None:
    receiver = Receiver(SLEEP_S)
    run = live(Camera(frames=100_000), receiver, None)
    thread = threading.Thread(target=run.run, daemon=True)
    thread.start()
    until(lambda: receiver.heard)
    run.stop()
    thread.join(20 * SLEEP_S)
    assert not thread.is_alive()
    assert receiver.heard[-1]["type"] == "summary" and receiver.heard[-1]["replies_dropped"] > 0


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("answer", "put() has not come back: nothing after it is delivered, after 0.2 s"),
        ("summary", "put() has not come back: 1 records are not delivered, after 0.2 s"),
        (
            "close",
            "close() has not come back: what it had may not be delivered, after 0.2 s",
        ),
    ],
)
def test_a_receiver_that_hangs_holds_up_neither_the_end_nor_another_receiver(
    at: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepv.runtimes.on_camera.END_S", 0.2)
    monkeypatch.setattr("edgepv.runtimes.deadline.runner.TELL_S", 0.2)
    other = Closing()
    run = live(Camera(frames=3), Hanging(at), None, other)
    summaries: list[Record] = []
    thread = threading.Thread(target=lambda: summaries.append(run.run()), daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert other.heard[-1]["type"] == "summary" and other.closed
    (summary,) = summaries
    assert summary["faults"] == {"receiver Hanging": {"count": 1, "first": f"TimeoutError: {said}"}}
    error = error_of(summary["faults"])
    assert error and error.exit_code == 11


def test_rules_that_hang_do_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepv.runtimes.on_camera.END_S", 0.2)
    monkeypatch.setattr("edgepv.runtimes.deadline.runner.TELL_S", 0.2)
    search, other = SlowRules(), Closing()
    monkeypatch.setattr(search, "within", lambda *_: threading.Event().wait())
    run = live(Camera(frames=3), other, search)
    thread = threading.Thread(target=run.run, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    summary = other.heard[-1]
    assert summary["type"] == "summary" and other.closed
    said = "TimeoutError: have not come back: no event after it is told, after 0.2 s"
    assert summary["faults"] == {"rules": {"count": 1, "first": said}}
