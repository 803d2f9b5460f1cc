"""What the commands' arguments share: kinds of values, exit codes."""

from __future__ import annotations

import argparse
import os
from typing import TypeAlias

from edgepv.errors import UsageError

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What ``add_subparsers`` gave: commands are added to it."""

EXIT_CODES = """exit codes:
  0 ok    1 internal error    2 wrong input or option    3 accuracy gate    4 latency gate
  5 parity    6 inconclusive (too few clips, a busy machine)    7 target or engine not on this machine
  8 camera lost    9 signature    10 some targets were made, others not    11 a receiver raised
  12 the model cannot be built or converted    13 a converter or engine failed
  14 the device lacks space, permission, memory, cores or a camera"""


def refuse_odd_text(value: object) -> None:
    """Raise UsageError for text that can name no file: with a NUL, or half of a surrogate pair."""
    if isinstance(value, list | tuple):
        for one in value:
            refuse_odd_text(one)
    elif isinstance(value, str):
        try:
            odd = b"\0" in os.fsencode(value)
        except UnicodeEncodeError:
            odd = True
        if odd:
            raise UsageError(f"{value!r} holds a character that no name can have. Write it without")


def own_model(c: argparse.ArgumentParser) -> None:
    """Options of a command for a model of the user's own."""
    c.add_argument(
        "--weights",
        metavar="FILE",
        help="weights of file.py:builder: safetensors, or what torch.save wrote with --trust-pickle",
    )
    c.add_argument(
        "--spec", metavar="FILE", help="TOML that describes file.py:builder or file.onnx (see docs/spec.md)"
    )
    c.add_argument("--trust-pickle", action="store_true", help="read pickled weights; no code in them runs")


def timeout(c: argparse.ArgumentParser, what: str) -> None:
    """The option of a command that reads what others made."""
    c.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        default=600.0,
        help=f"stop if {what} takes longer (default: 600)",
    )


def seed(text: str) -> int:
    """A --seed: every generator here takes 0 to 2^32 - 1."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 0 to {2**32 - 1}")
    return int(text)


MOST_THREADS = 256
"""More would only take memory; no camera has as many cores."""


def refuse_threads(count: int) -> None:
    """Raise UsageError for a ``--threads`` that no machine here could use."""
    if not 1 <= count <= MOST_THREADS:
        raise UsageError(f"--threads {count}: give a number from 1 to {MOST_THREADS}")


def refuse_deadline(ms: float | None) -> None:
    """Raise UsageError for a ``--deadline-ms`` that is not above 0 and finite; None is no deadline."""
    if ms is not None and not 0 < ms < float("inf"):
        raise UsageError(f"--deadline-ms {ms:g}: give a time above 0")
