"""The queue on disk: order, limit, kill, a full disk, a damaged file."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgepv.errors import UsageError
from edgepv.runtimes.backoff import pause_s
from edgepv.runtimes.sinks import spool as spool_module
from edgepv.runtimes.sinks.spool import Item, Spool, item


def items(*numbers: int) -> list[Item]:
    return [Item(f"u{n}", "new", f"body {n}") for n in numbers]


def uids(spool: Spool, n: int = 100) -> list[str]:
    return [i.uid for i in spool.peek(n)]


def test_what_went_in_first_is_seen_first_until_it_is_acknowledged(tmp_path: Path, news: list[str]) -> None:
    spool = Spool(tmp_path / "q.sqlite", say=news.append)
    spool.add(items(1, 2, 3))
    assert uids(spool, 2) == ["u1", "u2"] == uids(spool, 2)
    assert spool.ack(["u1"]) == 1
    assert spool.ack(["u1"]) == 0
    assert spool.peek(1) == [Item("u2", "new", "body 2")]
    assert (spool.waiting, spool.dropped) == (2, 0)
    spool.close()
    again = Spool(tmp_path / "q.sqlite", say=news.append)
    assert uids(again) == ["u2", "u3"]
    assert again.waiting == 2
    assert news == []
    again.close()


def test_every_record_gets_a_uid_of_its_own() -> None:
    one, two = item({"type": "new"}), item({"type": "new"})
    assert one.uid != two.uid
    assert f'"uid": "{one.uid}"' in one.body


def test_beyond_the_limit_the_oldest_goes_and_is_counted(tmp_path: Path, news: list[str]) -> None:
    spool = Spool(tmp_path / "q.sqlite", say=news.append, limit=3)
    spool.add(items(1, 2))
    spool.add(items(3, 4, 5))
    assert uids(spool) == ["u3", "u4", "u5"]
    assert (spool.waiting, spool.dropped) == (3, 2)
    assert spool.ack(["u1"]) == 0
    spool.close()


SCRIPT = """
import sys
from pathlib import Path
from edgepv.runtimes.sinks.spool import Item, Spool
spool = Spool(Path(sys.argv[1]), say=print)
n = 0
while True:
    spool.add([Item(f"u{n}", "new", "x" * 200)])
    if n % 3 == 2:
        spool.ack([f"u{n}"])
    print(n, flush=True)
    n += 1
"""


def test_a_kill_at_any_moment_loses_nothing_that_was_added(tmp_path: Path, news: list[str]) -> None:
    path = tmp_path / "q.sqlite"
    run = [sys.executable, "-c", SCRIPT, str(path)]
    with subprocess.Popen(run, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        while process.stdout.readline() != "40\n":
            pass
        process.kill()
    spool = Spool(path, say=news.append)
    kept = uids(spool, 10_000)
    assert {f"u{n}" for n in range(41) if n % 3 != 2} <= set(kept)
    assert not {f"u{n}" for n in range(41) if n % 3 == 2} & set(kept)
    assert kept == sorted(kept, key=lambda uid: int(uid[1:]))
    assert news == []
    spool.close()


def test_a_second_process_cannot_open_the_same_queue(tmp_path: Path, news: list[str]) -> None:
    spool = Spool(tmp_path / "q.sqlite", say=news.append)
    with pytest.raises(UsageError, match="in use by another edgepv run"):
        Spool(tmp_path / "q.sqlite", say=news.append)
    spool.add(items(1))
    assert uids(spool) == ["u1"]
    spool.close()


def test_a_file_that_is_no_queue_is_kept_under_another_name(tmp_path: Path, news: list[str]) -> None:
    path = tmp_path / "q.sqlite"
    for n in (1, 2):
        path.write_bytes(b"not a queue" * 400)
        spool = Spool(path, say=news.append)
        spool.add(items(n))
        assert uids(spool) == [f"u{n}"]
        spool.close()
        assert (tmp_path / f"q.sqlite.damaged-{n}").read_bytes() == b"not a queue" * 400
    assert len(news) == 2
    assert "kept as q.sqlite.damaged-2" in news[1]


def test_a_queue_damaged_in_the_middle_is_found_at_the_start(tmp_path: Path, news: list[str]) -> None:
    path = tmp_path / "q.sqlite"
    spool = Spool(path, say=news.append)
    spool.add([Item(f"u{n}", "new", "x" * 500) for n in range(200)])
    spool.close()
    data = bytearray(path.read_bytes())
    page = data.index(b"u100new") // 4096 * 4096
    data[page : page + 64] = bytes(range(64))
    path.write_bytes(data)
    again = Spool(path, say=news.append)
    assert len(news) == 1
    assert "was damaged" in news[0]
    assert again.waiting == 0
    again.add(items(1))
    assert uids(again) == ["u1"]
    again.close()


def test_a_queue_damaged_while_it_is_open_costs_what_was_in_it_and_goes_on(
    tmp_path: Path, news: list[str]
) -> None:
    path = tmp_path / "q.sqlite"
    first = Spool(path, say=news.append)
    first.add([Item(f"u{n}", "new", "x" * 500) for n in range(200)])
    first.close()
    spool = Spool(path, say=news.append)
    spool._attempt(lambda db: db.execute("PRAGMA cache_size = 0"))
    with path.open("r+b") as f:
        f.seek(4096)
        f.write(b"\xff" * (path.stat().st_size - 4096))
    spool.add(items(1000))
    assert uids(spool) == ["u1000"]
    assert (spool.waiting, spool.dropped) == (1, 200)
    assert len(news) == 1
    spool.close()


def test_a_full_disk_keeps_records_in_memory_and_says_so_once(
    small_disk: Callable[[str], Path], news: list[str]
) -> None:
    disk = small_disk("256k")
    spool = Spool(disk / "q.sqlite", say=news.append)
    spool.add(items(0))
    with (disk / "ballast").open("wb", buffering=0) as f, pytest.raises(OSError, match="No space left"):
        while True:
            f.write(bytes(4096))
    added = 0
    while not news:
        added += 1
        spool.add([Item(f"u{added}", "new", "x" * 1000)])
    spool.add([Item(f"u{added + 1}", "new", "x" * 1000)])
    everything = [f"u{n}" for n in range(added + 2)]
    assert uids(spool, 1000) == everything
    assert spool.ack([everything[0], everything[-1]]) == 2  # one that is on the disk, one that is not
    assert uids(spool, 1000) == everything[1:-1]
    assert len(news) == 1
    assert "disk is full" in news[0]
    (disk / "ballast").unlink()
    spool.add([Item("later", "new", "x")])
    spool.close()
    again = Spool(disk / "q.sqlite", say=news.append)
    assert uids(again, 1000) == [*everything[1:-1], "later"]
    assert again.dropped == 0
    again.close()


def test_in_memory_too_the_oldest_goes(
    tmp_path: Path, news: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "MEMORY_LIMIT", 2)
    (tmp_path / "file").touch()
    spool = Spool(tmp_path / "file" / "q.sqlite", say=news.append)
    spool.add(items(1, 2))
    spool.add(items(3))
    assert uids(spool) == ["u2", "u3"]
    assert (spool.waiting, spool.dropped, len(news)) == (2, 1, 1)
    assert spool.ack(["u2"]) == 1
    spool.close()
    assert (spool.waiting, spool.dropped) == (0, 2)


def test_the_queue_is_for_its_owner_only(tmp_path: Path, news: list[str]) -> None:
    spool = Spool(tmp_path / "q.sqlite", say=news.append)
    spool.add(items(1))
    assert {path.stat().st_mode & 0o077 for path in tmp_path.glob("q.sqlite*")} == {0}
    spool.close()


def test_pauses_double_up_to_the_longest_and_vary() -> None:
    for failures, longest in ((0, 0.5), (1, 1.0), (3, 4.0), (10, 30.0), (10_000, 30.0)):
        pauses = [pause_s(failures) for _ in range(50)]
        assert longest / 2 <= min(pauses) < max(pauses) <= longest


def test_one_write_holds_many_records(tmp_path: Path, news: list[str]) -> None:
    """1,000 records in one call are one flush, far from a thousand."""
    spool = Spool(tmp_path / "q.sqlite", say=news.append)
    start = time.perf_counter()
    spool.add(items(*range(1000)))
    assert time.perf_counter() - start < 2
    assert spool.waiting == 1000
    spool.close()
