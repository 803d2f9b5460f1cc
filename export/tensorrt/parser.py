"""NVIDIA's own ONNX parser and builder as a judge, in a process of its own, because it can crash.

The optional package tensorrt-rtx carries both and runs without a GPU. Its yes means "this file parses, and
an engine comes of it"; it is another product than a Jetson's TensorRT, so it proves nothing about INT8 there
and sees none of its fusions. Its no can be a false alarm for NonMaxSuppression, RoiAlign and NonZero. What it
made of the file is walked: every convolution that is planned in INT8 has a DequantizeLinear before
both its inputs.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgepv.base.optional import present
from edgepv.errors import UsageError

MODULE = "tensorrt_rtx"

PROVES = (
    "tensorrt-rtx is not a Jetson's TensorRT: it proves that the file is read and built by a parser of "
    "NVIDIA's, nothing about INT8, fusions or speed on the device"
)
"""What is written beside every verdict."""

_PROGRAM = """
import json, sys
import {module} as trt
planned = set(json.loads(sys.argv[2]))
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(0)
parser = trt.OnnxParser(network, logger)
said = {{"version": trt.__version__, "accepted": parser.parse_from_file(sys.argv[1])}}
said["errors"] = [
    " ".join([parser.get_error(i).desc(), "at", parser.get_error(i).node_name() or "the file"])
    for i in range(parser.num_errors)
]
print(json.dumps(said), flush=True)
if said["accepted"]:
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    makers = {{layer.get_output(k).name: layer for layer in layers for k in range(layer.num_outputs)}}
    moves = (trt.LayerType.SHUFFLE, trt.LayerType.IDENTITY)
    def dequantized(tensor):
        maker = makers.get(tensor.name) if tensor is not None else None
        while maker is not None and maker.type in moves:
            maker = makers.get(maker.get_input(0).name)
        return maker is not None and maker.type == trt.LayerType.DEQUANTIZE
    fed = set()
    for layer in layers:
        if layer.type in (trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION) and layer.num_inputs > 1:
            if dequantized(layer.get_input(0)) and dequantized(layer.get_input(1)):
                told = (layer.name, layer.metadata)
                fed.update(n for n in planned if n == told[0] or "[ONNX Layer: " + n + "]" in told[1])
    said.update(layers=len(layers), fed=len(fed), unfed=sorted(planned - fed))
    print(json.dumps(said), flush=True)
    engine = builder.build_serialized_network(network, builder.create_builder_config())
    said["built"] = engine is not None
    print(json.dumps(said), flush=True)
"""
"""Each step's answer is a line, so that of a process which crashes in the next one it is kept."""


@dataclass(frozen=True)
class ParserVerdict:
    """What NVIDIA's parser and builder said. accepted, built: None when that was not asked.

    version: of the package. errors: the parser's own words, one line each. reason: why it was not asked, or
    how it ended when it said nothing. layers: of the network that it made. fed: how many convolutions that
    are planned in INT8 get a DequantizeLinear on both inputs. unfed: the names of the others.
    """

    ran: bool
    accepted: bool | None
    version: str | None
    errors: tuple[str, ...]
    reason: str | None
    built: bool | None = None
    layers: int | None = None
    fed: int | None = None
    unfed: tuple[str, ...] = ()

    @property
    def fault(self) -> str | None:
        """What is wrong with the file, in the parser's eyes; None where nothing is, or it did not run."""
        if not self.ran or (self.accepted and self.built and not self.unfed and not self.reason):
            return None
        if not self.accepted:
            return "refused it: " + str((self.errors or (self.reason,))[0])
        if self.unfed:
            few = f"{len(self.unfed)} convolutions that are planned in INT8"
            return f"feeds {few} without DequantizeLinear on both inputs: {self.unfed[0]}"
        return f"takes it, and its builder does not: {self.reason or 'no engine came of it'}"

    def told(self) -> str:
        """The verdict as the end of a sentence about NVIDIA's parser."""
        if not self.ran:
            return f"was not asked ({self.reason})"
        if self.fault:
            return f"({MODULE} {self.version}) {self.fault}"
        fed = f", all {self.fed} INT8 convolutions between Q/DQ" if self.fed else ""
        return f"(tensorrt-rtx {self.version}) takes it and builds it{fed}"


def parse_with_nvidia(
    path: Path, timeout_s: float = 300, *, planned: Sequence[str] = (), program: str | None = None
) -> ParserVerdict:
    """Ask NVIDIA's parser and builder whether they take the ONNX file at ``path``.

    planned: names of the convolutions that are to run in INT8. A missing package is ``ran=False`` with the
    cure; a crash or a hang is a finding and its reason: ``accepted`` false, or ``built`` if it had parsed.
    program: the Python text to run on the file instead, for tests of what happens when it crashes.
    Raises UsageError if the file is not there.
    """
    if not path.is_file():
        raise UsageError(f"{path} does not exist. Check the path")
    if not present(MODULE):
        return _not_asked("not installed; pip install 'edgepv[trt-check]' adds the check")
    text = program or _PROGRAM.format(module=MODULE)
    command = [sys.executable, "-c", text, str(path.resolve()), json.dumps(list(planned))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_s)
    except subprocess.TimeoutExpired as e:
        said = e.stdout.decode(errors="replace") if isinstance(e.stdout, bytes) else ""
        return _ended(said, f"gave no answer in {timeout_s:g} s")
    if done.returncode < 0:
        return _ended(done.stdout, f"crashed with signal {_signal(-done.returncode)}")
    if done.returncode and not _last(done.stdout):
        lines = done.stderr.strip().splitlines() or ["no message"]
        return _not_asked(f"{MODULE} did not run: {lines[-1][:200]}")
    verdict = _ended(done.stdout, "ended without an answer" if not _last(done.stdout) else None)
    if verdict.accepted and not verdict.built:
        return replace(verdict, reason=_last_error(done.stderr))
    return verdict


def encoded(verdict: ParserVerdict) -> dict[str, Any]:
    """The verdict for checks.json, with what it proves."""
    return {"parser": "tensorrt-rtx", **asdict(verdict), "proves": PROVES}


def _last(text: str) -> dict[str, Any]:
    """The last answer; the library may have written other lines."""
    for line in reversed(text.strip().splitlines()):
        try:
            said = json.loads(line)
            if isinstance(said, dict) and {"accepted", "version", "errors"} <= set(said):
                return said
        except json.JSONDecodeError:
            continue
    return {}


def _ended(text: str, reason: str | None) -> ParserVerdict:
    """The verdict of what was said before the process ended. reason: how it ended, where not by itself."""
    said = _last(text)
    if not said:
        return ParserVerdict(True, False, None, (), f"parser {reason}")
    errors = tuple(" ".join(line.split()) for line in said["errors"])
    accepted = bool(said["accepted"])
    return ParserVerdict(
        True,
        accepted,
        said["version"],
        errors,
        f"builder {reason}" if reason else None,
        bool(said.get("built")) if accepted else None,
        said.get("layers"),
        said.get("fed"),
        tuple(said.get("unfed", ())),
    )


def _last_error(stderr: str) -> str:
    """What the builder's log ends with."""
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:200] if lines else "no engine came of it, without a message"


def _not_asked(reason: str) -> ParserVerdict:
    """The package is not there, or does not work here: that says nothing about the file."""
    return ParserVerdict(False, None, None, (), reason)


def _signal(number: int) -> str:
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)
