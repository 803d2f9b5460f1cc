"""What tests of sinks share: a real broker, a real subscriber, and records to send."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edgepv.runtimes.record import Record

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def until(true: Callable[[], Any], seconds: float = 10.0) -> Any:
    """The first true value; fails the test if there is none within ``seconds``."""
    end = time.perf_counter() + seconds
    while not (value := true()):
        assert time.perf_counter() < end, f"not within {seconds} s"
        time.sleep(0.01)
    return value


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def event(n: int, kind: str = "new", label: str = "waving", name: str | None = None) -> Record:
    """One step in the life of event ``name``, marked with the number ``n``."""
    after = {"id": name or f"e{n}", "label": label, "score": 0.9, "n": n}
    return {"type": kind, "before": None if kind == "new" else after, "after": after}


def answer(label: str, score: float = 0.5, *, valid: bool = True, stale: bool = False) -> Record:
    return {
        "type": "answer",
        "label": label,
        "score": score,
        "valid": valid,
        "stale": stale,
        "age_ms": 420.0 if stale else 10.0,
    }


class Broker:
    """A mosquitto that keeps its sessions on disk at every change."""

    def __init__(self, folder: Path, extra: str = "") -> None:
        folder.mkdir()
        self.port, self._folder, self._extra = free_port(), folder, extra
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = self._folder / "mosquitto.conf"
        config.write_text(
            f"user root\nlistener {self.port} 127.0.0.1\n"
            f"persistence true\npersistence_location {self._folder}/\n"
            f"autosave_on_changes true\nautosave_interval 1\n{self._extra or 'allow_anonymous true'}\n"
        )
        assert MOSQUITTO
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([MOSQUITTO, "-c", str(config)], stdout=log, stderr=log)
        until(self._listens)

    def _listens(self) -> bool:
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def signal(self, number: int) -> None:
        assert self._process
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def forget(self) -> None:
        """Remove what it kept on disk."""
        (self._folder / "mosquitto.db").unlink(missing_ok=True)


class Subscriber:
    """Hears everything below ``topic``, over one session that outlives the broker."""

    def __init__(self, port: int, topic: str) -> None:
        self.heard: list[tuple[str, str, bool]] = []
        self._ready = threading.Event()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id="ears", clean_session=False)
        self.client.reconnect_delay_set(0.1, 0.2)  # type: ignore[arg-type]
        self.client.on_connect = lambda c, *_: c.subscribe(topic, qos=1)
        self.client.on_subscribe = lambda *_: self._ready.set()
        self.client.on_message = self._hear
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self._ready.wait(10)

    def _hear(self, client: Any, data: Any, message: paho.MQTTMessage) -> None:
        self.heard.append((message.topic, message.payload.decode(), message.retain))

    def on(self, topic: str) -> list[str]:
        """The payloads heard on that topic."""
        return [payload for t, payload, _ in list(self.heard) if t == topic]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


SERVER = Path(__file__).with_name("rtsp_server.py")
SYSTEM_PYTHON = "/usr/bin/python3"
NEEDED = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"


class Camera:
    """An RTSP server in a process of its own, always on one port."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._port = "0"

    @property
    def url(self) -> str:
        return f"rtsp://bob:hunter2@127.0.0.1:{self._port}/cam"

    def start(self, size: tuple[int, int] = (96, 64), *, password: str = "") -> None:
        """password: what user bob must give; without one everybody is let in."""
        command = [SYSTEM_PYTHON, str(SERVER), self._port, *map(str, size), "15/1", password]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self._port = self._process.stdout.readline().split()[1]

    def signal(self, number: int) -> None:
        if self._process:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None
