"""Where answers and events go: one file per kind of receiver, and what they have in common."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np

from edgepv.base.console import Console, visible
from edgepv.base.files import digest
from edgepv.base.registry import Registry
from edgepv.errors import UsageError, unknown
from edgepv.runtimes.record import Record

__all__ = [
    "SINKS",
    "Draws",
    "KeepsClips",
    "Setup",
    "Shape",
    "Sink",
    "as_json",
    "open_sink",
    "own_name",
    "plain_name",
    "redacted",
]


class Sink(Protocol):
    """A receiver. ``put`` never waits for the network or the disk and never raises for their sake.

    pixels: whether it wants the frame with every record; frames are redacted before they come here.
    """

    pixels: bool

    def put(self, record: Record, frame: np.ndarray | None = None) -> None:
        """Take one record for delivery."""

    def counts(self) -> dict[str, int]:
        """How many records were taken, delivered, wait, were lost ("taken", "sent", "queued", "lost")."""

    def close(self) -> None:
        """Deliver what can be delivered within a few seconds, keep on disk what cannot, and end."""


@runtime_checkable
class KeepsClips(Protocol):
    """A receiver that keeps a piece of video for each event."""

    def clip_of(self, record: Record) -> str | None:
        """The name of the clip that this event is, or will be, in; asked for every event before ``put``."""


@runtime_checkable
class Draws(Protocol):
    """A receiver whose pictures are to be looked at: masks are laid over them before ``put``."""

    draws: bool


Shape: TypeAlias = tuple[str, Sequence[tuple[float, float]]]
"""Name and corners, as shares of width and height, of a zone, or of a line, which has two."""


@dataclass(frozen=True)
class Setup:
    """What a sink may need to know of the run.

    camera: its name. spool_folder: where undelivered records wait. labels: those that may raise an event.
    fps: answers per second. say: takes one line of news. shapes: what is outlined in an annotated video.
    model: digest of the bundle that runs. hides: whether frames come redacted.
    """

    camera: str
    spool_folder: Path
    labels: tuple[str, ...]
    fps: float
    say: Callable[[str], None]
    shapes: tuple[Shape, ...] = ()
    model: str = ""
    hides: bool = False


Opener: TypeAlias = Callable[[str, Setup], Sink]
SINKS = Registry[Opener](
    "kind of receiver",
    "edgepv.sinks",
    Callable,  # type: ignore[arg-type]
    {
        "jsonl": "edgepv.runtimes.sinks.jsonl:open_jsonl",
        "mqtt": "edgepv.runtimes.sinks.mqtt:open_mqtt",
        "mqtts": "edgepv.runtimes.sinks.mqtt:open_mqtt",
        "http": "edgepv.runtimes.sinks.webhook:open_webhook",
        "https": "edgepv.runtimes.sinks.webhook:open_webhook",
        "clips": "edgepv.runtimes.sinks.clips:open_clips",
        "video": "edgepv.runtimes.sinks.video:open_video_sink",
    },
)
"""URL scheme -> what takes (url, Setup) and returns the Sink."""


def open_sink(
    url: str,
    *,
    camera: str,
    spool_folder: Path,
    labels: Sequence[str],
    fps: float,
    say: Callable[[str], None] | None = None,
    shapes: Sequence[Shape] = (),
    model: str = "",
    hides: bool = False,
) -> Sink:
    """Open the receiver that ``url`` names, for example ``mqtt://broker/cam1`` or ``jsonl:events.jsonl``.

    labels: those that may raise an event. fps: answers per second, the rate of an annotated video.
    say: takes news, one line each; by default they go to stderr. shapes: zones and lines to be outlined.
    model: digest of the bundle that runs. hides: whether frames come redacted.
    Raises UsageError for a wrong URL; a receiver that cannot be reached is no error, its records wait.
    Raises TargetUnavailableError if the library for it is not installed.
    """
    scheme, colon, _ = url.partition(":")
    if not colon:
        raise UsageError(unknown(SINKS.kind, redacted(url), SINKS.names()))
    told = say or Console().say
    setup = Setup(camera, spool_folder, tuple(labels), fps, told, tuple(shapes), model, hides)
    return SINKS.find(scheme.lower())(url, setup)


def as_json(record: Record) -> str:
    """One line of JSON that every encoding takes and every terminal shows as it is."""
    return visible(json.dumps(record, ensure_ascii=False))


def redacted(url: str) -> str:
    """The URL without what may be secret: user, password and query.

    Everything up to the last @ goes, since a password may itself hold / or @ by mistake.
    """
    return re.sub(r"\?.*", "?***", re.sub(r"//.*@", "//***@", url, flags=re.DOTALL), flags=re.DOTALL)


def plain_name(text: str) -> str:
    """``text`` with only letters, digits, - and _, for file names and topic levels; never empty."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text) or "_"


def own_name(text: str) -> str:
    """Like ``plain_name``, but different for different texts: what had to be changed ends with its digest."""
    if re.fullmatch(r"[A-Za-z0-9_-]+", text):
        return text
    return "_".join(filter(None, (plain_name(text).strip("_"), digest(text)[:8])))
