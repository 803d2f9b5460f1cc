"""What can go wrong, and the exit code each kind ends the command with.

Every message is one line: what happened, what we know, what to do.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

MOST_SHOWN = 80
"""Characters of a wrong name or value in a message."""
CURES = {errno.ENOSPC: ". Free disk space", errno.EDQUOT: ". Free disk space"} | dict.fromkeys(
    (errno.EACCES, errno.EPERM, errno.EROFS), ". Check permissions"
)
"""What to do about an error of the file system."""


class EdgepvError(Exception):
    """Base of every error meant for a person; the command line prints it without a traceback."""

    exit_code = 1


class UsageError(EdgepvError):
    """The input or an option is wrong: a missing file, an unknown key, a truncated video."""

    exit_code = 2


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
    """There are too few clips to tell whether the gate holds, or none of a label."""

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


def told(error: BaseException) -> tuple[str, int]:
    """(one line, exit code) of any error, as a command ends with them."""
    if isinstance(error, EdgepvError):
        line, code = str(error), error.exit_code
    elif isinstance(error, OSError):
        what = f"{error.filename}: " if error.filename else ""
        line, code = f"{what}{error.strerror or error}{CURES.get(error.errno or 0, '')}", 2
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
