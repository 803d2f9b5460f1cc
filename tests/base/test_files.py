"""Writes are whole or not there."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgepv.base import files
from edgepv.base.files import (
    canonical,
    digest,
    read_json,
    scratch,
    sweep,
    whole_file,
    whole_folder,
    write_json,
    write_text,
)
from edgepv.errors import UsageError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), whole_file(path) as tmp:
        tmp.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_no_pipe_and_no_device_is_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("pipe", "null"):
        with pytest.raises(UsageError, match="is a pipe or a device"):
            write_text(tmp_path / name, "x")
    with pytest.raises(UsageError, match="is a folder"):
        write_text(Path("/"), "x")


def test_a_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "out") as tmp:
        (tmp / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_touched_without_leave(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(UsageError, match="already exists.*--force"), whole_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "mine").read_text() == "precious"


def test_a_replaced_folder_goes_only_when_the_new_one_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")
    with pytest.raises(RuntimeError), whole_folder(out, replace=True):
        raise RuntimeError
    assert (out / "old").exists()
    with whole_folder(out, replace=True) as tmp:
        (tmp / "new").write_text("new")
    assert [p.name for p in out.iterdir()] == ["new"] and list(tmp_path.iterdir()) == [out]


def test_equal_values_have_equal_digests_whatever_the_order() -> None:
    assert digest({"a": 1, "b": (2, 3)}) == digest({"b": [2, 3], "a": 1})
    assert canonical({"b": 1, "a": "é"}) == '{"a":"é","b":1}'


def test_broken_json_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}
    path.write_text('{"a": ')
    with pytest.raises(UsageError, match="not valid JSON"):
        read_json(path)
    with pytest.raises(UsageError, match="does not exist"):
        read_json(tmp_path / "y.json")


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="already exists"), whole_folder(out):
        out.mkdir()
        (out / "mine").write_text("precious")
    assert (out / "mine").read_text() == "precious" and list(tmp_path.iterdir()) == [out]


def test_half_a_character_is_written_as_its_escape(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "a \ud800 b")
    assert (tmp_path / "x").read_text() == "a \\ud800 b"
    assert digest("\ud800") != digest("\ud801")


def _killed_at(n: int, act: Callable[[], None]) -> bool:
    """Do it in a child that kills itself at its n-th audited step; whether it got so far."""
    child = os.fork()
    if child == 0:
        steps, code = [0], 1

        def count(event: str, arguments: tuple[object, ...]) -> None:
            steps[0] += 1
            if steps[0] == n + 1:
                os.kill(os.getpid(), 9)

        sys.addaudithook(count)
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -9)
    return code == -9


@pytest.mark.parametrize("one_step", [True, False])
def test_a_kill_at_any_moment_of_a_replacement_leaves_the_old_or_the_new_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_step: bool
) -> None:
    """In one step there always is one; in two, where there is no other way, the next start brings it back."""
    out = tmp_path / "out"
    if not one_step:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    elif not _exchanges(tmp_path):
        pytest.skip("this file system cannot exchange two folders")
    out.mkdir()
    (out / "number").write_text("-1")

    def replace(number: int) -> None:
        with whole_folder(out, replace=True) as tmp:
            (tmp / "number").write_text(str(number))

    seen, gone, number = {"-1"}, 0, 0
    while _killed_at(number, lambda: replace(number)):  # noqa: B023  # called within this turn
        gone += not out.exists()
        sweep(tmp_path)
        now = (out / "number").read_text()
        assert now in (str(number), max(seen, key=int)), number
        assert list(tmp_path.iterdir()) == [out], number
        seen.add(now)
        number += 1
    assert len(seen) > 3 and number > 15
    assert (gone > 0) is not one_step


def _exchanges(folder: Path) -> bool:
    one, other = folder / "one", folder / "other"
    one.mkdir()
    other.mkdir()
    (one / "x").touch()
    done = files._exchange(one, other)
    found = done and (other / "x").exists()
    for path in (one, other):
        (path / "x").unlink(missing_ok=True)
        path.rmdir()
    return found


KILLED = """
import os, sys
from pathlib import Path
from edgepv.base import files
here = Path(sys.argv[1])
with files.whole_folder(here / "out") as folder, files.whole_file(here / "out.zip") as file:
    (folder / "half").write_text("x")
    print("there", flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), 9)
"""


def _age(folder: Path, seconds: float) -> None:
    for path in folder.iterdir():
        os.utime(path, (time.time() - seconds,) * 2)


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    run = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "there\n"
        _age(tmp_path, 3600)
        sweep(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2
        process.communicate()
    assert len(list(tmp_path.iterdir())) == 2
    with whole_folder(tmp_path / "other"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


def test_only_what_is_named_like_ours_is_swept(tmp_path: Path) -> None:
    """Not a user's folder, nor what another kernel may still write, nor a link or a pipe."""
    kernel = files._kernel()
    other = f"{int(kernel, 16) ^ 1:08x}"
    kept = [
        ".out.abcdefgh.edgepv",
        ".out.old",
        "out",
        f".out.abc.{kernel}.edgepv",
        f".out.abcdefgh.{other}.edgepv",
    ]
    for name in kept:
        (tmp_path / name).mkdir()
    odd = [f".link.abcdefgh.{kernel}.edgepv", f".pipe.abcdefgh.{kernel}.edgepv"]
    (tmp_path / odd[0]).symlink_to(tmp_path / "out")
    os.mkfifo(tmp_path / odd[1])
    (tmp_path / f".new.abcdefgh.{kernel}.edgepv.json").touch()  # a writer may just have put it there
    _age(tmp_path, 60)
    sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == len(kept) + 3
    _age(tmp_path, 8 * 86_400)
    sweep(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {*kept[:-1], *odd}


def test_temporary_files_are_in_one_folder_that_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("TMPDIR", raising=False)
    with scratch():
        inside = Path(tempfile.mkdtemp())
        told = subprocess.run(
            [sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        assert Path(told) == inside.parent != tmp_path == inside.parent.parent
    assert list(tmp_path.iterdir()) == [] and tempfile.tempdir == str(tmp_path)
    assert "TMPDIR" not in os.environ


def test_a_stop_between_the_renames_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")
    rename, calls = Path.rename, []

    def stop_at_second(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stop_at_second)
    with pytest.raises(KeyboardInterrupt), whole_folder(out, replace=True) as tmp:
        (tmp / "new").write_text("new")
    assert [p.name for p in out.iterdir()] == ["old"] and list(tmp_path.iterdir()) == [out]


def test_a_dash_makes_no_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="not written to stdout"), whole_file(Path("-")):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("older", [False, True])
def test_a_turn_is_one_at_a_time_and_nobody_else_can_hold_it(older: bool, tmp_path: Path) -> None:
    """Who can open a lock file can hold its lock for ever, and a run that chooses anew would wait for it."""
    path = tmp_path / "new" / "timing.lock"
    if older:
        path.parent.mkdir()
        path.touch(mode=0o644)
    before = os.umask(0)
    try:
        with files.turn(path):
            assert path.stat().st_mode & 0o777 == 0o600
            with path.open() as other, pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with path.open() as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.umask(before)


def test_a_turn_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "other").touch(mode=0o644)
    (tmp_path / "lock").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic links"), files.turn(tmp_path / "lock"):
        pass
    os.link(tmp_path / "other", tmp_path / "hard")
    with files.turn(tmp_path / "hard"):
        assert (tmp_path / "other").stat().st_mode & 0o777 == 0o644
