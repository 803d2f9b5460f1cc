"""A bounded queue on disk that survives a kill, and the sinks that stand on it.

Delivery is at-least-once: a record leaves the queue when its receiver has acknowledged it, so a receiver may
see a record twice and knows it by its ``uid``. A record is in memory only from ``put`` until the next write,
which the sink's own thread begins at once; the frame loop never waits for the disk.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from edgepv.errors import UsageError
from edgepv.runtimes.record import Record
from edgepv.runtimes.sinks import as_json

T = TypeVar("T")

DURABLE = ("new", "update", "end", "status")
DISK_LIMIT = 10_000
"""Records that wait on disk: some MB of a device's."""
MEMORY_LIMIT = 1_000
"""Records that wait in memory where the disk refuses, a tenth of that."""
CLOSE_S = 3.0
"""For delivery at the end of a run: what is left by then is on disk and goes with the next one."""
_PERM, _BUSY, _LOCKED, _NOMEM, _READONLY, _IOERR, _CORRUPT, _FULL, _CANTOPEN = 3, 5, 6, 7, 8, 10, 11, 13, 14
"""SQLite's primary result codes (sqlite.org/rescode.html); Python's sqlite3 has their names since 3.11."""
_IN_USE = (_BUSY, _LOCKED)
_REFUSED = (*_IN_USE, _FULL, _IOERR, _READONLY, _CANTOPEN, _PERM, _NOMEM)
"""What the disk or the machine does to a sound file; every other error comes of the file itself."""
_TEXTS = {
    "database is locked": _BUSY,
    "database table is locked": _LOCKED,
    "database or disk is full": _FULL,
    "disk I/O error": _IOERR,
    "attempt to write a readonly database": _READONLY,
    "unable to open database file": _CANTOPEN,
    "access permission denied": _PERM,
    "out of memory": _NOMEM,
}
"""SQLite's own words for them, by which Python 3.10 has to know them."""


class Item(NamedTuple):
    """One record on its way: its own name, its type, and the JSON text that is sent."""

    uid: str
    kind: str
    body: str


def item(record: Record) -> Item:
    """The record as it is spooled, with a new ``uid`` in it by which a receiver knows it again."""
    uid = uuid.uuid4().hex
    return Item(uid, record["type"], as_json({**record, "uid": uid}))


class Spool:
    """First in, first out, on disk. Methods may be called from any thread; they wait for the disk.

    limit: records kept; beyond it the oldest goes and is counted in ``dropped``. Where the disk refuses (it
    is full, or read-only) new records wait in memory, at most MEMORY_LIMIT of them, and move to disk when it
    takes them again. A damaged file is kept under another name and a new one is begun; what lies in a sound
    one and is no record of ours is dropped and counted. Each is said once.
    Raises UsageError if another process has the file open.
    """

    def __init__(self, path: Path, *, say: Callable[[str], None], limit: int = DISK_LIMIT) -> None:
        self.dropped = self.waiting = 0
        self._path, self._say, self._limit = path, say, limit
        self._memory: deque[Item] = deque()
        self._done: set[str] = set()  # acknowledged, and still on a disk that takes no changes
        self._bad: set[int] = set()  # seq of what is no record, likewise
        self._on_disk = 0
        self._told = self._told_bad = self._closed = False
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._open()
        self._attempt(lambda db: self._store(db, ()))
        self.waiting = self._on_disk

    def add(self, items: Sequence[Item]) -> None:
        """Append the items; when this returns they are on disk, or in memory if the disk refuses."""
        with self._lock:
            if self._closed:
                return
            batch = [*self._memory, *items]
            if self._attempt(lambda db: self._store(db, batch)) is not None:
                self._memory.clear()
            else:
                keep = min(self._limit, MEMORY_LIMIT)
                self.dropped += max(0, len(batch) - keep)
                self._memory = deque(batch[-keep:])
            self._count()

    def peek(self, n: int) -> list[Item]:
        """The ``n`` oldest items, or as many as there are; they stay in the queue."""
        with self._lock:
            if self._closed:
                return []
            while True:
                items = {seq: _item(*row) for seq, *row in self._oldest(n) if seq not in self._bad}
                bad = {seq for seq, one in items.items() if one is None}
                if not bad:
                    break
                self._drop(bad)
            stored = [one for one in items.values() if one and one.uid not in self._done]
            return [*stored, *self._memory][:n]

    def _oldest(self, n: int) -> list[tuple[int, Any, Any, Any]]:
        """At least ``n`` rows beside those that are to be deleted, if there are as many."""
        query = "SELECT seq, uid, kind, body FROM queue ORDER BY seq LIMIT ?"
        most = n + len(self._done) + len(self._bad)
        return self._attempt(lambda db: db.execute(query, (most,)).fetchall()) or []

    def _drop(self, bad: set[int]) -> None:
        """Delete rows that are no records. They cannot be delivered, and would be in the way for ever."""
        self._bad |= bad
        self.dropped += len(bad)
        self._attempt(lambda db: self._store(db, ()))
        self._count()
        if not self._told_bad:
            self._told_bad = True
            self._say(f"{self._path} holds what is no record any more: dropped and counted. Check the disk")

    def ack(self, uids: Sequence[str]) -> int:
        """Remove delivered items; returns how many of them were still in the queue."""
        with self._lock:
            if self._closed:
                return 0
            before, gone = self.waiting, set(uids)
            in_memory = {i.uid for i in self._memory} & gone
            self._memory = deque(i for i in self._memory if i.uid not in gone)
            if gone - in_memory:
                self._done |= gone - in_memory
                self._attempt(lambda db: self._store(db, ()))
            self._count()
            return before - self.waiting

    def close(self) -> None:
        """Close the file; what is still in it waits for the next run. What is only in memory is lost."""
        with self._lock:
            self._closed = True
            self.dropped += len(self._memory)
            self.waiting -= len(self._memory)
            self._memory.clear()
            if self._db:
                with contextlib.suppress(sqlite3.Error):
                    self._db.close()

    def _count(self) -> None:
        self.waiting = max(0, self._on_disk - len(self._done) - len(self._bad)) + len(self._memory)

    def _store(self, db: sqlite3.Connection, items: Sequence[Item]) -> bool:
        """Delete what is done, append, and drop the oldest beyond the limit: all of it or nothing."""
        with db:
            db.executemany("DELETE FROM queue WHERE uid = ?", [(uid,) for uid in self._done])
            db.executemany("DELETE FROM queue WHERE seq = ?", [(seq,) for seq in self._bad])
            db.executemany("INSERT OR IGNORE INTO queue (uid, kind, body) VALUES (?, ?, ?)", items)
            queued = db.execute("SELECT count(*) FROM queue").fetchone()[0]
            over = max(0, queued - self._limit)
            if over:
                oldest = "SELECT seq FROM queue ORDER BY seq LIMIT ?"
                db.execute(f"DELETE FROM queue WHERE seq IN ({oldest})", (over,))
        self._done.clear()
        self._bad.clear()
        self.dropped += over
        self._on_disk = queued - over
        return True

    def _attempt(self, action: Callable[[sqlite3.Connection], T]) -> T | None:
        """The action's result; None if the disk refuses. A damaged file is set aside and replaced first."""
        for again in (True, False):
            if self._db is None:
                return None
            try:
                return action(self._db)
            except sqlite3.Error as e:
                if _code(e) in _REFUSED or not again:
                    self._tell(e)
                    return None
                self._set_aside(e)
        return None

    def _open(self) -> None:
        """Open the file, or set it aside and begin a new one, or go on without one."""
        for _ in range(2):
            try:
                self._db = _connect(self._path)
                return
            except sqlite3.Error as e:
                if _code(e) in _IN_USE:
                    raise UsageError(
                        f"{self._path} is in use by another edgepv run. Give each camera its own name"
                    ) from None
                if _code(e) in _REFUSED or not self._renamed(e):
                    self._tell(e)
                    return
            except OSError as e:
                self._tell(e)
                return

    def _set_aside(self, error: sqlite3.Error) -> None:
        assert self._db is not None
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        self._db = None
        self.dropped += max(0, self._on_disk - len(self._done) - len(self._bad))
        self._on_disk = 0
        self._done.clear()
        self._bad.clear()
        if self._renamed(error):
            try:
                self._open()
            except UsageError as e:  # another process was faster: ours goes on in memory
                self._tell(e)

    def _renamed(self, error: sqlite3.Error) -> bool:
        """Whether the damaged file is out of the way."""
        try:
            _rename_aside(self._path, error, self._say)
        except OSError as e:
            self._tell(e)
            return False
        return True

    def _tell(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            self._say(
                f"{self._path} cannot be written ({error}): up to {MEMORY_LIMIT} undelivered records wait in "
                "memory and do not survive a restart. Make room on the disk or check the folder"
            )


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 if the error came from elsewhere."""
    by_text = next((code for text, code in _TEXTS.items() if str(error).startswith(text)), 0)
    return getattr(error, "sqlite_errorcode", by_text) & 0xFF


def _connect(path: Path) -> sqlite3.Connection:
    """The queue's file, checked, locked for this process alone, every commit flushed to the disk."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    db = sqlite3.connect(path, timeout=1.0, check_same_thread=False)
    db.text_factory = bytes  # a record with a damaged byte is to be read and dropped, not to raise
    try:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        if _fault(db):
            db.execute("REINDEX")  # a record that its index does not know could never be acknowledged
        if fault := _fault(db):
            broken = sqlite3.DatabaseError(fault)
            broken.sqlite_errorcode = _CORRUPT
            raise broken
        with db:
            db.execute(
                "CREATE TABLE IF NOT EXISTS queue"
                " (seq INTEGER PRIMARY KEY AUTOINCREMENT, uid TEXT UNIQUE, kind TEXT, body TEXT)"
            )
    except BaseException:
        db.close()
        raise
    return db


def _fault(db: sqlite3.Connection) -> str:
    """What SQLite finds wrong with the file; empty if nothing."""
    verdict = bytes(db.execute("PRAGMA integrity_check(1)").fetchone()[0]).decode("utf-8", "replace")
    return "" if verdict == "ok" else " ".join(verdict.split())


def _item(uid: Any, kind: Any, body: Any) -> Item | None:
    """What a row holds; None if that is no record as ``item`` makes them."""
    try:
        parsed = Item(*(str(value, "utf-8") for value in (uid, kind, body)))
        record = json.loads(parsed.body)
        whole = (record["uid"], record["type"]) == (parsed.uid, parsed.kind)
    except (TypeError, ValueError, KeyError, RecursionError):
        return None
    return parsed if whole and parsed.kind in DURABLE else None


def _rename_aside(path: Path, error: sqlite3.Error, say: Callable[[str], None]) -> None:
    """Keep a damaged file, with its log, under the first free name ``PATH.damaged-N``."""
    n = 1
    while (aside := path.with_name(f"{path.name}.damaged-{n}")).exists():
        n += 1
    for end in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + end).rename(aside.with_name(aside.name + end))
    say(f"{path} was damaged ({error}); it is kept as {aside.name} and a new queue begins")


class SpooledSink:
    """A sink whose events and statuses wait in a Spool.

    ``_after_write`` runs in its thread after each write.
    """

    pixels = False

    def __init__(self, spool: Spool, name: str, say: Callable[[str], None]) -> None:
        self._spool, self._name, self._say = spool, name, say
        self._inbox: deque[Item] = deque()
        self._moving = self._taken = self._sent = self._lost = 0
        self._fault: Exception | None = None
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._close_at: float | None = None
        self._writer = threading.Thread(target=self._write, name=name, daemon=True)

    def put(self, record: Record, frame: np.ndarray | None = None) -> None:
        """Take an event or a status; its thread brings it to disk and delivers it."""
        if record["type"] not in DURABLE:
            return
        taken = item(record)
        with self._lock:
            self._taken += 1
            self._inbox.append(taken)
            if len(self._inbox) > MEMORY_LIMIT:
                self._inbox.popleft()
                self._lost += 1
        self._wake.set()

    def counts(self) -> dict[str, int]:
        """taken + what an earlier run left = sent + queued + lost."""
        with self._lock:
            queued = len(self._inbox) + self._moving + self._spool.waiting
            return {
                "taken": self._taken,
                "sent": self._sent,
                "queued": queued,
                "lost": self._lost + self._spool.dropped,
            }

    def close(self) -> None:
        """Deliver for up to CLOSE_S seconds; the rest stays on disk for the next run.

        Raises what went wrong in the thread although it must not.
        """
        self._close_at = time.perf_counter() + CLOSE_S
        self._wake.set()
        self._writer.join(CLOSE_S + 2.0)
        self._move()
        self._spool.close()
        if self._spool.waiting:
            self._say(f"{self._name}: {self._spool.waiting} records wait on disk for the next run")
        if self._fault:
            raise self._fault

    def _write(self) -> None:
        while True:
            self._wake.wait(0.1 if self._close_at else None)
            self._wake.clear()
            try:
                self._move()
                self._after_write()
            except Exception as e:  # a fault of ours: the records wait on disk, and it is known
                self._failed(e)
            if self._close_at and (self._idle() or time.perf_counter() > self._close_at):
                self._finish()
                return

    def _failed(self, error: Exception) -> None:
        if self._fault is None:
            self._fault = error
            self._say(f"{self._name}: {type(error).__name__}: {error}; records wait on disk")

    def _move(self) -> None:
        """Bring the inbox to disk in one write."""
        with self._lock:
            batch = list(self._inbox)
            self._inbox.clear()
            self._moving = len(batch)
        if batch:
            self._spool.add(batch)
        with self._lock:
            self._moving = 0

    def _acknowledged(self, uids: Sequence[str]) -> None:
        """Count and forget what the receiver has."""
        removed = self._spool.ack(uids)
        with self._lock:
            self._sent += removed

    def _drop(self, uid: str, why: str) -> None:
        """Give up a record that its receiver will never take."""
        removed = self._spool.ack([uid])
        with self._lock:
            self._lost += removed
        self._say(f"{self._name}: {why}; it is dropped. Check the address")

    def _after_write(self) -> None:
        """Send what is new, without waiting for the receiver."""

    def _finish(self) -> None:
        """Take leave of the receiver; the last thing the thread does."""

    def _idle(self) -> bool:
        """Whether everything is delivered."""
        return self._spool.waiting == 0 and not self._inbox

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._writer.name})"
