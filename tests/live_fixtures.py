"""Real things for live tests: a broker, a camera, a disk that is soon full, sinks that get closed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_support import MOSQUITTO, NEEDED, SYSTEM_PYTHON, Broker, Camera, Subscriber

from edgepv.runtimes.sinks import Sink, open_sink


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    broker = Broker(tmp_path / "broker")
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def ears(broker: Broker) -> Iterator[Callable[..., Subscriber]]:
    """ears("cam1/#"): a subscriber of the broker."""
    opened: list[Subscriber] = []

    def listen(topic: str) -> Subscriber:
        opened.append(Subscriber(broker.port, topic))
        return opened[-1]

    yield listen
    for subscriber in opened:
        subscriber.close()


@pytest.fixture
def news() -> list[str]:
    """What sinks had to say."""
    return []


@pytest.fixture
def sink(tmp_path: Path, news: list[str]) -> Iterator[Callable[..., Any]]:
    """sink(url): opened for camera cam1, which may raise "waving" and "fall down"; closed afterwards."""
    opened: list[Sink] = []

    def make(url: str) -> Sink:
        labels = ["waving", "fall down"]
        spool = tmp_path / "spool"
        opened.append(
            open_sink(url, camera="cam1", spool_folder=spool, labels=labels, fps=10, say=news.append)
        )
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing gives up after 0.3 s."""
    monkeypatch.setattr("edgepv.runtimes.sinks.spool.CLOSE_S", 0.3)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """small_disk("64k"): a file system of its own of that size."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        if os.geteuid() != 0:
            pytest.skip("only root may mount a small disk")
        folder = tmp_path / "disk"
        folder.mkdir()
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
            capture_output=True,
            text=True,
        )
        if made.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {made.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def camera() -> Iterator[Camera]:
    if subprocess.run([SYSTEM_PYTHON, "-c", NEEDED], capture_output=True).returncode:
        pytest.skip("needs /usr/bin/python3 with gir1.2-gst-rtsp-server-1.0 (see tests/system.sh)")
    camera = Camera()
    yield camera
    camera.kill()
