"""What Prometheus reads: the series of each camera."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from edgepv.base.optional import need
from edgepv.runtimes.sinks import Sink

STAGES = ("capture", "pre", "infer", "post", "total")
BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.033, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Upper ends, in steps of about two; 33 ms is the frame of a camera with 30 a second."""


class Series:
    """The Prometheus series of a run, in a registry of their own; cameras are labels."""

    def __init__(self) -> None:
        client = need("prometheus_client", extra="live")
        self.registry = client.CollectorRegistry()
        self.cameras: list[Metrics] = []
        self._core = need("prometheus_client.core", extra="live")

        def make(kind: Any, name: str, text: str, labels: tuple[str, ...] = (), **more: Any) -> Any:
            return kind(f"edgepv_{name}", text, ("camera", *labels), registry=self.registry, **more)

        self.answers = make(client.Counter, "answers", "Answers given, stale ones included")
        self.stale = make(client.Counter, "stale_answers", "Stale answers", ("reason",))
        self.drops = make(client.Counter, "dropped_frames", "Frames that were due and got no answer")
        self.switches = make(client.Counter, "switches", "Changes of variant")
        forgot = "Times the states were forgotten or an engine restarted"
        self.restarts = make(client.Counter, "restarts", forgot)
        self.latency = make(
            client.Histogram, "stage_seconds", "Seconds per stage", ("stage",), buckets=BUCKETS_S
        )
        self.camera = make(client.Gauge, "camera_up", "1 while frames come")
        self.running = make(client.Gauge, "variant_running", "1 for the variant that answers", ("variant",))
        self.registry.register(self)

    def collect(self) -> Iterable[Any]:
        """What is read when it is asked for: age of the last fresh answer, memory, the sinks' counts."""
        gauge, counter = self._core.GaugeMetricFamily, self._core.CounterMetricFamily
        age = gauge("edgepv_answer_age_seconds", "Since the last fresh answer", labels=["camera"])
        memory = gauge("edgepv_resident_bytes", "Resident memory of the process")
        memory.add_metric([], _resident_bytes())
        labels = ["camera", "sink"]
        records = counter(
            "edgepv_sink_records", "Records by what became of them", labels=[*labels, "outcome"]
        )
        dropped = counter(
            "edgepv_replies_dropped",
            "Replies that rules and receivers did not hear",
            labels=["camera"],
        )
        queued = gauge("edgepv_sink_queued", "Records that wait for delivery", labels=labels)
        for one in self.cameras:
            if (seconds := one.age_s()) is not None:
                age.add_metric([one.name], seconds)
            dropped.add_metric([one.name], one.replies_dropped())
            for name, sink in one.sinks:
                counts = sink.counts()
                queued.add_metric([one.name, name], counts["queued"])
                for outcome in ("taken", "sent", "lost"):
                    records.add_metric([one.name, name, outcome], counts[outcome])
        return (age, memory, dropped, records, queued)


class Metrics:
    """What one camera adds to the series."""

    def __init__(self, series: Series, camera: str, age_s: Callable[[], float | None]) -> None:
        self.series, self.name, self.age_s, self._variant = series, camera, age_s, ""
        self.sinks: list[tuple[str, Sink]] = []
        self.replies_dropped: Callable[[], int] = lambda: 0
        self._lock = threading.Lock()
        self._answers = series.answers.labels(camera)
        self.drops, self.restarts = series.drops.labels(camera), series.restarts.labels(camera)
        self._switches, self.camera = series.switches.labels(camera), series.camera.labels(camera)
        series.cameras.append(self)

    def answered(self, stages_ms: Mapping[str, float], stale: str | None) -> None:
        """Count an answer and its stages in ms; stale: why it is an old one, None for a fresh one."""
        self._answers.inc()
        if stale is not None:
            self.series.stale.labels(self.name, stale).inc()
        for stage, ms in stages_ms.items():
            self.took(stage, ms)

    def took(self, stage: str, ms: float) -> None:
        """One stage took so many ms."""
        self.series.latency.labels(self.name, stage).observe(ms / 1e3)

    def running(self, variant: str) -> None:
        """Note which variant answers from now on; another one than before counts as a switch."""
        with self._lock:
            before, self._variant = self._variant, variant
            if before and before != variant:
                self._switches.inc()
                self.series.running.remove(self.name, before)
            self.series.running.labels(self.name, variant).set(1)

    def watch(self, name: str, sink: Sink) -> None:
        """Two series of one name would make Prometheus refuse the whole answer."""
        with self._lock:
            n, given = 1, name
            while name in dict(self.sinks):
                n += 1
                name = f"{given}_{n}"
            self.sinks.append((name, sink))


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
