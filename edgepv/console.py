"""What a person sees while work goes on: a moving line on a terminal, plain lines in a pipe.

All that a person is shown goes through ``tell``, so that no name or reason from a file, a camera or a broker
moves the cursor, takes a second line or is read as markup. News goes to stderr; stdout belongs to results.
Also what commands say alike: their next steps, and their options for a model of one's own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO, TypeVar

T = TypeVar("T")
PLAIN_EVERY_S = 10.0
_UNSEEN = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str, *, keep: str = "") -> str:
    """Text with every control character as its escape, like \\u001b; also those that turn the direction of
    writing, and halves of surrogate pairs. In JSON it stays the same text. keep: characters that are left.
    """
    return _UNSEEN.sub(lambda found: found[0] if found[0] in keep else f"\\u{ord(found[0]):04x}", text)


def tell(text: str = "", *, file: TextIO | None = None) -> None:
    """Print one line for a person, of anything. Line breaks are escaped, but those before and after it.

    file: default stdout. What its encoding cannot hold is escaped too.
    """
    stream = file or sys.stdout
    core = text.strip("\n")
    before, _, after = text.partition(core) if core else (text, "", "")
    encoding = getattr(stream, "encoding", None) or "utf-8"
    shown = visible(core).encode(encoding, "backslashreplace").decode(encoding)
    # The end of the line goes with it: threads that tell at once would share one.
    print(f"{before}{shown}{after}\n", end="", file=stream, flush=stream is not sys.stdout)


class Console:
    """Progress and news. ``quiet`` silences it, for --json and for use as a library."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()

    def say(self, text: str) -> None:
        """One line of news. Nobody has to be there to read it."""
        if not self._quiet:
            with contextlib.suppress(OSError):
                tell(text, file=sys.stderr)

    def track(self, items: Sequence[T], what: str) -> Iterator[T]:
        """The items, with a bar and the time left on a terminal, a line now and then in a pipe."""
        if self._quiet:
            yield from items
        elif self._terminal:
            from rich.console import Console as RichConsole
            from rich.markup import escape
            from rich.progress import track

            shown = escape(visible(what))
            yield from track(items, shown, console=RichConsole(stderr=True), transient=True)
        else:
            yield from self._plain(items, len(items), what)

    def _plain(self, items: Iterable[T], total: int, what: str) -> Iterator[T]:
        start = last = time.perf_counter()
        for i, item in enumerate(items):
            yield item
            now = time.perf_counter()
            if now - last > PLAIN_EVERY_S and i + 1 < total:
                left = (now - start) / (i + 1) * (total - i - 1)
                self.say(f"{what}: {i + 1}/{total}, about {left:.0f} s left")
                last = now


def say_next(*commands: str) -> None:
    """The last lines of a command, on stderr: what to paste next."""
    tell("next:", file=sys.stderr)
    for command in commands:
        tell(f"  {command}", file=sys.stderr)


@contextlib.contextmanager
def hush(*, stderr: bool = True) -> Iterator[None]:
    """Hide the converters' chatter, warnings, log lines and prints, whoever writes it: Python or a C library.

    Errors they log too: what matters they raise. ``EDGEPV_DEBUG`` shows all of it, on stderr. stderr: False
    lets that stand, for work that has news of its own.
    """
    level = logging.root.manager.disable
    with contextlib.ExitStack() as stack:
        if os.environ.get("EDGEPV_DEBUG"):
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        else:
            logging.disable(logging.ERROR)
            stack.callback(logging.disable, level)
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            stack.enter_context(_nowhere(1))
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            if stderr:
                stack.enter_context(_nowhere(2))
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        yield


def nobody_reads() -> None:
    """Send the rest of stdout to nowhere, after a BrokenPipeError: what is still buffered as well."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def hush_native() -> Iterator[None]:
    """Hide what a C library writes to stderr by itself; the caller says in one line what matters."""
    with _nowhere(2):
        yield


@contextlib.contextmanager
def _nowhere(descriptor: int) -> Iterator[None]:
    """Send to nowhere what is written to a descriptor, past Python's own streams too."""
    import ctypes  # it would slow --help

    try:
        saved = os.dup(descriptor)
    except OSError:  # closed by who started us
        yield
        return
    stream = {1: sys.stdout, 2: sys.stderr}.get(descriptor)
    _flush(stream)
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, descriptor)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            ctypes.CDLL(None).fflush(None)  # what C still holds is of the same kind
        os.dup2(saved, descriptor)
        os.close(saved)
        os.close(sink)


def _flush(stream: TextIO | None) -> None:
    """Let out what was said before, which else would be lost with what comes."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        assert stream is not None
        stream.flush()


def own_model(c: Any) -> None:
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


def timeout(c: Any, what: str) -> None:
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
