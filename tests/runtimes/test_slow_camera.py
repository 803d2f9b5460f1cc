"""A camera that slows down, as many do in the dark: told, and told again when it is over."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from simulated import variant

from edgepv.runtimes.deadline import DeadlineRunner
from edgepv.runtimes.engines.null import NullEngine
from edgepv.runtimes.health.state import Health
from edgepv.runtimes.ladder import Ladder
from edgepv.runtimes.lane import Lane
from edgepv.runtimes.on_camera import Live
from edgepv.runtimes.output import NO_RULES, Output
from edgepv.runtimes.record import Record
from edgepv.runtimes.sources import Frame
from edgepv.types import Deadline


class Script:
    """Frames at given times, as fast as they are read."""

    live = True
    fps: Fraction | None = Fraction(25)  # it still says 25 when it gives 5

    def __init__(self, times: list[float]) -> None:
        self._times = iter(times)

    def read(self) -> Frame | None:
        time_s = next(self._times, None)
        return None if time_s is None else Frame(np.zeros((8, 8, 3), np.uint8), time_s, 0.0)

    def close(self) -> None:
        pass


class Ear:
    pixels = False

    def __init__(self) -> None:
        self.heard: list[Record] = []

    def put(self, record: Record, frame: np.ndarray | None = None) -> None:
        self.heard.append(record)

    def counts(self) -> dict[str, int]:
        return {"taken": 0, "sent": 0, "queued": 0, "lost": 0}

    def close(self) -> None:
        pass


def test_a_camera_that_slows_down_is_told_once_and_so_is_its_return() -> None:
    light = [n / 25 for n in range(250)]
    dark = [10 + n / 5 for n in range(50)]
    again = [20 + n / 25 for n in range(250)]
    ear, one = Ear(), variant("one")
    output = Output("cam", one.spec, [ear], NO_RULES, Health("cam"))
    ladder = Ladder([Lane(NullEngine(one, [0]), one)])
    runner = DeadlineRunner(
        ladder, [1], Deadline(1000), say=lambda reply: live.tell(reply), status=output.status
    )
    live = Live(Script(light + dark + again), runner, output, NO_RULES, Fraction(10))
    live.run()
    told = [(r["what"], r["why"].partition(",")[0]) for r in ear.heard if r["type"] == "status"]
    assert [what for what, _ in told] == ["slow_camera", "slow_camera_over"]
    assert told[0][1] == "it gives 5 frames a second"
    summary = ear.heard[-1]
    assert (summary["type"], summary["frames_read"]) == ("summary", 550)
    answered = summary["frames_answered"] + summary["replies_dropped"]  # it reads faster than anyone listens
    assert answered in range(245, 256)  # 100 in the light, 50 in the dark, 100 again
