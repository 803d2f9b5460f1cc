"""NVIDIA's own ONNX parser as a judge, in a process of its own, because it can crash.

The optional package tensorrt-rtx carries the parser and runs without a GPU. Its yes means "this
file parses"; it proves nothing about INT8 on a Jetson and it sees no fusion. Its no can be a false
alarm for NonMaxSuppression, RoiAlign and NonZero.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edgepv.base.optional import present
from edgepv.errors import UsageError

MODULE = "tensorrt_rtx"

_PROGRAM = """
import json, sys
import {module} as trt
logger = trt.Logger(trt.Logger.ERROR)
network = trt.Builder(logger).create_network(0)
parser = trt.OnnxParser(network, logger)
accepted = parser.parse_from_file(sys.argv[1])
errors = [
    " ".join([parser.get_error(i).desc(), "at", parser.get_error(i).node_name() or "the file"])
    for i in range(parser.num_errors)
]
print(json.dumps({{"accepted": accepted, "version": trt.__version__, "errors": errors}}))
"""


@dataclass(frozen=True)
class ParserVerdict:
    """What NVIDIA's parser said. accepted is None when it was not asked (``ran`` is false).

    version: of the package. errors: the parser's own words, one line each.
    reason: why it was not asked, or how it ended when it said nothing.
    """

    ran: bool
    accepted: bool | None
    version: str | None
    errors: tuple[str, ...]
    reason: str | None


def parse_with_nvidia(path: Path, timeout_s: float = 120, *, program: str | None = None) -> ParserVerdict:
    """Ask NVIDIA's parser whether it takes the ONNX file at ``path``.

    A missing package is ``ran=False`` with the cure; a crash or a hang is a refusal and its reason.
    program: the Python text to run on the file instead, for tests of what happens when it crashes.
    Raises UsageError if the file is not there.
    """
    if not path.is_file():
        raise UsageError(f"{path} does not exist. Check the path")
    if not present(MODULE):
        return ParserVerdict(
            False, None, None, (), "not installed; pip install 'edgepv[trt-check]' adds the check"
        )
    command = [sys.executable, "-c", program or _PROGRAM.format(module=MODULE), str(path.resolve())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return _refused(f"parser gave no answer in {timeout_s:g} s")
    if done.returncode < 0:
        return _refused(f"parser crashed with signal {_signal(-done.returncode)}")
    if done.returncode:
        return _not_run(done.stderr)
    return _verdict(done.stdout)


def _verdict(text: str) -> ParserVerdict:
    """The answer is the last line; the library may have written others before it."""
    try:
        said = json.loads(text.strip().splitlines()[-1])
        errors = tuple(" ".join(line.split()) for line in said["errors"])
        return ParserVerdict(True, bool(said["accepted"]), said["version"], errors, None)
    except (IndexError, json.JSONDecodeError, KeyError, TypeError):
        return _refused("parser ended without an answer")


def _refused(reason: str) -> ParserVerdict:
    return ParserVerdict(True, False, None, (), reason)


def _not_run(stderr: str) -> ParserVerdict:
    """The package is there and does not work here: that says nothing about the file."""
    lines = stderr.strip().splitlines() or ["no message"]
    return ParserVerdict(False, None, None, (), f"{MODULE} did not run: {lines[-1][:200]}")


def _signal(number: int) -> str:
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)
