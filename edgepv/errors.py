"""What can go wrong, and the exit code each kind ends the command with.

Every message is one line: what happened, what we know, what to do.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import TypeVar

MOST_SHOWN = 80
"""Characters of a wrong name or value in a message: a name is known by them, and one line holds it."""
CURES = {
    errno.ENOSPC: "Free disk space",
    errno.EDQUOT: "Free disk space",
    errno.EACCES: "Check permissions",
    errno.EPERM: "Check permissions",
    errno.EROFS: "Check permissions",
    errno.ENOMEM: "Free memory",
    errno.EMFILE: "Raise the limit of open files: ulimit -n",
    errno.EIO: "Check the disk",
}
"""Errors of the operating system that only its owner can cure, and how."""


class EdgepvError(Exception):
    """Base of every error meant for a person; the command line prints it without a traceback."""

    exit_code = 1


E = TypeVar("E", bound=EdgepvError)


class UsageError(EdgepvError):
    """Refused, and the line says why. By itself: the input or an option is wrong; who gave it can cure it.

    A missing file, an unknown key, a truncated video, a spec that does not fit the model. Its subclasses are
    refusals that another person cures: ModelError, EngineError, DeviceError.
    """

    exit_code = 2


class AbsentError(UsageError):
    """A bundle does not hold a file that was asked of it."""


class ModelError(UsageError):
    """The model's own code or weights cannot be built, converted, pruned or streamed. Its author cures it."""

    exit_code = 12


class EngineError(UsageError):
    """A converter or an engine failed, crashed, hung, or computed something else. Its makers cure it."""

    exit_code = 13


class DeviceError(UsageError):
    """The machine lacks what is needed: space, permission, memory, cores, a camera. Its owner cures it."""

    exit_code = 14


class AccuracyGateError(EdgepvError):
    """The compressed model loses more accuracy than ``--max-drop`` allows."""

    exit_code = 3


class LatencyGateError(EdgepvError):
    """No variant answers within the asked latency."""

    exit_code = 4


class ParityError(EdgepvError):
    """A converted artifact does not compute what the original computes."""

    exit_code = 5


class InconclusiveError(EdgepvError):
    """Nobody can tell whether a gate holds: too few clips, none of a label, too few calls, a busy machine."""

    exit_code = 6


class TargetUnavailableError(EdgepvError):
    """The target or an engine it needs is not on this machine."""

    exit_code = 7


class SourceLostError(EdgepvError):
    """The camera was there and is gone; it may come back."""

    exit_code = 8


class DeadlineError(EdgepvError):
    """No answer in time, and the caller asked for an error rather than a stale answer."""

    exit_code = 4


class SignatureError(EdgepvError):
    """The bundle is not signed, or not by the key that was asked for."""

    exit_code = 9


class IncompleteError(EdgepvError):
    """Some of the targets were made and others were not; each that was not says why."""

    exit_code = 10


class ReceiverError(EdgepvError):
    """A receiver or a function that hears the answers raised. The run went on without it."""

    exit_code = 11


def kind_of(error: OSError) -> type[UsageError]:
    """Who can cure an error of the operating system: the device's owner, or who named the file."""
    return DeviceError if error.errno in CURES else UsageError


def retold(error: E, line: str) -> E:
    """The same error with another line: its kind and its exit code stay."""
    import copy

    other = copy.copy(error)
    other.args = (line,)
    return other


def told(error: BaseException) -> tuple[str, int]:
    """(one line, exit code) of any error, as a command ends with them."""
    if isinstance(error, EdgepvError):
        line, code = str(error), error.exit_code
    elif isinstance(error, OSError):
        what = f"{error.filename}: " if error.filename else ""
        cure = f". {CURES[error.errno]}" if error.errno in CURES else ""
        line, code = f"{what}{error.strerror or error}{cure}", kind_of(error).exit_code
    elif isinstance(error, MemoryError):
        line, code = "not enough memory. Free some, or give smaller input", DeviceError.exit_code
    else:
        line, code = f"internal error: {type(error).__name__}: {error}", 1
    return " ".join(line.split()), code


def unknown(what: str, got: str, known: Iterable[str]) -> str:
    """One line naming a wrong name, the right ones, and the nearest of them if one is near."""
    import difflib  # it would slow --help

    names, got = sorted(known), got[:MOST_SHOWN]
    near = difflib.get_close_matches(got, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"unknown {what} '{got}'. Known: {', '.join(names) or 'none'}.{hint}"
