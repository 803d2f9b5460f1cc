"""Network cameras, real ones: an RTSP server and an HTTP server that die, hang, change and damage frames."""

from __future__ import annotations

import http.server
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_support import Camera

from edgepv.errors import UsageError
from edgepv.runtimes.sources import Frame, Source, open_source


def read(source: Source, count: int) -> list[Frame]:
    frames = [source.read() for _ in range(count)]
    assert None not in frames
    return [frame for frame in frames if frame]


def read_until(source: Source, wanted: Callable[[Frame], bool], within_s: float = 15) -> Frame:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        frame = source.read()
        assert frame is not None
        if wanted(frame):
            return frame
    raise AssertionError("no such frame came")


def test_a_camera_gives_its_rate_its_time_and_whole_frames(camera: Camera) -> None:
    camera.start()
    source = open_source(camera.url)
    frames = read(source, 10)
    source.close()
    assert source.live and source.fps == 15
    assert {f.pixels.shape for f in frames} == {(64, 96, 3)} and not any(f.restarted for f in frames)
    steps = np.diff([f.time_s for f in frames])
    assert steps == pytest.approx([1 / 15] * 9, abs=0.01)
    assert max(f.pixels.max() for f in frames) > 200  # the ball is white


def test_a_camera_killed_and_restarted_with_another_size_comes_back(camera: Camera) -> None:
    camera.start((96, 64))
    told: list[dict[str, Any]] = []
    source = open_source(camera.url, on_status=told.append)
    before = read(source, 3)[-1]
    camera.kill()
    threading.Timer(0.5, camera.start, [(128, 96)]).start()
    after = read_until(source, lambda frame: frame.restarted)
    rest = read(source, 3)
    source.close()
    assert (after.why, after.pixels.shape) == ("reconnected", (96, 128, 3))
    times = [f.time_s for f in (before, after, *rest)]
    assert times == sorted(times) and not any(f.restarted for f in rest)
    assert after.time_s - before.time_s == pytest.approx(after.arrived_s - before.arrived_s, abs=1)
    assert [s["what"] for s in told] == ["camera_lost", "camera_back"]
    assert "hunter2" not in str(told) and "127.0.0.1" in told[0]["why"]


def test_a_camera_that_is_not_there_is_one_line_without_its_password(
    camera: Camera, capfd: pytest.CaptureFixture[str]
) -> None:
    camera.start()
    camera.kill()
    with pytest.raises(
        UsageError, match=r"^rtsp://bob:\*\*\*@127.0.0.1:\d+/cam cannot be opened.*\w$"
    ) as caught:
        open_source(camera.url)
    assert "\n" not in str(caught.value) and "hunter2" not in repr(caught.value)
    assert "hunter2" not in "".join(capfd.readouterr())


def test_a_camera_that_may_come_later_is_waited_for(camera: Camera) -> None:
    camera.start()
    camera.kill()
    told: list[dict[str, Any]] = []
    source = open_source(camera.url, on_status=told.append, must_open=False)
    assert source.fps is None
    threading.Timer(0.3, camera.start).start()
    frame = read(source, 1)[0]
    source.close()
    assert frame.pixels.shape == (64, 96, 3) and not frame.restarted
    assert source.fps == 15 and [s["what"] for s in told] == ["camera_lost", "camera_back"]


def test_a_camera_that_hangs_is_lost_and_comes_back(
    camera: Camera, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgepv.runtimes.sources.capture.READ_S", 1.0)
    camera.start()
    told: list[dict[str, Any]] = []
    source = open_source(camera.url, on_status=told.append)
    read(source, 2)
    camera.signal(signal.SIGSTOP)
    threading.Timer(2, camera.signal, [signal.SIGCONT]).start()
    after = read_until(source, lambda frame: frame.restarted)
    source.close()
    assert after.why == "reconnected" and told[0]["what"] == "camera_lost"
    assert told[0]["why"].endswith("gave no frame for 1 s")
    assert "timeout" not in capfd.readouterr().err  # OpenCV's own words for it


def test_close_frees_a_read_that_waits_for_a_camera_that_hangs(camera: Camera) -> None:
    camera.start()
    source = open_source(camera.url)
    read(source, 2)
    camera.signal(signal.SIGSTOP)
    threading.Timer(0.5, source.close).start()
    start = time.monotonic()
    while source.read() is not None:
        pass
    assert time.monotonic() - start < 3  # the stream's own limit is 5 s
    camera.kill()


@pytest.fixture
def serve() -> Iterator[Callable[[str, bytes], str]]:
    """Serves bytes over HTTP: serve("video/MP2T", data) is the address."""
    servers = []

    def start(kind: str, data: bytes) -> str:
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/cam"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def jpeg(grey: int, width: int, height: int) -> bytes:
    import cv2

    return cv2.imencode(".jpg", np.full((height, width, 3), grey, np.uint8))[1].tobytes()


def multipart(pictures: list[bytes]) -> bytes:
    head = b"--cut\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
    return b"".join(head % len(picture) + picture + b"\r\n" for picture in pictures)


def test_a_stream_that_changes_its_size_goes_on_in_its_first_one(serve: Callable[[str, bytes], str]) -> None:
    """OpenCV scales to the size it opened with, so the model sees the whole picture and nothing restarts."""
    pictures = [jpeg(50, 96, 64)] * 100 + [jpeg(200, 128, 96)] * 100
    source = open_source(serve("multipart/x-mixed-replace; boundary=cut", multipart(pictures)))
    changed = read_until(source, lambda frame: frame.pixels.mean() > 190)
    source.close()
    assert changed.pixels.shape == (64, 96, 3) and not changed.restarted
    assert int(changed.pixels.min()) >= 195  # no border, no rest of the small pictures


def test_damaged_packets_of_a_stream_cost_frames_not_the_stream(
    serve: Callable[[str, bytes], str], tmp_path: Path
) -> None:
    if not shutil.which("ffmpeg"):
        pytest.skip("needs ffmpeg (see tests/system.sh)")
    path = tmp_path / "stream.ts"
    picture = "testsrc=size=96x64:rate=15:duration=8"
    command = ["ffmpeg", "-v", "error", "-threads", "1", "-f", "lavfi", "-i", picture]
    subprocess.run([*command, "-c:v", "mpeg2video", "-g", "5", str(path)], check=True)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    places = np.random.default_rng(0).integers(len(whole) // 2, len(whole), len(whole) // 400)
    damaged = whole.copy()
    damaged[places] ^= 255
    counts = []
    for data in (whole, damaged):
        source = open_source(serve("video/MP2T", data.tobytes()))
        frames = []
        while (frame := read(source, 1)[0]).why != "reconnected":
            frames.append(frame)
        source.close()
        assert {f.pixels.shape for f in frames} == {(64, 96, 3)}
        counts.append(len(frames))
    assert counts[0] > 80 and 0.5 * counts[0] < counts[1] < counts[0]
