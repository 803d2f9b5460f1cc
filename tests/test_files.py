"""Writes are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgepv.errors import UsageError
from edgepv.files import canonical, digest, read_json, whole_file, whole_folder, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), whole_file(path) as tmp:
        tmp.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


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


def test_a_stop_between_the_renames_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
