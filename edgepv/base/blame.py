"""Which line of the user's own code an error or an operator comes from; never one of torch or of edgepv."""

from __future__ import annotations

import itertools
import linecache
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

MOST_SHOWN = 80  # characters of a line of code: a message stays one line
PACKAGES = re.compile(r"/(site|dist)-packages/([^/]+)/")
TOOLS = ("torch", "onnx", "onnxscript", "onnx_ir", "litert_torch", "numpy", "_pytest", "pluggy")
"""Installed packages that run a model or convert it, and never are one."""
_STDLIB = sysconfig.get_path("stdlib") + "/"
_HERE = re.escape(str(Path(__file__).resolve().parents[2]))
_OURS = re.compile(_HERE + "/(edgepv(?!/zoo/)|export|quantize|runtimes)/")
_COMMENT = re.compile(r"\s#.*")
_PLACE = re.compile(r'File "([^"]+)", line (\d+)')

Place = tuple[str, int, str]
"""File, line, and the name of the module it runs in ("" where that is not known)."""


def raised_at(error: BaseException) -> str:
    """ "net.py:31: x = x.cuda()", the innermost line of the user's that an error came through; "" for none.

    Looks at what the error was raised from too, and at places that its text names, as exporters write them.
    """
    seen: set[int] = set()
    named: list[Place] = []
    chain: BaseException | None = error
    while chain is not None and id(chain) not in seen:
        seen.add(id(chain))
        if line := line_of(_place(f, number) for f, number in traceback.walk_tb(chain.__traceback__)):
            return line
        named += _places(str(chain))
        chain = chain.__cause__ or chain.__context__
    return line_of(named)


def running_at() -> str:
    """The innermost line of the user's that runs now, below what of edgepv called it; see ``raised_at``."""
    stack = [_place(f, number) for f, number in traceback.walk_stack(sys._getframe(1))]
    inside = itertools.dropwhile(_ours, stack)
    return line_of(reversed(list(itertools.takewhile(lambda place: not _ours(place), inside))))


def named_in(text: str) -> str:
    """The last line of the user's among the places that a text names; see ``raised_at``."""
    return line_of(_places(text))


def line_of(places: Iterable[Place]) -> str:
    """The last of the places that is the user's own, else the last in a package that may be a model."""
    lines = {True: "", False: ""}
    for path, number, module in places:
        if not _foreign(path, module):
            text = _COMMENT.sub("", linecache.getline(path, number)).strip()[:MOST_SHOWN]
            shown = f"{Path(path).name}:{number}"
            lines[PACKAGES.search(path) is not None] = f"{shown}: {text}" if text else shown
    return lines[False] or lines[True]


def _place(frame: FrameType, number: int) -> Place:
    return frame.f_code.co_filename, number, str(frame.f_globals.get("__name__", ""))


def _places(text: str) -> list[Place]:
    return [(path, int(number), "") for path, number in _PLACE.findall(text)]


def _foreign(path: str, module: str) -> bool:
    """Whether a file belongs to Python, to a tool, or to edgepv, except its models."""
    if path.startswith("<") or _ours((path, 0, module)):
        return True
    package = PACKAGES.search(path)
    if package:
        return package[2] in TOOLS
    return path.startswith(_STDLIB)


def _ours(place: Place) -> bool:
    path, _, module = place
    if not module:
        return _OURS.match(path) is not None
    return module.startswith("edgepv.") and not module.startswith("edgepv.zoo")
