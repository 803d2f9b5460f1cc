"""The end of a run's receivers, which none of them can hold up."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from edgepv.runtimes.faults import Faults
from edgepv.runtimes.record import Record
from edgepv.runtimes.sinks import Sink

END_S = 10.0
"""What receivers have at the end of a live run. Ours need 7 s at most, MQTT for disk and network; a run that
goes on 90 s after it was told to end is killed by systemd, with the records that the others still hold."""


def name_of(sink: Sink) -> str:
    """How faults call it."""
    return f"receiver {type(sink).__name__}"


class Ending:
    """One receiver hears the last records and is closed. What it raises is counted."""

    def __init__(self, sink: Sink, last: Sequence[Record], faults: Faults) -> None:
        self.sink, self._last, self._faults, self._told = sink, last, faults, 0

    def run(self) -> None:
        """All of it, in this thread."""
        for record in self._last:
            self._faults.call(name_of(self.sink), self.sink.put, record)
            self._told += 1
        self._faults.call(name_of(self.sink), self.sink.close)

    def hangs(self) -> str:
        """Where it is, for one that has not come back."""
        if left := len(self._last) - self._told:
            return f"put() has not come back: {left} records are not delivered"
        return "close() has not come back: what it had may not be delivered"


def end_within(
    seconds: float, sinks: Sequence[Sink], last: Sequence[Record], faults: Faults
) -> list[tuple[Sink, str]]:
    """End all of them at once; what has not come back after so many seconds is left to its thread.

    Returns those, each with where it is.
    """
    endings = [Ending(sink, last, faults) for sink in sinks]
    threads = [threading.Thread(target=one.run, daemon=True, name=name_of(one.sink)) for one in endings]
    for thread in threads:
        thread.start()
    until_s = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, until_s - time.monotonic()))
    return [(one.sink, one.hangs()) for one, thread in zip(endings, threads) if thread.is_alive()]
