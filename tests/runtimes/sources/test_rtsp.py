"""Network cameras, real ones: an RTSP server and an HTTP server that die, hang, change and damage frames."""

from __future__ import annotations

import base64
import contextlib
import http.server
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_support import Camera

from edgepv.errors import UsageError
from edgepv.runtimes.sources import Frame, Source, open_source
from edgepv.runtimes.sources.capture import StreamClock
from edgepv.runtimes.sources.pace import Due, Rate

pytestmark = pytest.mark.slow


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
        UsageError, match=r"^rtsp://bob:\*\*\*@127.0.0.1:\d+/cam cannot be opened: nothing listens.*\w$"
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


@pytest.fixture
def web() -> Iterator[Callable[[Callable[[http.server.BaseHTTPRequestHandler], None]], str]]:
    """web(answer): an HTTP server that answers every GET by that function; its address."""
    servers = []

    def start(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> str:
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with contextlib.suppress(OSError):
                    answer(self)

            def log_message(self, *args: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def motion_jpeg(rate: float) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    """A camera of so many pictures a second, until nobody looks."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "multipart/x-mixed-replace; boundary=cut")
        request.end_headers()
        begun = time.monotonic()
        for n in range(10_000):
            request.wfile.write(multipart([jpeg(n % 200, 96, 64)]))
            time.sleep(max(0.0, begun + (n + 1) / rate - time.monotonic()))

    return answer


@pytest.mark.parametrize(("rate", "due"), [(8.0, 8.0), (50.0, 10.0)])
def test_motion_jpeg_goes_by_its_arrival_whatever_rate_ffmpeg_makes_up(
    web: Callable[..., str], rate: float, due: float
) -> None:
    """A model at 10 frames a second gets 8 of 8 and 10 of 50, where FFmpeg says 25 of both."""
    source = open_source(web(motion_jpeg(rate)) + "/video")
    model, measured, taken, rates = Due(Fraction(10), source.fps), Rate(), 0, []
    first = last = read(source, 1)[0]
    while last.time_s - first.time_s < 4:
        taken += model.due(last.time_s)[0]
        if (found := measured(last.time_s)) is not None:
            rates.append(found)
            model.learn(found)
        last = read(source, 1)[0]
    source.close()
    assert source.fps is None
    assert last.time_s - first.time_s == pytest.approx(last.arrived_s - first.arrived_s, abs=0.01)
    assert taken == pytest.approx(4 * due, abs=3) and rates == [pytest.approx(rate, rel=0.15)]


def test_a_file_at_an_address_is_played_once_at_its_own_speed_and_has_an_end(
    web: Callable[..., str], write_video: Callable[..., Path]
) -> None:
    data = write_video("clip.mp4", [10 * n for n in range(12)], fps=10.0).read_bytes()

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    told: list[dict[str, Any]] = []
    source = open_source(web(answer) + "/clip.mp4", on_status=told.append)
    begun = time.monotonic()
    times = []
    while frame := source.read():
        times.append(frame.time_s)
    source.close()
    assert times[-1] == pytest.approx(1.1, abs=0.01) and times == sorted(times) and len(times) >= 8
    assert 1.0 < time.monotonic() - begun < 5
    assert [t["what"] for t in told] == ["file_ended"] and "is a file: it ended after 12 frames" in told[0][
        "why"
    ]


def test_a_file_whose_connection_breaks_off_is_told_as_such(
    web: Callable[..., str], write_video: Callable[..., Path], tmp_path: Path
) -> None:
    if not shutil.which("ffmpeg"):
        pytest.skip("needs ffmpeg (see tests/system.sh)")
    path = tmp_path / "clip.mkv"
    made = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=size=320x240:rate=25:duration=2"]
    subprocess.run([*made, "-c:v", "mpeg2video", "-b:v", "2M", str(path)], check=True)
    data = path.read_bytes()

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[: len(data) // 2])

    told: list[dict[str, Any]] = []
    source = open_source(web(answer) + "/clip.mkv", on_status=told.append)
    while source.read():
        pass
    source.close()
    assert [t["what"] for t in told] == ["file_broke_off"] and "frames of about 50" in told[0]["why"]


def guarded(password: str) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    """A camera that wants user bob with that password."""
    wanted = "Basic " + base64.b64encode(f"bob:{password}".encode()).decode()

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        if request.path == "/none":
            request.send_error(404)
        elif request.headers.get("Authorization") != wanted:
            request.send_response(401)
            request.send_header("WWW-Authenticate", 'Basic realm="cam"')
            request.end_headers()
        else:
            motion_jpeg(20)(request)

    return answer


def test_a_password_with_odd_characters_is_given_percent_encoded(web: Callable[..., str]) -> None:
    address = web(guarded("p@ss/w#rd:?")).replace("http://", "http://bob:p%40ss%2Fw%23rd%3A%3F@")
    source = open_source(address + "/video")
    assert read(source, 1)[0].pixels.shape == (64, 96, 3)
    source.close()


@pytest.mark.parametrize(
    ("user", "path", "says"),
    [
        ("", "/video", "wants a user and a password"),
        ("bob:hunter3@", "/video", "refuses the user or the password \\(401\\)"),
        ("bob:hunter2@", "/none", "has nothing under that path \\(404\\)"),
    ],
)
def test_a_camera_that_refuses_says_why_without_the_password(
    web: Callable[..., str], user: str, path: str, says: str
) -> None:
    address = web(guarded("hunter2")).replace("http://", f"http://{user}") + path
    with pytest.raises(UsageError, match=f"cannot be opened: .*{says}") as caught:
        open_source(address)
    assert "hunter" not in str(caught.value) and "\n" not in str(caught.value)


def test_an_rtsp_camera_that_refuses_the_password_is_asked_why(camera: Camera) -> None:
    camera.start(password="hunter2")
    source = open_source(camera.url)  # bob:hunter2
    assert read(source, 1)[0].pixels.shape == (64, 96, 3)
    source.close()
    for wrong, says in (
        (camera.url.replace("hunter2", "hunter3"), "refuses the user or the password \\(401\\)"),
        (camera.url.replace("bob:hunter2@", ""), "wants a user and a password"),
        (camera.url.replace("/cam", "/none"), "has nothing under that path \\(404\\)"),
    ):
        with pytest.raises(UsageError, match=says) as caught:
            open_source(wrong)
        assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(("pace", "believed"), [(1.0, True), (1.15, True), (3.0, False), (0.3, False)])
def test_time_stamps_that_run_away_from_the_clock_are_believed_no_longer(pace: float, believed: bool) -> None:
    """A camera numbers its frames by a rate it does not have: after half a minute the arrival counts."""
    clock = StreamClock()
    times = [clock(100 + pace * n / 10, n / 10) for n in range(600)]
    assert times == sorted(times)
    late = times[-1] - times[-101]
    assert late == pytest.approx(10 * pace if believed else 10.0, abs=0.01)


def test_a_burst_at_the_start_is_no_drift() -> None:
    """A server sends its last three seconds at once, then goes on in time."""
    clock = StreamClock()
    times = [clock(n / 10, max(0.0, (n - 30) / 10) + n / 1e6) for n in range(900)]
    assert times == [n / 10 for n in range(900)]
