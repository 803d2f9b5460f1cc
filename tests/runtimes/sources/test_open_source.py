"""The text of --source: which kind it names, what its errors say, and what they never say."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from edgepv.base.optional import present
from edgepv.data.video import frame_rate
from edgepv.errors import TargetUnavailableError, UsageError
from edgepv.runtimes.sources import open_source
from edgepv.runtimes.sources.address import without_password


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://bob:hunter2@cam/1", "rtsp://bob:***@cam/1"),
        ("rtsps://bob:p@ss/hunter2@cam:322/1", "rtsps://bob:***@cam:322/1"),
        ("rtsp://:hunter2@cam/1", "rtsp://:***@cam/1"),
        ("rtsp://bob:hun ter2@cam/1", "rtsp://bob:***@cam/1"),
        ("http://cam/video.cgi?user=bob&pwd=hunter2&fps=5", "http://cam/video.cgi?user=bob&pwd=***&fps=5"),
        ("http://cam/?Password=hunter2", "http://cam/?Password=***"),
        (
            "gst:rtspsrc location=rtsp://cam/1 user-pw=hunter2 ! x",
            "gst:rtspsrc location=rtsp://cam/1 user-pw=*** ! x",
        ),
        (
            'gst:rtspsrc location="rtsp://bob:hunter2@cam/1" ! x',
            'gst:rtspsrc location="rtsp://bob:***@cam/1" ! x',
        ),
        ("rtsp://cam:554/1", "rtsp://cam:554/1"),
        ("rtsp://bob@cam/1", "rtsp://bob@cam/1"),
    ],
)
def test_a_password_is_never_shown(text: str, shown: str) -> None:
    assert without_password(text) == shown


@pytest.mark.parametrize(
    ("value", "rate"),
    [
        (29.97, Fraction(30000, 1001)),
        (30000 / 1001, Fraction(30000, 1001)),
        (23.976, Fraction(24000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (25.0, Fraction(25)),
        (30.0, Fraction(30)),
        (12.5, Fraction(25, 2)),
        (0.2, Fraction(1, 5)),
        (0.0, None),
        (-1.0, None),
        (90000.0, None),
        (float("nan"), None),
    ],
)
def test_a_frame_rate_is_a_fraction_or_unknown(value: float, rate: Fraction | None) -> None:
    assert frame_rate(value) == rate


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rtps://bob:hunter2@cam/1", "unknown kind of source 'rtps'. Known: gst, http.*Or a path: clip.mp4"),
        ("/dev/video97", "/dev/video97 does not exist"),
        ("v4l2:97", "/dev/video97 does not exist"),
        ("97", "/dev/video97 does not exist"),
        ("nothing.mp4", "nothing.mp4 does not exist"),
        (
            "https://bob:hunter2@127.0.0.1:1/x",
            r"https://bob:\*\*\*@127.0.0.1:1/x cannot be opened: nothing listens on 127.0.0.1 port 1",
        ),
        ("rtsp://bob:hunter2@[::1]:1/x", r"rtsp://bob:\*\*\*@\[::1\]:1/x .*nothing listens on ::1 port 1"),
        ("rtsp://no-such-host.invalid/x", "there is no host 'no-such-host.invalid'"),
        ("rtsp://bob:hunter2/#?@127.0.0.1:1/x", "the address cannot be read. .*%2F for /"),
        ("folder?fps=10", "folder\\?fps=10 does not exist"),
        ("file:///tmp/x.mp4", "Write /tmp/x.mp4"),
        ("rtsp:/192.0.2.7/x", "names no host. Write rtsp://HOST/PATH"),
    ],
)
def test_what_cannot_be_opened_is_one_line_that_says_why(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        open_source(text)
    assert "\n" not in str(caught.value) and "hunter2" not in str(caught.value)


def test_a_file_is_a_file_whatever_its_name_looks_like(
    a_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rtsp:1.mp4").write_bytes(a_clip.read_bytes())
    source = open_source("rtsp:1.mp4")
    assert source.read() is not None and not source.live


@pytest.mark.parametrize("text", ["rtsp://127.0.0.1:1/x", "raw:-?size=4x2&fps=10&live=1"])
def test_a_live_source_has_its_own_pace(text: str) -> None:
    with pytest.raises(UsageError, match="only a file can be replayed at a pace"):
        open_source(text, pace=1)


def test_a_pipeline_longer_than_a_file_name_is_a_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepv.runtimes.sources.gst.present", lambda module: False)
    with pytest.raises(TargetUnavailableError):
        open_source("gst:videotestsrc" + " ! queue" * 100)


def test_a_pipeline_without_the_binding_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepv.runtimes.sources.gst.present", lambda module: False)
    with pytest.raises(TargetUnavailableError, match="apt-get install python3-gi"):
        open_source("gst:videotestsrc")


GST = """
from edgepv.errors import EdgepvError
from edgepv.runtimes.sources import open_source
told = []
source = open_source(
    "gst:videotestsrc is-live=true num-buffers=3 pattern=red"
    " ! video/x-raw,width=50,height=20,framerate=30000/1001",
    on_status=told.append,
)
frames = [source.read() for _ in range(4)]
source.close()
print(source.fps, frames[0].pixels.shape, frames[0].pixels[19, 49].tolist(), source.live)
print([f.why for f in frames], told[0]["why"])
for text in ("gst:nosuchelement password=hunter2", "gst:filesrc location=/nothing ! decodebin"):
    try:
        open_source(text)
    except EdgepvError as error:
        print(type(error).__name__, error)
"""


def test_a_gstreamer_pipeline_gives_frames_ends_and_is_played_again(tmp_path: Path) -> None:
    bindings = Path("/usr/lib/python3/dist-packages/gi")
    if not present("gi"):
        if not list(bindings.glob(f"_gi.cpython-{sys.version_info[0]}{sys.version_info[1]}-*.so")):
            pytest.skip("needs python3-gi for this Python (see tests/system.sh)")
        (tmp_path / "gi").symlink_to(bindings)
    root = Path(__file__).parents[3]
    ran = subprocess.run(
        [sys.executable, "-c", GST],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{tmp_path}:{root}", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )
    lines = ran.stdout.splitlines()
    assert lines[0] == "30000/1001 (20, 50, 3) [0, 0, 255] True", ran.stderr
    assert lines[1].startswith("['', '', '', 'reconnected'] gst:videotestsrc")
    assert lines[1].endswith("framerate=30000/1001: it ended")
    assert lines[2].startswith("UsageError gst:nosuchelement password=***: ")
    assert "hunter2" not in ran.stdout and "/nothing" in lines[3] and lines[3].startswith("UsageError")
