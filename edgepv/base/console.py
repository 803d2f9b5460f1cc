"""What a person sees while work goes on: a moving line on a terminal, plain lines in a pipe.

All that a person is shown goes through ``tell``, so that no name or reason from a file, a camera or a broker
moves the cursor, takes a second line or is read as markup. News goes to stderr; stdout belongs to results.
Also what commands say alike: their next steps, and their options for a model of one's own.
"""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO, TypeVar

T = TypeVar("T")
PLAIN_EVERY_S = 10.0  # where no bar can be drawn, so a log of an hour has hundreds of lines, not thousands
_UNSEEN = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str, *, keep: str = "") -> str:
    r"""Text with every control character as its escape, like \u001b, safe to print.

    Also those that turn the direction of writing, and halves of surrogate pairs. In JSON it stays the same
    text. keep: characters that are left.
    """
    return _UNSEEN.sub(lambda match: match[0] if match[0] in keep else f"\\u{ord(match[0]):04x}", text)


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
