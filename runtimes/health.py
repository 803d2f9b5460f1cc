"""Whether a live run is well: numbers for Prometheus, a yes or no for a probe, a heartbeat for systemd.

``Health.serve`` answers ``/metrics`` (Prometheus text) and ``/healthz`` (200 while fresh answers keep coming,
503 and the reason otherwise). Everything but ``/metrics`` works without prometheus_client.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from edgepv.base.optional import need, present
from edgepv.errors import TargetUnavailableError, UsageError
from edgepv.runtimes.sinks import Sink

STAGES = ("capture", "pre", "infer", "post", "total")
BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.033, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
CLIENT_TIMEOUT_S = 5.0


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
        self._metrics: _Metrics | None = None
        if present("prometheus_client"):
            series = beside._metrics.series if beside and beside._metrics else _Series()
            self._metrics = _Metrics(series, camera, self.age_s)

    def answered(self, stages_ms: Mapping[str, float], *, stale: str | None = None) -> None:
        """One answer was given. stages_ms: milliseconds by STAGES. stale: why, if it was a stale one."""
        if stale is None:
            with self._lock:
                self._fresh_at = time.perf_counter()
        if self._metrics:
            self._metrics.answered(stages_ms, stale)

    def dropped(self, frames: int = 1) -> None:
        """Frames were due and got no answer."""
        if self._metrics:
            self._metrics.drops.inc(frames)

    def restarted(self) -> None:
        """The states were forgotten, or the engine began again."""
        if self._metrics:
            self._metrics.restarts.inc()

    def running(self, variant: str) -> None:
        """This variant answers from now on; another one than before counts as a switch."""
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
        found = [f"camera lost: {lost}" if lost is not None else self.stuck(), *faults]
        return "; ".join(why for why in found if why) or None

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
        found = [(one._name, why) for one in self._all if (why := one.trouble())]
        return "; ".join(f"{name}: {why}" if len(self._all) > 1 else why for name, why in found) or None

    def metrics(self) -> bytes:
        """Everything as Prometheus text. Raises TargetUnavailableError without prometheus_client."""
        client = need("prometheus_client", extra="live")
        assert self._metrics is not None
        return client.generate_latest(self._metrics.series.registry)

    def serve(self, address: str) -> Server:
        """Answer HTTP at ``PORT`` (of this machine only), ``HOST:PORT`` or ``[IPV6]:PORT``; port 0 picks one.

        Raises UsageError if the address is wrong or taken.
        """
        return Server(self, *_host_port(address))

    def watchdog(self) -> Watchdog | None:
        """A thread that tells systemd's watchdog that all is well, while it is; None if it did not ask."""
        every = _watchdog_every_s(os.environ)
        return None if every is None else Watchdog(self, every)

    def _camera(self, lost: str | None) -> None:
        with self._lock:
            self._lost = lost
        if self._metrics:
            self._metrics.camera.set(lost is None)


class _Series:
    """The Prometheus series of a run, in a registry of their own; cameras are labels."""

    def __init__(self) -> None:
        client = need("prometheus_client", extra="live")
        self.registry = client.CollectorRegistry()
        self.cameras: list[_Metrics] = []
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
        queued = gauge("edgepv_sink_queued", "Records that wait for delivery", labels=labels)
        for one in self.cameras:
            if (seconds := one.age_s()) is not None:
                age.add_metric([one.name], seconds)
            for name, sink in one.sinks:
                counts = sink.counts()
                queued.add_metric([one.name, name], counts["queued"])
                for outcome in ("taken", "sent", "lost"):
                    records.add_metric([one.name, name, outcome], counts[outcome])
        return (age, memory, records, queued)


class _Metrics:
    """What one camera adds to the series."""

    def __init__(self, series: _Series, camera: str, age_s: Callable[[], float | None]) -> None:
        self.series, self.name, self.age_s, self._variant = series, camera, age_s, ""
        self.sinks: list[tuple[str, Sink]] = []
        self._lock = threading.Lock()
        self._answers = series.answers.labels(camera)
        self.drops, self.restarts = series.drops.labels(camera), series.restarts.labels(camera)
        self._switches, self.camera = series.switches.labels(camera), series.camera.labels(camera)
        series.cameras.append(self)

    def answered(self, stages_ms: Mapping[str, float], stale: str | None) -> None:
        self._answers.inc()
        if stale is not None:
            self.series.stale.labels(self.name, stale).inc()
        for stage, ms in stages_ms.items():
            self.series.latency.labels(self.name, stage).observe(ms / 1e3)

    def running(self, variant: str) -> None:
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


class Server:
    """The HTTP server of one Health, in threads of its own. address: (host, port) as bound."""

    def __init__(self, health: Health, host: str, port: int) -> None:
        server = _HttpServer6 if ":" in host else _HttpServer
        try:
            self._http = server((host, port), _Handler)
        except OSError as e:
            raise UsageError(
                f"cannot listen on {host} port {port} ({e.strerror or e}). Choose another address"
            ) from None
        self._http.health = health
        self.address: tuple[str, int] = self._http.server_address[:2]  # type: ignore[assignment]
        self._thread = threading.Thread(target=self._http.serve_forever, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    health: Health

    def server_bind(self) -> None:
        """Bind without asking a name server for our own name, as HTTPServer does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()


class _HttpServer6(_HttpServer):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_TIMEOUT_S
    server: _HttpServer
    server_version, sys_version = "edgepv", ""

    def do_GET(self) -> None:
        health = self.server.health
        path = self.path.partition("?")[0]
        if path == "/healthz":
            why = health.troubles()
            self._json(503 if why else 200, {"ok": why is None, "why": why, "age_s": health.age_s()})
        elif path == "/metrics":
            try:
                self._answer(200, "text/plain; version=0.0.4; charset=utf-8", health.metrics())
            except TargetUnavailableError as e:
                self._json(501, {"ok": False, "why": str(e)})
        else:
            self._json(404, {"ok": False, "why": "there are /metrics and /healthz"})

    def _json(self, status: int, value: dict[str, Any]) -> None:
        self._answer(status, "application/json", json.dumps(value).encode() + b"\n")

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # the reader went away: its business
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a probe every few seconds is no news."""


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise UsageError(f"'{address}' is not an address to listen on. Write 9464, or 0.0.0.0:9464 for all")
    return host, int(port)


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


def _watchdog_every_s(environment: Mapping[str, str]) -> float | None:
    """Half of $WATCHDOG_USEC in seconds; None if it is not set, or is for another process."""
    try:
        every_s = int(environment.get("WATCHDOG_USEC", "0")) / 2e6
        for_us = int(environment.get("WATCHDOG_PID", os.getpid())) == os.getpid()
    except ValueError:
        return None
    return every_s if every_s > 0 and for_us else None
