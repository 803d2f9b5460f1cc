"""Libraries that talk on stdout or stderr, from Python or from C, are kept quiet here."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from typing import TextIO


@contextlib.contextmanager
def hush(*, stderr: bool = True) -> Iterator[None]:
    """Hide the converters' chatter, warnings, log lines and prints, whoever writes it: Python or a C library.

    Errors they log too: what matters they raise. ``EDGEPV_DEBUG`` shows all of it, on stderr. stderr: False
    lets that stand, for work that has news of its own.
    """
    import logging

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
