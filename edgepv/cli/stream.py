"""The commands ``stream`` and ``sensitivity``: what a model would become, and what its layers bear."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from edgepv.base.console import say_next, tell
from edgepv.cli.arguments import Commands, own_model
from edgepv.errors import ModelError, UsageError


def add_stream(commands: Commands) -> None:
    """Add ``edgepv stream`` to the commands."""
    text = "explain how a clip model becomes a per-frame stream: layers, delay, states, saving"
    c = commands.add_parser("stream", help=text, description=text)
    c.add_argument(
        "model",
        metavar="MODEL",
        help="built-in name (see: edgepv models), file.py:builder, or package.module:builder",
    )
    own_model(c)
    c.add_argument("--clip", metavar="FRAMESxSIZE", help="instead of --spec: the clips it eats, like 16x112")
    c.add_argument(
        "--every", type=int, metavar="N", help="frames per result (default: 1, and the stride of the model)"
    )
    c.add_argument(
        "--pool",
        choices=("window", "running", "ema"),
        default="window",
        help="what a mean over the clip becomes (default: window, which is exact)",
    )
    c.add_argument("--picture", metavar="FILE", help="draw the time axis of the graph (.png or .svg)")
    c.add_argument("--json", action="store_true", help="print JSON")
    c.set_defaults(run=stream_command)


def add_sensitivity(commands: Commands) -> None:
    """Add ``edgepv sensitivity`` to the commands."""
    text = "what INT8 (or a cut) of each layer alone does to a model's answers"
    c = commands.add_parser("sensitivity", help=text, description=text)
    c.add_argument(
        "model", metavar="MODEL", help="built-in name (see: edgepv models), file.py:builder, or file.onnx"
    )
    own_model(c)
    c.add_argument(
        "--clips", metavar="DIR", help="clips that set the ranges and judge; needed for your own model"
    )
    c.add_argument(
        "--prune",
        type=float,
        metavar="SHARE",
        help="instead of INT8: cut this share of the channels of each group of layers alone",
    )
    c.add_argument(
        "--sparsity",
        action="store_true",
        help="instead: hold the weights against the 2:4 pattern that NVIDIA's sparse tensor cores skip",
    )
    c.add_argument("--picture", metavar="FILE", help="draw it (.png or .svg)")
    c.add_argument("--json", action="store_true", help="print JSON")
    c.set_defaults(run=sensitivity_command)


def sensitivity_command(a: argparse.Namespace) -> int:
    """edgepv sensitivity"""
    from edgepv import pipeline
    from edgepv.base.console import Console
    from edgepv.cli import show
    from edgepv.pipeline.options import Options
    from edgepv.stream.account import check_picture
    from edgepv.types import encode

    if a.picture:
        check_picture(Path(a.picture))
    options = Options(a.model, weights=a.weights, spec=a.spec, clips=a.clips, trust_pickle=a.trust_pickle)
    if a.sparsity:
        with contextlib.redirect_stdout(sys.stderr):
            rows = pipeline.sparsity(options)
        print(json.dumps(encode(rows), indent=1)) if a.json else show.sparsity(rows)
        return 0
    if a.prune is not None and not 0 < a.prune < 1:
        raise UsageError(f"--prune {a.prune:g}: give the share of channels to cut, like 0.5")
    with contextlib.redirect_stdout(sys.stderr):
        layers = pipeline.sensitivity(options, Console(quiet=a.json), cut=a.prune)
    if a.json:
        print(json.dumps(encode(layers), indent=1))
    else:
        show.sensitivity(layers)
    if a.picture:
        show.sensitivity_picture(a.model, layers, Path(a.picture))
        tell(f"picture: {a.picture}", file=sys.stderr)
    return 0


def stream_command(a: argparse.Namespace) -> int:
    """edgepv stream"""
    from edgepv.cli import show
    from edgepv.model.spec import MOST_FRAMES
    from edgepv.stream import account as explain
    from edgepv.types import encode

    picture = Path(a.picture) if a.picture else None
    if picture:
        explain.check_picture(picture)
    if a.every is not None and not 1 <= a.every <= MOST_FRAMES:
        raise UsageError(f"--every {a.every}: give a number of frames from 1 to {MOST_FRAMES}")
    with contextlib.redirect_stdout(sys.stderr):  # what a builder or a model prints is no result
        account = _account(a)
    if a.json:
        print(json.dumps(encode(account), indent=1))
    else:
        show.stream(account)
    if picture and account.streams:
        explain.picture(account, picture)
        tell(f"picture: {picture}", file=sys.stderr)
    elif picture:
        tell(f"no picture: {account.model} was not converted", file=sys.stderr)
    if not a.json:
        files = ("--weights", a.weights or "w.safetensors", "--spec", a.spec or "spec.toml")
        own = files if ":" in a.model else ()
        say_next(shlex.join(["edgepv", "export", a.model, *own, "--target", "cpu"]))
    return 0


def _account(a: argparse.Namespace) -> Any:
    """What there is to tell about the model: it steps, it was converted, or why it cannot be."""
    from dataclasses import replace

    from edgepv.export.probes import probe
    from edgepv.export.to_onnx import stream_spec
    from edgepv.stream import NotStreamableError, convert
    from edgepv.stream import account as explain
    from edgepv.stream.verify import prove

    module, spec = _stream_model(a)
    if spec.labels:
        probe(_stream_model(a)[0], spec)
    fps = None if a.clip else spec.fps
    own = stream_spec(module, spec)
    if own:
        return explain.of_step(spec, own, _gflops(module, spec), fps)
    try:
        streamed = convert(module, spec, every=a.every or 1, pool=a.pool)
    except NotStreamableError as e:
        return explain.of_window(spec, e.why, e.cure, _gflops(module, spec))
    proven = replace(streamed.stream, proof=prove(module, streamed))
    told = [explain.table_of(streamed.explanation, proven, spec)]
    if not a.every and told[0].stride > 1:
        streamed = convert(module, spec, every=told[0].stride, pool=a.pool)
        told.append(explain.table_of(streamed.explanation, streamed.stream, spec))
    return explain.of_streams(told, spec, fps)


def _stream_model(a: argparse.Namespace) -> tuple[Any, Any]:
    """The torch module and its spec; without --weights as the builder initialises it."""
    from edgepv.model.checkpoint import build, from_files, load_notes, made_plain, new_module
    from edgepv.model.spec import read_spec

    if a.model.lower().endswith(".onnx"):
        raise UsageError(f"{a.model}: an ONNX file is not converted. Give the builder: file.py:builder")
    if ":" not in a.model:
        from edgepv.pipeline.options import Options
        from edgepv.pipeline.source import load, refuse_other

        refuse_other(a.model)
        if a.clip:
            raise UsageError(f"'{a.model}' is a built-in model that says itself what it eats; drop --clip")
        checkpoint = load(Options(a.model, weights=a.weights, spec=a.spec)).checkpoint
        assert checkpoint
        return build(checkpoint), checkpoint.spec
    if bool(a.spec) == bool(a.clip):
        raise UsageError(f"say what {a.model} eats: --spec FILE.toml, or --clip FRAMESxSIZE, like 16x112")
    spec = read_spec(Path(a.spec)) if a.spec else _clip_spec(a.model, a.clip)
    if a.weights:
        files = from_files(a.model, Path(a.weights), spec, trust_pickle=a.trust_pickle)
        for note in load_notes(files):
            tell(note, file=sys.stderr)
        return build(files), spec
    return made_plain(new_module(a.model, spec)).requires_grad_(False), spec


def _clip_spec(model: str, clip: str) -> Any:
    """A spec for clips of FRAMESxSIZE; it has no labels, since explaining needs none."""
    from edgepv.types import ModelSpec, TensorSpec

    numbers = clip.split("x")
    if len(numbers) != 2 or not all(n.isdecimal() and len(n) < 5 and int(n) for n in numbers):
        raise UsageError(f"--clip {clip}: give frames and size, each of 1 to 4 digits, like 16x112")
    frames, size = map(int, numbers)
    shape = TensorSpec("clip", (1, 3, frames, size, size), "NCTHW")
    return ModelSpec(model.rpartition(":")[2], shape, (), frames=frames)


def _gflops(module: Any, spec: Any) -> float:
    """10^9 operations of one call. Raises ModelError if the module does not run on its own input."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from edgepv.export.cost import gflops_per_frame

    try:
        with sdpa_kernel(SDPBackend.MATH):  # torch counts attention only as its two products
            return gflops_per_frame(module, spec)
    except Exception as e:
        raise ModelError(
            f"{spec.name} does not run on an input of shape {spec.input.shape}: {type(e).__name__}: {e}"
        ) from e
