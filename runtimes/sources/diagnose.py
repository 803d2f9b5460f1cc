"""Why a network camera cannot be opened, asked of the camera itself, since FFmpeg does not tell."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import ssl
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

ASK_S = 3.0
PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
ENCODE = "In a user or password write %40 for @, %2F for /, %23 for #, %3A for : and %3F for ?"


class _Said(NamedTuple):
    status: int
    headers: str


def why_not(text: str) -> str:
    """What keeps a camera at an rtsp or http address from opening, in one sentence without the password."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port or PORTS[parts.scheme]
    except (ValueError, KeyError):
        return f"the address cannot be read. {ENCODE}"
    if not host:
        return f"the address names no host. Write {parts.scheme}://HOST/PATH"
    if "@" in text and "@" not in parts.netloc:
        return f"the address cannot be read. {ENCODE}"
    place = f"{host} port {port}"
    try:
        said = _ask(parts, host, port)
    except socket.gaierror:
        return f"there is no host '{host}'. Check the name"
    except ConnectionRefusedError:
        return f"nothing listens on {place}. Check the port, and that the camera streams"
    except ConnectionResetError:
        other = parts.scheme.removesuffix("s") if parts.scheme.endswith("s") else f"{parts.scheme}s"
        return f"{place} hangs up. Check the port, or try {other}://"
    except TimeoutError:
        return f"{place} does not answer. Check that the camera is on and in reach"
    except ssl.SSLError as e:
        return f"{place} does not speak TLS ({e.reason or e}). Check the port, or leave the s out"
    except (OSError, ValueError) as e:
        return f"{place}: {getattr(e, 'strerror', None) or e}. Check the address"
    return _meaning(said.status, place, bool(parts.username))


def has_length(text: str) -> bool:
    """Whether what lies at an http address says how long it is, and so has an end."""
    try:
        parts = urlsplit(text)
        said = _ask(parts, parts.hostname or "", parts.port or PORTS[parts.scheme.lower()])
    except (OSError, ValueError, KeyError):
        return False
    return re.search(r"^Content-Length: *[1-9]", said.headers, re.IGNORECASE | re.MULTILINE) is not None


def _meaning(status: int, place: str, named: bool) -> str:
    if status == 401 and not named:
        return f"{place} wants a user and a password. Write //USER:PASSWORD@ before the host"
    if status in (401, 403):
        return f"{place} refuses the user or the password ({status}). {ENCODE}"
    if status == 404:
        return f"{place} has nothing under that path (404). Look it up in the camera's manual"
    if status >= 400:
        return f"{place} answers with an error ({status}). Try again later"
    return f"{place} answers, but sends no video that can be decoded. Check the path"


def _ask(parts: SplitResult, host: str, port: int) -> _Said:
    """What the camera answers to a request for its description, with the user's name if it wants one."""
    said = _request(parts, host, port, "")
    if said.status == 401 and parts.username:
        said = _request(parts, host, port, _authorization(parts, said.headers))
    return said


def _request(parts: SplitResult, host: str, port: int, authorization: str) -> _Said:
    uri, method = _uri(parts), _method(parts)
    about = {"CSeq": "1", "Accept": "application/sdp"} if method == "DESCRIBE" else {"Host": host}
    if authorization:
        about["Authorization"] = authorization
    version = "RTSP/1.0" if method == "DESCRIBE" else "HTTP/1.0"
    head = "".join(f"{name}: {value}\r\n" for name, value in about.items())
    with socket.create_connection((host, port), ASK_S) as plain:
        plain.settimeout(ASK_S)
        talk = _secured(plain, host) if parts.scheme.endswith("s") else plain
        talk.sendall(f"{method} {uri} {version}\r\n{head}\r\n".encode())
        answer = b""
        while b"\r\n\r\n" not in answer and len(answer) < 65_536 and (more := talk.recv(4096)):
            answer += more
    headers = answer.partition(b"\r\n\r\n")[0].decode("latin-1")
    status = re.match(r"(?:RTSP|HTTP)/\S+ (\d{3})", headers)
    if status is None:
        raise ValueError(f"it does not speak {parts.scheme.rstrip('s').upper()}")
    return _Said(int(status[1]), headers)


def _secured(plain: socket.socket, host: str) -> ssl.SSLSocket:
    """Cameras sign their certificates themselves; nothing secret goes this way that FFmpeg did not send."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(plain, server_hostname=host)


def _method(parts: SplitResult) -> str:
    return "DESCRIBE" if parts.scheme.startswith("rtsp") else "GET"


def _uri(parts: SplitResult) -> str:
    if _method(parts) == "GET":
        return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()


def _authorization(parts: SplitResult, headers: str) -> str:
    """Digest (RFC 2617, MD5 without qop, as cameras have it) where it is offered, else Basic."""
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    offer = re.search(r"^WWW-Authenticate: *Digest +(.*)$", headers, re.IGNORECASE | re.MULTILINE)
    if offer is None:
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    offered = dict(re.findall(r'(\w+)="([^"]*)"', offer[1]))
    realm, nonce = offered.get("realm", ""), offered.get("nonce", "")
    mine = _md5(f"{user}:{realm}:{password}")
    response = _md5(f"{mine}:{nonce}:{_md5(f'{_method(parts)}:{_uri(parts)}')}")
    fields = {
        "username": user,
        "realm": realm,
        "nonce": nonce,
        "uri": _uri(parts),
        "response": response,
    }
    return "Digest " + ", ".join(f'{name}="{value}"' for name, value in fields.items())


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
