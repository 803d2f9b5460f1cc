"""The HTTP address that says how the cameras are: /health, /metrics and latest pictures."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from edgepv.errors import TargetUnavailableError, UsageError
from edgepv.runtimes.health.state import Health

CLIENT_TIMEOUT_S = 5.0
"""Of one read or write: a client that says nothing must not hold a thread for ever."""


class Server:
    """The HTTP server of one Health, in threads of its own. address: (host, port) as bound."""

    def __init__(self, health: Health, host: str, port: int) -> None:
        server = _HttpServer6 if ":" in host else _HttpServer
        try:
            self._http = server((host, port), _Handler)
        except OSError as e:
            raise UsageError(
                f"cannot listen on {host} port {port} ({e.strerror or e}). Choose another address"
            ) from None
        self._http.health = health
        self.address: tuple[str, int] = self._http.server_address[:2]  # type: ignore[assignment]
        self._thread = threading.Thread(target=self._http.serve_forever, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    health: Health

    def server_bind(self) -> None:
        """Bind without asking a name server for our own name, as HTTPServer does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()


class _HttpServer6(_HttpServer):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_TIMEOUT_S
    server: _HttpServer
    server_version, sys_version = "edgepv", ""

    def do_GET(self) -> None:
        health = self.server.health
        path = self.path.partition("?")[0]
        if path == "/healthz":
            why = health.troubles()
            self._json(503 if why else 200, {"ok": why is None, "why": why, "age_s": health.age_s()})
        elif path == "/metrics":
            try:
                self._answer(200, "text/plain; version=0.0.4; charset=utf-8", health.metrics())
            except TargetUnavailableError as e:
                self._json(501, {"ok": False, "why": str(e)})
        else:
            self._json(404, {"ok": False, "why": "there are /metrics and /healthz"})

    def _json(self, status: int, value: dict[str, Any]) -> None:
        self._answer(status, "application/json", json.dumps(value).encode() + b"\n")

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # the reader went away: its business
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a probe every few seconds is no news."""


def host_port(address: str) -> tuple[str, int]:
    """(host, port) of "9464", ":9464" or "0.0.0.0:9464"; this machine alone where no host is named."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise UsageError(f"'{address}' is not an address to listen on. Write 9464, or 0.0.0.0:9464 for all")
    return host, int(port)


def serve(health: Health, address: str) -> Server:
    """Answer HTTP at ``PORT`` (of this machine only), ``HOST:PORT`` or ``[IPV6]:PORT``; port 0 picks one.

    Raises UsageError if the address is wrong or taken.
    """
    return Server(health, *host_port(address))
