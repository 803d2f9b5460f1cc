"""Nothing leaves the machine, and nothing is written but where the user said: the kernel's calls are read."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import CLIPS, Tiny

SENDS = ("connect", "sendto", "sendmsg", "sendmmsg")
WRITES = (
    *("open", "openat", "creat", "truncate", "mkdir", "mkdirat", "mknod", "mknodat", "rename", "renameat"),
    *("renameat2", "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat", "rmdir", "chmod"),
    *("fchmodat", "utimensat"),
)
STRACE = ("strace", "-f", "-y", "-qq", "--seccomp-bpf", "-e", "trace=" + ",".join((*SENDS, *WRITES)))
NAMES = ("/nscd/", "/systemd/userdb/")
"""Sockets of this machine's own services, which the C library asks who the user is, never where a host is."""
NO_FILES = ("/dev/", "/proc/self/")
"""Devices, with nowhere and with locks in memory that go with their process; names of its own threads."""
IN_TURN = """
import json, sys
from edgepv.cli import main
for command in json.loads(sys.argv[1]):
    if code := main(command):
        sys.exit(code)
"""
"""Commands in one process, which imports what all of them need once."""


@dataclass(frozen=True)
class Ground:
    """A home that must stay empty, beside the three places where a command may write."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "home"

    def traced(self, *command: object) -> subprocess.CompletedProcess[str]:
        """Python, in a bare environment: the one of a CI service would silence telemetry by itself.

        Bytecode is not written: Python keeps it beside the installed files, whoever imports them first.
        """
        places = {"HOME": self.home, "EDGEPV_CACHE": self.root / "cache", "TMPDIR": self.root / "tmp"}
        for place in (*places.values(), self.root / "out"):
            place.mkdir(exist_ok=True)
        return subprocess.run(
            [*STRACE, "-A", "-o", str(self.root / "calls"), sys.executable, *map(str, command)],
            cwd=self.home,
            env={name: str(place) for name, place in places.items()}
            | {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def sent(self) -> list[str]:
        """Every call that names where to send to."""
        calls = (call for call in self._calls(SENDS) if "sa_family=" in call)
        return [call for call in calls if not any(name in call for name in NAMES)]

    def written(self) -> list[str]:
        """Every path made, changed or removed outside --out, the cache and TMPDIR."""
        allowed = (*(f"{self.root / place}/" for place in ("out", "cache", "tmp")), *NO_FILES)
        calls = (call for call in self._calls(WRITES) if not re.search(r" = -1 E|O_RDONLY", call))
        paths = (path for call in calls for path in self._paths(call))
        return [path for path in paths if not f"{path}/".startswith(allowed)]

    def _calls(self, names: tuple[str, ...]) -> list[str]:
        wanted = re.compile(rf"\d+ +({'|'.join(names)})\(")
        return [line for line in (self.root / "calls").read_text().splitlines() if wanted.match(line)]

    def _paths(self, call: str) -> list[str]:
        """The files that a call names, each from the folder that it is named in."""
        named = re.findall(r'(?:<([^>]*)>, |[(, ])"([^"]+)"', call.partition(") = ")[0])
        return [os.path.normpath(self.home / folder / name) for folder, name in named]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    made = Ground(tmp_path_factory.mktemp("ground"))
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    if (tried := made.traced("-c", "pass")).returncode:
        pytest.skip(f"strace cannot trace here: {tried.stderr.strip()[-200:]}")
    return made


@pytest.fixture(scope="module")
def few_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of each label that train, and two that judge."""
    folder = tmp_path_factory.mktemp("clips")
    for label in ("fight", "no_fight"):
        for i, clip in enumerate(sorted((CLIPS / "evaluation" / label).glob("*.mp4"))[:4]):
            place = folder / ("train" if i < 2 else "test") / label
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(clip, place)
    return folder


def test_the_witness_sees_what_is_sent_and_what_is_written(ground: Ground, tmp_path: Path) -> None:
    other = Ground(tmp_path)
    talk = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9))"
    assert other.traced("-c", f"open('here', 'w'); {talk}").returncode == 0
    assert other.written() == [str(other.home / "here")] and "127.0.0.1" in other.sent()[0]


@pytest.mark.slow
def test_export_run_verify_and_search_keep_to_themselves(
    ground: Ground, tiny_clip: Tiny, few_clips: Path, a_clip: Path
) -> None:
    out = ground.root / "out"
    limits = "--latency-ms 1000 --percentile 50 --max-drop 100 --trials 1 --multiple 8 --tune-epochs 1"
    own = (*tiny_clip.arguments, "--clips", few_clips)
    commands = (
        ("export", *own, "--variant", "openvino-int8-nncf", "--out", out / "cpu"),
        ("export", *own, "--target", "mobile", "--variant", "litert-int8-full", "--out", out / "mobile"),
        ("run", out / "cpu", "--source", a_clip, "--video", out / "seen.mp4"),
        ("verify", out / "mobile"),
        ("search", *own, "--precision", "fp32", *limits.split(), "--out", out / "search"),
    )
    done = ground.traced("-c", IN_TURN, json.dumps(commands, default=str))
    assert done.returncode == 0 and "Traceback" not in done.stdout + done.stderr, done.stderr[-2000:]
    assert (out / "search" / "pareto.svg").is_file()
    assert ground.sent() == []
    assert ground.written() == []
    assert list(ground.home.rglob("*")) == []


def said(home: Path, code: str, **chosen: str) -> str:
    """What Python prints in a bare environment with that home."""
    env = {"PATH": os.environ["PATH"], "HOME": str(home), **chosen}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


REPORTS = """
import edgepv, importlib.util, os
print(os.environ["ORT_DISABLE_TELEMETRY"], importlib.util.find_spec("openvino_telemetry") is not None)
"""


def test_reports_to_vendors_are_off_once_edgepv_is_imported(tmp_path: Path) -> None:
    assert said(tmp_path, REPORTS) == "1 False"


def test_who_chose_to_report_still_does(tmp_path: Path) -> None:
    pytest.importorskip("openvino")  # which brings openvino_telemetry
    (tmp_path / "intel").mkdir()
    (tmp_path / "intel" / "openvino_telemetry").write_text("1")
    assert said(tmp_path, REPORTS, ORT_DISABLE_TELEMETRY="0") == "0 True"


def test_openvino_makes_no_folder_for_the_name_of_this_client(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    assert said(tmp_path, "import edgepv, openvino; print('imported')") == "imported"
    assert list(tmp_path.rglob("*")) == []
