"""A board is measured over a real sshd, which these tests start; what goes wrong there is one line here."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL

import pytest
from null_bundle import write_null_bundle
from onnx_models import net, written
from support import Run

from edgepv.errors import UsageError
from edgepv.measure.compare import parsed_result
from edgepv.measure.remote import board

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/me.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
SetEnv PATH=/usr/bin:/bin
"""
CLIENT = """
Host *
  IdentityFile {folder}/me
  IdentitiesOnly yes
  UserKnownHostsFile {known}
  GlobalKnownHostsFile /dev/null
"""


@dataclass(frozen=True)
class Server:
    """An sshd for this user. home: a folder there with an edgepv in bin/. known, strange: options of ssh."""

    address: str
    port: int
    home: Path
    known: Path
    strange: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if SSHD is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("sshd is not here: install openssh-server")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "me"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "sshd").write_text(CONFIG.format(port=port, folder=folder))
    key = " ".join((folder / "host.pub").read_text().split()[:2])
    (folder / "hosts").write_text(f"[127.0.0.1]:{port} {key}\n")
    for name, known in (("known", folder / "hosts"), ("strange", Path("/dev/null"))):
        (folder / name).write_text(CLIENT.format(folder=folder, known=known))
    home = folder / "home"
    (home / "bin").mkdir(parents=True)
    edgepv = home / "bin" / "edgepv"
    edgepv.write_text(f'#!/bin/sh\nexec {sys.executable} -m edgepv "$@"\n')
    edgepv.chmod(0o755)
    address = f"{getpass.getuser()}@127.0.0.1"
    with _separation(), subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd"], stderr=DEVNULL) as daemon:
        try:
            _wait(port, daemon)
            entered = [
                "ssh",
                "-F",
                str(folder / "known"),
                "-o",
                "BatchMode=yes",
                "-p",
                str(port),
                address,
                "true",
            ]
            if subprocess.run(entered, capture_output=True, check=False).returncode:
                pytest.skip("the sshd here does not let its own user in: the account may be locked")
            yield Server(f"ssh://{address}:{port}", port, home, folder / "known", folder / "strange")
        finally:
            daemon.terminate()


@contextlib.contextmanager
def _separation() -> Iterator[None]:
    """The folder that an sshd of root wants, where Debian's service makes it; other users' needs none."""
    place = Path("/run/sshd")
    if os.geteuid() or place.is_dir():
        yield
        return
    place.mkdir()
    try:
        yield
    finally:
        place.rmdir()


def _wait(port: int, daemon: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if daemon.poll() is not None:
            pytest.skip("sshd does not start here")
        time.sleep(0.05)
    pytest.fail("sshd does not answer")


def left(server: Server) -> list[str]:
    """What lies in the folder there."""
    return sorted(path.name for path in server.home.iterdir())


@pytest.mark.slow
def test_a_board_measures_what_it_is_sent_and_keeps_nothing(run: Run, server: Server, tmp_path: Path) -> None:
    bundle, onnx = write_null_bundle(tmp_path / "b"), written(tmp_path, net((1, 3, "h", "w")))
    words = ["bench", f"{bundle}:null", onnx, "--shape", "x=1,3,8,8", "--fps", "100", "--seconds", "0.05"]
    code, out, err = run(
        *words, "--json", "--remote", f"{server.address}{server.home}", "--ssh-config", server.known
    )
    assert code in (0, 6), err
    found = parsed_result(json.loads(out), "stdout")
    assert [row.name for row in found.rows] == ["null", "m.onnx"]
    assert all(row.latency.n >= 662 and row.camera and row.camera.frames == 5 for row in found.rows)
    assert left(server) == ["bin"]


@pytest.mark.slow
def test_what_goes_wrong_there_is_told_here_by_its_class(run: Run, server: Server, tmp_path: Path) -> None:
    onnx = written(tmp_path, net((1, 3, "h", "w")))
    code, out, err = run(
        "bench", onnx, "--remote", f"{server.address}{server.home}", "--ssh-config", server.known
    )
    assert code == 2 and not out and "127.0.0.1: m.onnx: input 'x' is (1,3,?,?), of any size" in err
    assert left(server) == ["bin"]


@pytest.mark.slow
def test_a_run_whose_connection_is_lost_cleans_up_at_its_end(server: Server, tmp_path: Path) -> None:
    bundle = write_null_bundle(tmp_path / "b")
    words = ["bench", bundle, "--fps", "10", "--seconds", "2", "--ssh-config", server.known]
    words += ["--remote", f"{server.address}{server.home}"]
    command = [sys.executable, "-m", "edgepv", *map(str, words)]
    with subprocess.Popen(command, start_new_session=True, stderr=DEVNULL) as here:
        _until(lambda: len(left(server)) > 1)
        os.killpg(here.pid, signal.SIGKILL)  # and its ssh: nobody says good-bye
    _until(lambda: left(server) == ["bin"])


def _until(seen: Callable[[], bool]) -> None:
    """Wait for what another process does; a machine full of other work takes its time."""
    for _ in range(1200):
        if seen():
            return
        time.sleep(0.1)
    pytest.fail("it did not happen within two minutes")


def test_a_board_without_edgepv_is_told_how_to_get_it(run: Run, server: Server, tmp_path: Path) -> None:
    bundle = write_null_bundle(tmp_path / "b")
    code, _, err = run("bench", bundle, "--remote", server.address, "--ssh-config", server.known)
    assert code == 7 and "has no edgepv on its PATH. Install it there: pip install" in err


def test_a_host_whose_key_is_not_known_is_sent_nothing(run: Run, server: Server, tmp_path: Path) -> None:
    bundle = write_null_bundle(tmp_path / "b")
    where = f"{server.address}{server.home}"
    code, _, err = run("bench", bundle, "--remote", where, "--ssh-config", server.strange)
    assert code == 7 and "cannot be reached: Host key verification failed" in err
    assert left(server) == ["bin"]


def test_a_port_that_nobody_listens_on(run: Run, server: Server, tmp_path: Path) -> None:
    bundle = write_null_bundle(tmp_path / "b")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        where = f"ssh://127.0.0.1:{closed.getsockname()[1]}"
        code, _, err = run("bench", bundle, "--remote", where, "--ssh-config", server.known)
    assert code == 7 and "127.0.0.1 cannot be reached" in err and err.count("\n") == 2


def test_adb_where_it_is_missing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = run("bench", write_null_bundle(tmp_path / "b"), "--remote", "adb:0123456789")
    assert code == 7 and "adb is not on this machine" in err


@pytest.mark.slow
def test_over_adb_goes_the_same_parcel(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A LABELLED FAKE of adb, whose device is this machine: what it is called with, and a whole run."""
    (tmp_path / "bin").mkdir()
    for name, text in (
        ("adb", '[ "$1 $2 $3 $4" = "-s ABC shell -T" ] || exit 1\nexec sh -c "$5"\n'),
        ("edgepv", f'exec {sys.executable} -m edgepv "$@"\n'),
    ):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    code, out, err = run("bench", write_null_bundle(tmp_path / "b"), "--json", "--remote", "adb:ABC")
    assert code in (0, 6), err
    assert parsed_result(json.loads(out), "stdout").rows[0].name == "null"
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    "address",
    [
        "ssh://-oProxyCommand=touch",
        "ssh://user:secret@host",
        "ssh://-l@host",
        "ssh://host:port",
        "ssh://",
        "http://host",
        "host",
        "adb:",
        "adb:-s",
    ],
)
def test_an_address_that_is_none_starts_no_program(address: str) -> None:
    with pytest.raises(UsageError, match="--remote"):
        board(address)


@pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is not here: install openssh-client")
def test_an_address_becomes_the_words_of_ssh() -> None:
    found = board("ssh://pi@camera-3.local:2222/home/pi/edgepv/", "own.conf")
    assert found.path == "/home/pi/edgepv" and found.name == "camera-3.local"
    words = " ".join(found.connect[1:])
    assert (
        words.endswith("-F own.conf -p 2222 -l pi -- camera-3.local") and "StrictHostKeyChecking=yes" in words
    )
