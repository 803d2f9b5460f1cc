"""The queue on disk: order, limit, kill, a full disk, a damaged file."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from live_support import event, until

from edgepv.errors import UsageError
from edgepv.runtimes.backoff import pause_s
from edgepv.runtimes.sinks import spool as spool_module
from edgepv.runtimes.sinks.spool import Item, Spool, SpooledSink, item


def entry(uid: str, filling: int = 0) -> Item:
    """A record of that uid, with that many bytes more."""
    return Item(uid, "new", json.dumps({"type": "new", "uid": uid, "filling": "x" * filling}))


def items(*numbers: int, filling: int = 0) -> list[Item]:
    return [entry(f"u{n}", filling) for n in numbers]


def uids(spool: Spool, n: int = 100) -> list[str]:
    return [i.uid for i in spool.peek(n)]


def test_python_310_knows_sqlites_codes_by_its_words(tmp_path: Path) -> None:
    """Its sqlite3 gives no codes, and a queue that another run holds must not be taken for a damaged one."""
    owner = sqlite3.connect(tmp_path / "q.db")
    owner.execute("CREATE TABLE t (x)")
    owner.execute("BEGIN EXCLUSIVE")
    with pytest.raises(sqlite3.OperationalError) as busy:
        sqlite3.connect(tmp_path / "q.db", timeout=0).execute("SELECT * FROM t")
    with pytest.raises(sqlite3.OperationalError) as missing:
        sqlite3.connect(tmp_path / "none" / "q.db")
    for real, code in ((busy.value, sqlite3.SQLITE_BUSY), (missing.value, sqlite3.SQLITE_CANTOPEN)):
        assert spool_module._code(real) == spool_module._code(sqlite3.OperationalError(str(real))) == code
    assert (
        spool_module._code(sqlite3.DatabaseError("database disk image is malformed"))
        not in spool_module._REFUSED
    )


def test_what_went_in_first_is_seen_first_until_it_is_acknowledged(tmp_path: Path, news: list[str]) -> None:
    spool = Spool(tmp_path / "q.sqlite", say=news.append)
    spool.add(items(1, 2, 3))
    assert uids(spool, 2) == ["u1", "u2"] == uids(spool, 2)
    assert spool.ack(["u1"]) == 1
    assert spool.ack(["u1"]) == 0
    assert spool.peek(1) == items(2)
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
import json, sys
from pathlib import Path
from edgepv.runtimes.sinks.spool import Item, Spool
spool = Spool(Path(sys.argv[1]), say=print)
n = 0
while True:
    spool.add([Item(f"u{n}", "new", json.dumps({"type": "new", "uid": f"u{n}"}))])
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
    spool.add(items(*range(200), filling=500))
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


def altered(path: Path, statement: str) -> None:
    """A closed queue after an SQL statement of someone else."""
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("uid = CAST(x'7532ff' AS TEXT)", id="a uid that is no UTF-8"),
        pytest.param("body = CAST(x'7b22ff' AS TEXT)", id="a body that is no UTF-8"),
        pytest.param("uid = 'u9'", id="a uid that is not its body's"),
        pytest.param("kind = 'nex'", id="another kind"),
        pytest.param("body = x'00ff'", id="a BLOB"),
        pytest.param("body = NULL", id="nothing"),
        pytest.param("body = 7", id="a number"),
        pytest.param("body = '[1]'", id="another kind of JSON"),
        pytest.param("body = replace(hex(zeroblob(9999)), '00', '[')", id="nested without an end"),
    ],
)
def test_what_is_no_record_is_dropped_counted_and_said_once(
    tmp_path: Path, news: list[str], change: str
) -> None:
    path = tmp_path / "q.sqlite"
    spool = Spool(path, say=news.append)
    spool.add(items(1, 2, 3))
    spool.close()
    altered(path, f"UPDATE queue SET {change} WHERE seq = 2")
    again = Spool(path, say=news.append)
    assert again.waiting == 3
    assert [uids(again, 2) for _ in range(2)] == [["u1", "u3"]] * 2
    assert (again.waiting, again.dropped) == (2, 1)
    assert len(news) == 1 and "no record any more: dropped and counted" in news[0]
    again.close()
    third = Spool(path, say=news.append)
    assert (third.waiting, third.dropped, len(news)) == (2, 0, 1)
    third.close()


def test_bytes_that_are_a_record_are_one(tmp_path: Path, news: list[str]) -> None:
    """TEXT and BLOB differ by one bit in the file."""
    path = tmp_path / "q.sqlite"
    spool = Spool(path, say=news.append)
    spool.add(items(1))
    spool.close()
    altered(path, "UPDATE queue SET uid = CAST(uid AS BLOB), body = CAST(body AS BLOB)")
    again = Spool(path, say=news.append)
    assert again.peek(9) == items(1) and news == []
    again.close()


@pytest.mark.parametrize(
    "statement", ["ALTER TABLE queue RENAME body TO bodx", "ALTER TABLE queue RENAME TO queud"]
)
def test_a_queue_of_another_shape_is_damaged_not_a_full_disk(
    tmp_path: Path, news: list[str], statement: str
) -> None:
    path = tmp_path / "q.sqlite"
    Spool(path, say=news.append).close()
    altered(path, statement)
    spool = Spool(path, say=news.append)
    spool.add(items(1))
    assert spool.peek(9) == items(1)
    assert not [line for line in news if "Make room" in line]
    spool.close()
    again = Spool(path, say=news.append)
    assert again.peek(9) == items(1)
    again.close()


def test_no_single_bit_stops_the_queue_or_passes_as_another_record(tmp_path: Path, news: list[str]) -> None:
    path, seen = tmp_path / "q.sqlite", 0
    spool = Spool(path, say=news.append)
    spool.add(items(*range(20)))
    spool.close()
    whole, wanted = path.read_bytes(), {f"u{n}" for n in range(20)}
    for bit in random.Random(0).sample(range(8 * len(whole)), 60):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        spool = Spool(path, say=news.append)
        spool.add([entry("later")])
        found = uids(spool)
        assert found[-1] == "later" and set(found[:-1]) <= wanted, bit
        spool.ack(found)
        assert (uids(spool), spool.waiting) == ([], 0), bit
        spool.close()
        seen += len(found) == 21
    assert seen > 30  # most bits are in empty pages


def test_half_a_character_in_a_name_does_not_stop_the_queue(tmp_path: Path, news: list[str]) -> None:
    spool = Spool(tmp_path / "q.sqlite", say=news.append)
    taken = item({"type": "new", "camera": "gate \ud800"})
    spool.add([taken])
    assert json.loads(spool.peek(1)[0].body)["camera"] == "gate \ud800"
    spool.close()


def test_a_queue_damaged_while_it_is_open_costs_what_was_in_it_and_goes_on(
    tmp_path: Path, news: list[str]
) -> None:
    path = tmp_path / "q.sqlite"
    first = Spool(path, say=news.append)
    first.add(items(*range(200), filling=500))
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
        spool.add(items(added, filling=1000))
    spool.add(items(added + 1, filling=1000))
    everything = [f"u{n}" for n in range(added + 2)]
    assert uids(spool, 1000) == everything
    assert spool.ack([everything[0], everything[-1]]) == 2  # one that is on the disk, one that is not
    assert uids(spool, 1000) == everything[1:-1]
    assert len(news) == 1
    assert "disk is full" in news[0]
    (disk / "ballast").unlink()
    spool.add([entry("later")])
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


def test_a_fault_in_the_writing_thread_is_told_keeps_the_records_and_is_raised_at_the_end(
    tmp_path: Path, news: list[str]
) -> None:
    class Broken(SpooledSink):
        def _after_write(self) -> None:
            raise KeyError("label")

    sink = Broken(Spool(tmp_path / "q.sqlite", say=news.append), "broken", news.append)
    sink._writer.start()
    sink.put(event(0))
    until(lambda: news)
    sink.put(event(1))
    until(lambda: sink.counts()["queued"] == 2)
    sink._close_at = 1.0  # it is long past
    with pytest.raises(KeyError):
        sink.close()
    assert news == [
        "broken: KeyError: 'label'; records wait on disk",
        "broken: 2 records wait on disk for the next run",
    ]
