"""Whether a live run is well: numbers for Prometheus, a yes or no for a probe, a heartbeat for systemd.

``Health.serve`` answers ``/metrics`` (Prometheus text) and ``/healthz`` (200 while fresh answers keep coming,
503 and the reason otherwise). Everything but ``/metrics`` works without prometheus_client.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from edgepv.base.optional import need, present
from edgepv.runtimes.health.series import Metrics, Series
from edgepv.runtimes.sinks import Sink


class Health:
    """What a live run reports about itself; its methods may be called from any thread.

    fresh_within_s: without a fresh answer for longer than this the run is not well. beside: another camera of
    the same run; whichever of them serves, serves all.
    """

    def __init__(self, camera: str, *, fresh_within_s: float = 10.0, beside: Health | None = None) -> None:
        self._name, self._fresh_within_s = camera, fresh_within_s
        self._all: list[Health] = beside._all if beside else []
        self._all.append(self)
        self._lock = threading.Lock()
        self._fresh_at: float | None = None
        self._lost: str | None = None
        self._faults: dict[str, str] = {}
        self._metrics: Metrics | None = None
        if present("prometheus_client"):
            series = beside._metrics.series if beside and beside._metrics else Series()
            self._metrics = Metrics(series, camera, self.age_s)

    def answered(self, stages_ms: Mapping[str, float], *, stale: str | None = None) -> None:
        """One answer was given. stages_ms: milliseconds by STAGES. stale: why, if it was a stale one."""
        if stale is None:
            with self._lock:
                self._fresh_at = time.perf_counter()
        if self._metrics:
            self._metrics.answered(stages_ms, stale)

    def took(self, stage: str, ms: float) -> None:
        """A stage of its own took so long, such as covering people in a picture."""
        if self._metrics:
            self._metrics.took(stage, ms)

    def dropped(self, frames: int = 1) -> None:
        """Frames were due and got no answer."""
        if self._metrics:
            self._metrics.drops.inc(frames)

    def replies(self, dropped: Callable[[], int]) -> None:
        """dropped: says how many replies were replaced before rules and receivers heard them."""
        if self._metrics:
            self._metrics.replies_dropped = dropped

    def restarted(self) -> None:
        """The states were forgotten, or the engine began again."""
        if self._metrics:
            self._metrics.restarts.inc()

    def running(self, variant: str) -> None:
        """Note which variant answers from now on; another one than before counts as a switch."""
        if self._metrics:
            self._metrics.running(variant)

    def camera_up(self) -> None:
        """Frames come."""
        self._camera(None)

    def camera_lost(self, why: str) -> None:
        """Frames do not come."""
        self._camera(why)

    def fault(self, name: str, why: str) -> None:
        """A receiver or a listener raised; the run is not well until it is started again."""
        with self._lock:
            self._faults.setdefault(name, why)

    def watch(self, name: str, sink: Sink) -> None:
        """Report the counts of this sink. name: without passwords; a second "mqtt" becomes "mqtt_2"."""
        if self._metrics:
            self._metrics.watch(name, sink)

    def age_s(self) -> float | None:
        """Seconds since the last fresh answer; None before the first."""
        with self._lock:
            return None if self._fresh_at is None else time.perf_counter() - self._fresh_at

    def trouble(self) -> str | None:
        """Why the run is not well; None if it is."""
        with self._lock:
            lost, faults = self._lost, [f"{name} raised {why}" for name, why in self._faults.items()]
        reasons = [f"camera lost: {lost}" if lost is not None else self.stuck(), *faults]
        return "; ".join(why for why in reasons if why) or None

    def stuck(self) -> str | None:
        """Why nothing comes out although frames come in, which starting again may cure; else None."""
        with self._lock:
            if self._lost is not None:
                return None
        age = self.age_s()
        if age is None:
            return "no fresh answer yet"
        return f"no fresh answer for {age:.1f} s" if age > self._fresh_within_s else None

    def troubles(self) -> str | None:
        """Like ``trouble``, of every camera of the run."""
        reasons = [(one._name, why) for one in self._all if (why := one.trouble())]
        return "; ".join(f"{name}: {why}" if len(self._all) > 1 else why for name, why in reasons) or None

    def metrics(self) -> bytes:
        """Everything as Prometheus text. Raises TargetUnavailableError without prometheus_client."""
        client = need("prometheus_client", extra="live")
        assert self._metrics is not None
        return client.generate_latest(self._metrics.series.registry)

    def _camera(self, lost: str | None) -> None:
        with self._lock:
            self._lost = lost
        if self._metrics:
            self._metrics.camera.set(lost is None)
