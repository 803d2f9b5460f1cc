"""Run a converter in a process of its own: some of them crash, and all of them talk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgepv.errors import EdgepvError, UsageError

TIMEOUT_S = 900


def call(function: str, *, timeout_s: float = TIMEOUT_S, **arguments: Any) -> Any:
    """Call "module:function" with JSON arguments in a subprocess; returns its JSON result.

    The subprocess imports from where this process does: a builder finds the user's modules in both.
    Raises UsageError with the last telling line of its output if it fails, crashes or takes longer
    than ``timeout_s`` seconds. Its output never reaches the terminal.
    """
    with tempfile.TemporaryDirectory() as folder:
        order = Path(folder) / "order.json"
        order.write_text(json.dumps({"function": function, "arguments": arguments, "path": sys.path}))
        env = {**os.environ, "LITERT_TORCH_SHOW_PROGRESS": "n", "TF_CPP_MIN_LOG_LEVEL": "3"}
        try:
            done = subprocess.run(
                [sys.executable, "-m", "edgepv.isolated", str(order)],
                capture_output=True,
                text=True,
                timeout=timeout_s,
                env=env,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UsageError(f"{function} did not finish within {timeout_s:.0f} s and was stopped") from None
        answer = order.with_suffix(".out")
        if done.returncode == 0 and answer.exists():
            return json.loads(answer.read_text())
    raise UsageError(f"{function.rpartition(':')[2]} failed: {_why(done)}")


def _why(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"the converter crashed with {signal.Signals(-done.returncode).name}"
    lines = [x.strip() for x in done.stderr.splitlines() if x.strip()]
    return lines[-1][:400] if lines else f"exit code {done.returncode} and no message"


def main(order_path: str) -> None:
    """Entry of the subprocess: read the order, call, write the answer."""
    import importlib

    order = json.loads(Path(order_path).read_text())
    sys.path[:] = order["path"]
    module, _, name = order["function"].partition(":")
    try:
        result = getattr(importlib.import_module(module), name)(**order["arguments"])
    except EdgepvError as e:
        sys.exit(str(e))
    Path(order_path).with_suffix(".out").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
