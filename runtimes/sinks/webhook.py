"""Events by HTTP: one POST of JSON per record, in order, until the server has taken it.

``http://`` or ``https://``; user and password of the address become Basic authorization. Network errors, 5xx
and 429 are tried again (Retry-After is kept to); any other refusal drops the record. The header
``Idempotency-Key`` carries the record's uid, since a record may come twice.
"""

from __future__ import annotations

import base64
import email.utils
import http.client
import threading
import time
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit, urlunsplit

import numpy as np

from edgepv.base.files import digest
from edgepv.errors import UsageError
from edgepv.runtimes.backoff import pause_s
from edgepv.runtimes.record import Record
from edgepv.runtimes.sinks import Setup, plain_name, redacted
from edgepv.runtimes.sinks.spool import CLOSE_S, Item, Spool, SpooledSink

TIMEOUT_S = 10.0
"""Of one request: a server that says nothing for so long is tried again."""
LONGEST_RETRY_AFTER_S = 3600.0
"""An hour: a server that asks for more is asked all the same, or an alarm would wait for a day."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET, or at another scheme: it is a refusal instead."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Webhook(SpooledSink):
    """Posts to one address. Two threads: the writer of SpooledSink, and one that posts.

    A record that the server answers with 5xx holds up those behind it, until the spool's limit drops it.
    """

    def __init__(self, address: str, headers: Mapping[str, str], setup: Setup, spool: Spool) -> None:
        parts = urlsplit(address)
        name = f"{parts.scheme}://{parts.netloc}"  # the path and the query may be secret
        super().__init__(spool, name, setup.say)
        self._address, self._headers = address, headers
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._work = threading.Event()
        self._stopping = threading.Event()
        self._failures, self._told = 0, False
        self._sender = threading.Thread(target=self._send_all, name=f"{self._name} post", daemon=True)
        self._writer.start()
        self._sender.start()

    def put(self, record: Record, frame: np.ndarray | None = None) -> None:
        """Take an event or a status; other records are not posted."""
        super().put(record)

    def close(self) -> None:
        """Post for up to CLOSE_S seconds; the rest stays on disk for the next run."""
        super().close()
        self._stopping.set()
        self._work.set()
        self._sender.join(0.5)

    def _after_write(self) -> None:
        self._work.set()

    def _send_all(self) -> None:
        while not self._stopping.is_set():
            self._work.clear()
            waiting = self._spool.peek(1)
            if waiting:
                self._stopping.wait(self._send(waiting[0]))
            else:
                self._work.wait()

    def _send(self, item: Item) -> float:
        """Post one record; returns the seconds to wait before the next try, 0 when this one is settled."""
        try:
            self._post(item)
        except HTTPError as e:
            e.close()
            if e.code == 429 or e.code >= 500:
                return self._again(f"answered {e.code}", _retry_after_s(e.headers.get("Retry-After")))
            self._drop(item.uid, f"refused record {item.uid} with {e.code}{_moved(e)}")
        except (OSError, http.client.HTTPException) as e:
            return self._again(str(getattr(e, "reason", "") or e or type(e).__name__), 0.0)
        except Exception as e:  # whatever it is, it must not keep the records behind it
            self._drop(item.uid, f"record {item.uid} cannot be posted ({type(e).__name__}: {e})")
        else:
            if self._told:
                self._say(f"{self._name}: takes records again")
            self._acknowledged([item.uid])
        self._failures, self._told = 0, False
        return 0.0

    def _post(self, item: Item) -> None:
        headers = {"Content-Type": "application/json", "Idempotency-Key": item.uid, **self._headers}
        request = urllib.request.Request(self._address, item.body.encode(), headers, method="POST")
        timeout = CLOSE_S if self._close_at else TIMEOUT_S
        with self._opener.open(request, timeout=timeout):
            pass

    def _again(self, why: str, at_least_s: float) -> float:
        self._failures += 1
        if not self._told:
            self._told = True
            self._say(f"{self._name}: {why}; records wait, trying again")
        return max(at_least_s, pause_s(self._failures - 1))


def _moved(error: HTTPError) -> str:
    """ " and points to https://host/new", of a redirect; without what may be secret in it."""
    target = error.headers.get("Location") if 300 <= error.code < 400 else None
    return f" and points to {redacted(target)}" if target else ""


def _retry_after_s(value: str | None) -> float:
    """Seconds of a Retry-After header: whole seconds or a date; 0 if there is none or it is neither."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), LONGEST_RETRY_AFTER_S)
    try:
        wait = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return 0.0
    return min(max(wait, 0.0), LONGEST_RETRY_AFTER_S)


def open_webhook(url: str, setup: Setup) -> Webhook:
    """Open the address; the server need not be there yet. Raises UsageError for a wrong address."""
    wrong = (
        f"'{redacted(url)}' is not a web address. Write https://user:password@host/path in plain ASCII; "
        "%40 stands for @ in a password or path"
    )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UsageError(wrong) from None
    plain = url.isascii() and url.isprintable() and " " not in url
    if not host or "@" in parts.path or parts.fragment or not plain:
        raise UsageError(wrong)
    headers = {}
    if parts.username:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
    netloc = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    address = urlunsplit((parts.scheme.lower(), netloc, parts.path or "/", parts.query, ""))
    name = f"{plain_name(setup.camera)}-{digest(address)[:16]}.sqlite"
    return Webhook(address, headers, setup, Spool(setup.spool_folder / name, say=setup.say))
