"""Run a converter or an engine in a process of its own: some crash, some hang, and all of them talk."""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from edgepv import errors
from edgepv.errors import EdgepvError, EngineError, UsageError
from edgepv.types import Json

TIMEOUT_S = 900
"""Seconds for one converter or engine: a quarter of an hour, so a hang ends and a slow machine does not."""
MOST_TIMEOUT_S = 1_000_000
"""Seconds of --timeout, over eleven days: timers of the system take no endless time."""
GRACE_S = 1.0  # the process that is waited for ends first


def call(function: str, *, timeout_s: float = TIMEOUT_S, tool: str = "", **arguments: object) -> Json:
    """Call "module:function" with JSON arguments in a subprocess; returns its JSON result.

    tool: the name that a person knows it by.

    The subprocess imports from where this process does: a builder finds the user's modules in both.
    Raises what it raised if that was meant for a person, else EngineError with the last telling line of its
    output if it fails, crashes or takes longer than ``timeout_s`` seconds. Its output reaches the terminal
    under ``EDGEPV_DEBUG`` only.
    """
    with tempfile.TemporaryDirectory() as folder:
        order = Path(folder) / "order.json"
        order.write_text(json.dumps({"function": function, "arguments": arguments, "path": sys.path}))
        env = {**os.environ, "LITERT_TORCH_SHOW_PROGRESS": "n", "TF_CPP_MIN_LOG_LEVEL": "3"}
        try:
            done = subprocess.run(
                [sys.executable, "-m", "edgepv.base.isolated", str(order)],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                env=env,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise EngineError(
                f"{tool or function} did not finish within {timeout_s:.0f} s and was stopped"
            ) from None
        if os.environ.get("EDGEPV_DEBUG"):
            sys.stderr.write(done.stdout + done.stderr)
        answer = order.with_suffix(".out")
        if done.returncode == 0 and answer.exists():
            told = json.loads(answer.read_text())
            if "error" in told:
                raise getattr(errors, told["error"])(told["says"])
            return told["result"]
    raise EngineError(f"{tool or function.rpartition(':')[2]} failed: {_why(done)}")


def _why(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"the process crashed with {signal.Signals(-done.returncode).name}"
    lines = [x.strip() for x in done.stderr.splitlines() if x.strip()]
    return lines[-1][:400] if lines else f"exit code {done.returncode} and no message"


@contextlib.contextmanager
def within(timeout_s: float, what: str) -> Iterator[Callable[[], float]]:
    """End the block with a UsageError soon after ``timeout_s`` seconds; yields what tells the seconds left.

    A ``call`` is to be given those. The block ends between two steps of Python, and only in the main thread.
    No signal is sent: on the small stack that faulthandler sets aside for one, some processors have no room.
    """
    if not 0 < timeout_s < MOST_TIMEOUT_S:
        raise UsageError(f"--timeout {timeout_s:g}: give seconds above 0, at most {MOST_TIMEOUT_S}")
    ends = time.monotonic() + timeout_s

    def end(number: int, frame: object) -> NoReturn:
        raise UsageError(
            f"{what} did not finish within {timeout_s:g} s and was stopped. Do not use the bundle, or give "
            "it more time: --timeout SECONDS"
        )

    if threading.current_thread() is not threading.main_thread():
        yield lambda: max(0.1, ends - time.monotonic())
        return
    before = signal.signal(signal.SIGALRM, end)
    timer = threading.Timer(timeout_s + GRACE_S, _thread.interrupt_main, (signal.SIGALRM,))
    timer.daemon = True
    timer.start()
    try:
        yield lambda: max(0.1, ends - time.monotonic())
    finally:
        timer.cancel()
        signal.signal(signal.SIGALRM, before)


def main(order_path: str) -> None:
    """Entry of the subprocess: read the order, call, write the answer."""
    import importlib

    order = json.loads(Path(order_path).read_text())
    sys.path[:] = order["path"]
    module, _, name = order["function"].partition(":")
    told: dict[str, Json]
    try:
        told = {"result": getattr(importlib.import_module(module), name)(**order["arguments"])}
    except EdgepvError as e:  # rooms have kinds of their own, each of a kind that all know
        kind = next(kind for kind in type(e).__mro__ if kind.__module__ == errors.__name__)
        told = {"error": kind.__name__, "says": str(e)}
    Path(order_path).with_suffix(".out").write_text(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
