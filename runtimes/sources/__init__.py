"""Where frames come from: one file per kind of camera, and what they have in common.

A new kind of camera is one file with a function ``(text, on_status) -> Source`` and one line in ``KINDS``, or
an entry point in the group ``edgepv.sources`` of any installed package.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from edgepv.base.registry import Registry, resolve
from edgepv.errors import UsageError, unknown

__all__ = [
    "FORMS",
    "KINDS",
    "Frame",
    "OnStatus",
    "Source",
    "device",
    "is_live",
    "is_video_file",
    "open_source",
    "refuse_bare_address",
]


@dataclass(frozen=True)
class Frame:
    """One picture of a camera.

    pixels: (H, W, 3) uint8 BGR. time_s: when it was taken on the source's own clock; it only grows between
    two restarts. arrived_s: when this program had it, ``time.monotonic``. restarted: the first frame after
    the source (re)connected, jumped in time or changed its size, so nothing before it belongs to it; ``why``
    says which. lasts_s: until the frame after it on the source's clock; None where nobody knows yet.
    """

    pixels: np.ndarray
    time_s: float
    arrived_s: float
    restarted: bool = False
    why: str = ""
    lasts_s: float | None = None


class Source(Protocol):
    """A camera, or what stands in for one.

    fps: what the source says its rate is, None if it does not say. live: frames come by its own clock and are
    lost if nobody takes them; False for files, which wait.
    """

    fps: Fraction | None
    live: bool

    def read(self) -> Frame | None:
        """The next frame; None at the end. Waits for it.

        Raises SourceLostError when the source is gone but may come back, UsageError when it never was there.
        """

    def close(self) -> None:
        """Let the device go. A ``read`` that waits in another thread returns soon after."""


OnStatus: TypeAlias = Callable[[dict[str, Any]], None]
"""Takes records like {"type": "status", "what": "camera_lost", "why": "..."}; plain JSON data."""


@dataclass(frozen=True)
class SourceKind:
    """What the scheme of an address stands for.

    opener: "module:function", called as (text, on_status), returns the Source. live: it has a clock of its
    own and is opened anew when it dies; False: what it gives comes once, and waits until it is read.
    """

    opener: str
    live: bool = True


CAPTURED = SourceKind("edgepv.runtimes.sources.capture:open_stream")
KINDS = Registry(
    "kind of source",
    "edgepv.sources",
    SourceKind,
    {
        "rtsp": CAPTURED,
        "rtsps": CAPTURED,
        "http": CAPTURED,
        "https": CAPTURED,
        "v4l2": SourceKind("edgepv.runtimes.sources.capture:open_v4l2"),
        "raw": SourceKind("edgepv.runtimes.sources.raw:open_raw", live=False),
        "gst": SourceKind("edgepv.runtimes.sources.gst:open_gst"),
    },
)
FILE = SourceKind("edgepv.runtimes.sources.capture:open_file", live=False)
FOLDER = SourceKind("edgepv.runtimes.sources.images:open_images", live=False)
FORMS = ("clip.mp4", "folder/?fps=10", "/dev/video0 or 0")


def open_source(
    text: str,
    *,
    on_status: OnStatus = lambda record: None,
    must_open: bool = True,
    pace: float | None = None,
) -> Source:
    """The source that ``text`` names: a video file, a folder of images, a device or an address.

    Live sources are reopened when they die; on_status is told. must_open: a live source that is not there now
    is an error; False: ``read`` waits until it comes. pace: replay a source that is not live as if it were a
    camera, at that many times its speed.
    Raises UsageError in one line, with every password hidden; TargetUnavailableError without a library.
    """
    from edgepv.runtimes.sources.pace import Pace
    from edgepv.runtimes.sources.reconnect import Reconnecting

    kind = _source_kind(text)
    open_kind = resolve(kind.opener)
    if not kind.live:
        source: Source = open_kind(text, on_status)
        return source if pace is None else Pace(source, rate=pace)
    if pace is not None:
        raise UsageError("only a file can be replayed at a pace; a live source has its own")
    return Reconnecting(lambda: open_kind(text, on_status), on_status, must_open=must_open)


def is_live(text: str) -> bool:
    """Whether the source that ``text`` names has a clock of its own; a file, a folder or a pipe waits."""
    return _kind(text) in KINDS.names() and _source_kind(text).live


def device(text: str) -> str | None:
    """What only one can read: the path of a local camera, or of bytes that come once; None for all else."""
    kind = _kind(text)
    if kind == "raw":
        return text.removeprefix("raw:").partition("?")[0]
    if kind != "v4l2":
        return None
    name = text.removeprefix("v4l2:")
    return f"/dev/video{int(name)}" if name.isdigit() else name


def refuse_bare_address(text: str) -> None:
    """Raise UsageError for the address of a camera without its kind, such as 192.0.2.7:554/stream."""
    bare = re.match(r"(\d+\.\d+\.\d+\.\d+|[\w.-]+:\d+)(/|$)", text)
    if bare and not _kind(text) and not Path(text).exists():
        raise UsageError(f"{text} does not exist. If it is a camera, write its kind before it: rtsp://{text}")


def is_video_file(text: str) -> bool:
    """Whether ``text`` is a path that is not a folder of images."""
    return _kind(text) == "" and not _is_folder(text)


def _is_folder(text: str) -> bool:
    return Path(text).is_dir() or Path(text.rpartition("?")[0] or text).is_dir()


def _kind(text: str) -> str:
    """The scheme; "" for a path. What lies on the disk is a path, whatever its name looks like."""
    if text.startswith("/dev/video") or (text.isascii() and text.isdigit() and not Path(text).exists()):
        return "v4l2"  # 0 is /dev/video0, as OpenCV has it
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", text)
    if scheme is None:
        return ""
    with contextlib.suppress(OSError):  # a long pipeline is too long for a file name
        if Path(text).exists():
            return ""
    return scheme[1].lower()


def _source_kind(text: str) -> SourceKind:
    kind = _kind(text)
    if kind == "":
        return FOLDER if _is_folder(text) else FILE
    if kind in KINDS.names():
        return KINDS.find(kind)
    if kind == "file":
        raise UsageError(f"{text}: a file is named by its path alone. Write {text[5:].replace('//', '', 1)}")
    raise UsageError(f"{unknown(KINDS.kind, kind, KINDS.names())} Or a path: {', '.join(FORMS)}")
