"""Health: numbers that Prometheus reads, a probe that turns red, systemd's datagrams."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgepv.errors import TargetUnavailableError, UsageError
from edgepv.runtimes.health import state
from edgepv.runtimes.health.server import Server
from edgepv.runtimes.health.server import serve as serve_http
from edgepv.runtimes.health.state import Health
from edgepv.runtimes.health.systemd import sd_notify, watchdog

Serve = Callable[[Health], Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(health): its server at a free port."""
    opened: list[Server] = []

    def start(health: Health) -> Server:
        opened.append(serve_http(health, "0"))
        return opened[-1]

    yield start
    for server in opened:
        server.close()


def get(server: Server, path: str) -> tuple[int, str, str]:
    """(status, content type, body)"""
    host, port = server.address
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10) as reply:
            return reply.status, reply.headers["Content-Type"], reply.read().decode()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.headers["Content-Type"], e.read().decode()


def samples(text: str) -> dict[str, float]:
    """name and its label values, in the order of the labels' names -> value"""
    return {
        " ".join([s.name, *(s.labels[label] for label in sorted(s.labels))]): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


class FakeSink:
    pixels = False

    def put(self, record: dict[str, Any], frame: np.ndarray | None = None) -> None: ...

    def counts(self) -> dict[str, int]:
        return {"taken": 9, "sent": 5, "queued": 3, "lost": 1}

    def close(self) -> None: ...


def test_prometheus_reads_every_number(serve: Serve) -> None:
    health = Health("cam1")
    health.running("int8")
    for _ in range(3):
        health.answered({"capture": 1.5, "pre": 1.5, "infer": 15.0, "post": 0.5, "total": 18.5})
    health.answered({"total": 40.0}, stale="deadline")
    health.dropped(2)
    health.replies(lambda: 7)
    health.restarted()
    health.running("int8")
    health.running("fp32")
    health.camera_up()
    health.watch("mqtt://host:1883/cam1", FakeSink())
    status, kind, text = get(serve(health), "/metrics")
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    got = samples(text)
    for name, value in {
        "edgepv_answers_total cam1": 4,
        "edgepv_stale_answers_total cam1 deadline": 1,
        "edgepv_dropped_frames_total cam1": 2,
        "edgepv_replies_dropped_total cam1": 7,
        "edgepv_restarts_total cam1": 1,
        "edgepv_switches_total cam1": 1,
        "edgepv_variant_running cam1 fp32": 1,
        "edgepv_camera_up cam1": 1,
        "edgepv_stage_seconds_count cam1 infer": 3,
        "edgepv_stage_seconds_bucket cam1 0.01 infer": 0,
        "edgepv_stage_seconds_bucket cam1 0.02 infer": 3,
        "edgepv_stage_seconds_count cam1 total": 4,
        "edgepv_sink_queued cam1 mqtt://host:1883/cam1": 3,
        "edgepv_sink_records_total cam1 taken mqtt://host:1883/cam1": 9,
        "edgepv_sink_records_total cam1 sent mqtt://host:1883/cam1": 5,
        "edgepv_sink_records_total cam1 lost mqtt://host:1883/cam1": 1,
    }.items():
        assert got[name] == value, name
    assert got["edgepv_stage_seconds_sum cam1 infer"] == pytest.approx(0.045)
    assert "edgepv_variant_running cam1 int8" not in got
    assert 0 <= got["edgepv_answer_age_seconds cam1"] < 10
    assert 5e6 < got["edgepv_resident_bytes"] < 1e11
    health.camera_lost("no route to host")
    assert samples(health.metrics().decode())["edgepv_camera_up cam1"] == 0


def test_two_sinks_of_one_name_are_two_series() -> None:
    health = Health("cam1")
    for _ in range(3):
        health.watch("mqtt", FakeSink())
    got = samples(health.metrics().decode())
    assert [got[f"edgepv_sink_queued cam1 {name}"] for name in ("mqtt", "mqtt_2", "mqtt_3")] == [3, 3, 3]


def test_two_cameras_in_one_process_do_not_mix() -> None:
    one, two = Health("cam1"), Health("cam2")
    one.answered({})
    assert samples(one.metrics().decode())["edgepv_answers_total cam1"] == 1
    assert samples(two.metrics().decode())["edgepv_answers_total cam2"] == 0


def test_cameras_of_one_run_are_served_together(serve: Serve) -> None:
    one = Health("cam1")
    two = Health("cam2", beside=one)
    for health in (one, two):
        health.watch("mqtt", FakeSink())
        health.answered({"total": 1.0})
    server = serve(one)
    assert get(server, "/healthz")[0] == 200
    got = samples(get(server, "/metrics")[2])
    assert [got[f"edgepv_answers_total {c}"] for c in ("cam1", "cam2")] == [1, 1]
    assert [got[f"edgepv_sink_queued {c} mqtt"] for c in ("cam1", "cam2")] == [3, 3]
    two.camera_lost("no route to host")
    status, _, text = get(server, "/healthz")
    assert status == 503 and "cam2: camera lost: no route to host" in text


def test_counts_from_many_threads_add_up() -> None:
    health = Health("cam1")

    def answer() -> None:
        for _ in range(200):
            health.answered({"pre": 1.0})

    threads = [threading.Thread(target=answer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    got = samples(health.metrics().decode())
    assert got["edgepv_answers_total cam1"] == got["edgepv_stage_seconds_count cam1 pre"] == 800


def test_the_probe_turns_red_without_fresh_answers_and_green_with_the_next(serve: Serve) -> None:
    health = Health("cam1", fresh_within_s=0.2)
    server = serve(health)

    def probe() -> tuple[int, str | None]:
        status, kind, body = get(server, "/healthz?verbose")
        value = json.loads(body)
        assert kind == "application/json"
        assert value["ok"] == (status == 200) == (value["why"] is None)
        return status, value["why"]

    assert probe() == (503, "no fresh answer yet")
    health.answered({})
    assert probe() == (200, None)
    end = time.perf_counter() + 10
    while probe()[0] == 200:
        health.answered({}, stale="deadline")  # stale ones do not keep it green
        assert time.perf_counter() < end
    assert probe()[1] in [f"no fresh answer for 0.{n} s" for n in range(2, 10)]
    health.answered({})
    assert probe() == (200, None)
    health.camera_lost("connection reset")
    assert probe() == (503, "camera lost: connection reset")
    health.camera_up()
    health.answered({})
    assert probe() == (200, None)
    assert get(server, "/")[0] == 404


def test_a_client_that_says_nothing_does_not_stop_the_others(serve: Serve) -> None:
    health = Health("cam1")
    health.answered({})
    server = serve(health)
    with socket.create_connection(server.address), socket.create_connection(server.address):
        assert get(server, "/healthz")[0] == 200


def test_it_listens_on_this_machine_only_unless_a_host_is_given() -> None:
    for address, host in (("0", "127.0.0.1"), (":0", "127.0.0.1"), ("0.0.0.0:0", "0.0.0.0")):
        server = serve_http(Health("cam1"), address)
        assert server.address[0] == host
        server.close()


@pytest.mark.parametrize(
    "address", ["", "host", "1.2.3.4:x", "99999", "127.0.0.1:-1", "no.such.host.invalid:0"]
)
def test_a_wrong_address_is_one_clear_line(address: str) -> None:
    with pytest.raises(UsageError, match="is not an address to listen on|cannot listen on"):
        serve_http(Health("cam1"), address)


def test_a_port_that_is_taken_is_named(serve: Serve) -> None:
    server = serve(Health("cam1"))
    with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1 port {server.address[1]}"):
        serve_http(Health("cam2"), str(server.address[1]))


def test_without_prometheus_everything_but_metrics_works(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "present", lambda module: False)
    monkeypatch.setattr("edgepv.base.optional.present", lambda module: False)
    health = Health("cam1")
    health.running("int8")
    health.answered({"pre": 1.0}, stale="deadline")
    health.dropped()
    health.restarted()
    health.camera_up()
    health.watch("mqtt", FakeSink())
    health.answered({"pre": 1.0})
    server = serve(health)
    assert get(server, "/healthz")[0] == 200
    status, _, body = get(server, "/metrics")
    assert status == 501
    assert "pip install 'edgepv[live]'" in body
    with pytest.raises(TargetUnavailableError):
        health.metrics()


@pytest.fixture(params=["path", "abstract"])
def systemd(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """A datagram socket that $NOTIFY_SOCKET names."""
    name = (
        f"@edgepv-{os.getpid()}-{id(tmp_path)}" if request.param == "abstract" else str(tmp_path / "notify")
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        s.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield s


def test_systemd_is_told(systemd: socket.socket) -> None:
    for told in ("READY=1", "STATUS=cam1: waving 87%", "STOPPING=1"):
        assert sd_notify(told)
        assert systemd.recv(1000) == told.encode()


@pytest.mark.parametrize(
    "name", [None, "", "relative", "/no/such/socket", "@no-such-socket", "/" + "x" * 500]
)
def test_where_nobody_listens_nothing_is_told_and_nothing_breaks(
    name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if name is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", name)
    assert not sd_notify("READY=1")


def test_the_watchdog_is_fed_at_half_its_time_and_only_while_all_is_well(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    health = Health("cam1")
    kept = watchdog(health)
    assert kept
    systemd.settimeout(0.3)
    with pytest.raises(TimeoutError):
        systemd.recv(100)
    health.answered({})
    systemd.settimeout(10)
    assert systemd.recv(100) == b"WATCHDOG=1"
    start = time.perf_counter()
    assert [systemd.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    assert 0.25 < time.perf_counter() - start < 2  # three times 0.1 s
    health.camera_lost("gone")
    kept.close()
    systemd.setblocking(False)
    left = 0
    while True:
        try:
            systemd.recv(100)
            left += 1
        except BlockingIOError:
            break
    assert left <= 1


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
    ],
)
def test_there_is_no_watchdog_unless_systemd_asked_this_process(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert watchdog(Health("cam1")) is None


def test_importing_health_imports_no_prometheus() -> None:
    code = "import sys, edgepv.runtimes.health; print('prometheus_client' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
