"""systemd is told that the service is ready and alive (sd_notify)."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping

from edgepv.runtimes.health.state import Health


def sd_notify(state: str) -> bool:
    """Tell systemd ``READY=1``, ``STATUS=...``, ``STOPPING=1``; whether it was told. Never raises.

    Without $NOTIFY_SOCKET nobody asked. Source: sd_notify(3); a leading @ is an abstract socket.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
            s.setblocking(False)
            s.sendto(state.encode(), address)
    except OSError:
        return False
    return True


class Watchdog:
    """Sends WATCHDOG=1 while no camera is stuck; systemd restarts the run when that stops.

    A camera that is lost does not count: starting again would not bring it back.
    """

    def __init__(self, health: Health, every_s: float) -> None:
        self._health, self._every_s = health, every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send no more."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            if not any(one.stuck() for one in self._health._all):
                sd_notify("WATCHDOG=1")
            if self._stopping.wait(self._every_s):
                return


def watchdog_every_s(environment: Mapping[str, str]) -> float | None:
    """Half of $WATCHDOG_USEC in seconds; None if it is not set, or is for another process."""
    try:
        every_s = int(environment.get("WATCHDOG_USEC", "0")) / 2e6
        for_us = int(environment.get("WATCHDOG_PID", os.getpid())) == os.getpid()
    except ValueError:
        return None
    return every_s if every_s > 0 and for_us else None


def watchdog(health: Health) -> Watchdog | None:
    """A thread that tells systemd's watchdog that all is well, while it is; None if it did not ask."""
    every = watchdog_every_s(os.environ)
    return None if every is None else Watchdog(health, every)
