"""The webhook against a real server that fails in every way a server can."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from live_support import answer, event, free_port, until

from edgepv.errors import UsageError
from edgepv.runtimes.sinks.spool import Item
from edgepv.runtimes.sinks.webhook import _retry_after_s

Open = Callable[[str], Any]
Reply = tuple[int, dict[str, str]]


class Receiver:
    """Answers with ``replies`` in turn, then 200; notes (seconds, method, path, headers, number)."""

    def __init__(self, port: int = 0) -> None:
        self.replies: list[Reply] = []
        self.got: list[tuple[float, str, str, Any, int]] = []
        self.awake = threading.Event()
        self.awake.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                number = body["after"]["n"] if "after" in body else -1
                receiver.got.append((time.perf_counter(), self.command, self.path, self.headers, number))
                receiver.awake.wait(10)
                assert body["uid"] == self.headers["Idempotency-Key"]
                status, headers = receiver.replies.pop(0) if receiver.replies else (200, {})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def numbers(self) -> list[int]:
        return [number for *_, number in self.got]

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def test_each_event_is_posted_once_as_json(receiver: Receiver, sink: Open) -> None:
    out = sink(f"http://me:p%40ss@127.0.0.1:{receiver.port}/hook?token=t")
    for record in (event(0), answer("waving"), event(1, "end"), {"type": "status", "what": "restarted"}):
        out.put(record)
    until(lambda: out.counts() == {"taken": 3, "sent": 3, "queued": 0, "lost": 0})
    assert receiver.numbers() == [0, 1, -1]
    assert len({headers["Idempotency-Key"] for *_, headers, _ in receiver.got}) == 3
    _, method, path, headers, _ = receiver.got[0]
    assert (method, path, headers["Content-Type"]) == ("POST", "/hook?token=t", "application/json")
    assert headers["Authorization"] == "Basic bWU6cEBzcw=="


def test_a_server_error_is_tried_again_with_the_same_key_before_the_next_record(
    receiver: Receiver, sink: Open, news: list[str]
) -> None:
    receiver.replies = [(500, {}), (503, {})]
    out = sink(f"http://127.0.0.1:{receiver.port}/secret/hook?token=secret")
    out.put(event(0))
    out.put(event(1))
    until(lambda: out.counts() == {"taken": 2, "sent": 2, "queued": 0, "lost": 0})
    assert receiver.numbers() == [0, 0, 0, 1]
    assert len({headers["Idempotency-Key"] for *_, headers, _ in receiver.got}) == 2
    first, second, third = (at for at, *_ in receiver.got[:3])
    assert 0.25 <= second - first < 0.75  # half of 0.5 s to 0.5 s, and then to 1 s
    assert 0.5 <= third - second < 1.25
    name = f"http://127.0.0.1:{receiver.port}"
    assert news == [f"{name}: answered 500; records wait, trying again", f"{name}: takes records again"]


def test_retry_after_is_kept_to(receiver: Receiver, sink: Open) -> None:
    receiver.replies = [(429, {"Retry-After": "1"})]
    out = sink(f"http://127.0.0.1:{receiver.port}/")
    out.put(event(0))
    until(lambda: out.counts()["sent"] == 1)
    first, second = (at for at, *_ in receiver.got)
    assert second - first >= 1.0


def test_retry_after_is_seconds_or_a_date() -> None:
    assert _retry_after_s("7") == 7
    assert 28 < _retry_after_s(formatdate(time.time() + 30, usegmt=True)) <= 30
    assert [_retry_after_s(v) for v in (None, "", "soon", "-5", "nan", formatdate(0))] == [0.0] * 6
    assert _retry_after_s("Mon, 01 Jan 0001 00:00:00 +2359") == 0.0
    assert _retry_after_s("9" * 400) == 3600


@pytest.mark.parametrize("status", [404, 301])
def test_a_refused_record_is_dropped_counted_and_said_once(
    receiver: Receiver, sink: Open, news: list[str], status: int
) -> None:
    receiver.replies = [(status, {"Location": f"http://127.0.0.1:{receiver.port}/elsewhere"})]
    out = sink(f"http://127.0.0.1:{receiver.port}/")
    out.put(event(0))
    out.put(event(1))
    until(lambda: out.counts() == {"taken": 2, "sent": 1, "queued": 0, "lost": 1})
    assert receiver.numbers() == [0, 1]
    assert [path for _, _, path, _, _ in receiver.got] == ["/", "/"]
    assert len(news) == 1
    moved = f" and points to http://127.0.0.1:{receiver.port}/elsewhere" if status == 301 else ""
    assert f"with {status}{moved}; it is dropped" in news[0]


@pytest.mark.usefixtures("hasty")
def test_what_the_server_missed_is_posted_by_the_next_run(sink: Open, news: list[str]) -> None:
    port = free_port()
    first = sink(f"http://u:secret@127.0.0.1:{port}/")
    for n in range(3):
        first.put(event(n))
    until(lambda: news)
    first.close()
    assert first.counts() == {"taken": 3, "sent": 0, "queued": 3, "lost": 0}
    assert "Connection refused" in news[0]
    assert "secret" not in "".join(news) + repr(first)
    receiver = Receiver(port)
    try:
        second = sink(f"http://u:other@127.0.0.1:{port}/")
        until(lambda: second.counts() == {"taken": 0, "sent": 3, "queued": 0, "lost": 0})
        assert receiver.numbers() == [0, 1, 2]
    finally:
        receiver.close()


@pytest.mark.usefixtures("hasty")
def test_closing_gives_up_on_a_server_that_hangs_and_keeps_the_queue(receiver: Receiver, sink: Open) -> None:
    receiver.awake.clear()
    out = sink(f"http://127.0.0.1:{receiver.port}/")
    out.put(event(0))
    out.put(event(1))
    until(lambda: len(receiver.got) == 1)
    start = time.perf_counter()
    out.close()
    assert time.perf_counter() - start < 2
    assert out.counts() == {"taken": 2, "sent": 0, "queued": 2, "lost": 0}
    receiver.awake.set()
    again = sink(f"http://127.0.0.1:{receiver.port}/")
    until(lambda: again.counts() == {"taken": 0, "sent": 2, "queued": 0, "lost": 0})
    assert receiver.numbers() == [0, 0, 1]


@pytest.mark.usefixtures("hasty")
def test_what_is_no_record_does_not_keep_those_behind_it(sink: Open, news: list[str], tmp_path: Path) -> None:
    port = free_port()
    first = sink(f"http://127.0.0.1:{port}/")
    for n in range(3):
        first.put(event(n))
    until(lambda: news)
    first.close()
    (queue,) = (tmp_path / "spool").glob("*.sqlite")
    with contextlib.closing(sqlite3.connect(queue)) as db, db:
        db.execute("UPDATE queue SET body = x'00ff' WHERE seq = 1")
        db.execute("UPDATE queue SET uid = 'a' || char(10) WHERE seq = 2")
    receiver = Receiver(port)
    try:
        second = sink(f"http://127.0.0.1:{port}/")
        second.put(event(3))
        until(lambda: second.counts() == {"taken": 1, "sent": 2, "queued": 0, "lost": 2})
        assert receiver.numbers() == [2, 3]
    finally:
        receiver.close()


def test_a_record_that_cannot_be_posted_is_dropped_and_the_next_one_is_not(
    receiver: Receiver, sink: Open, news: list[str]
) -> None:
    out = sink(f"http://127.0.0.1:{receiver.port}/")
    uid = "two\nlines"  # a header cannot hold it
    out._spool.add([Item(uid, "new", json.dumps({**event(0), "uid": uid}))])
    out.put(event(1))
    until(lambda: out.counts() == {"taken": 1, "sent": 1, "queued": 0, "lost": 1})
    assert receiver.numbers() == [1]
    assert "cannot be posted (ValueError" in news[0]


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "https:///hook",
        "http://host:port/",
        "http://u:secret@host:99999/",
        "http://u:sec/ret@host/",
        "http://u:1/secret@host/",
        "http://host/a b",
        "http://host/ä",
        "http://host/a\nX: y",
    ],
)
def test_a_wrong_address_is_one_clear_line(sink: Open, url: str) -> None:
    with pytest.raises(UsageError, match="is not a web address") as caught:
        sink(url)
    assert "sec" not in str(caught.value)
