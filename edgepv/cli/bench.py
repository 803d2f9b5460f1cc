"""The commands ``bench`` and ``choose``."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgepv.base.console import say_next, tell
from edgepv.cli.arguments import Commands, refuse_deadline, refuse_threads, seed
from edgepv.errors import InconclusiveError, UsageError

if TYPE_CHECKING:
    from edgepv.measure.bench import BenchOptions
    from edgepv.types import BenchResult

MOST_SECONDS = 86_400.0
"""Seconds of --seconds: a day."""
MOST_FPS = 10_000.0
"""No camera is faster, and no clock here finer."""


def add_bench(commands: Commands) -> None:
    """edgepv bench, edgepv choose"""
    text = "measure bundles, model files, generated C and torch side by side, here or on a board"
    c = commands.add_parser("bench", help=text, description=text)
    c.add_argument(
        "artifacts",
        metavar="ARTIFACT",
        nargs="*",
        help="bundle folder or .zip (all variants), BUNDLE:VARIANT, .onnx, .tflite, OpenVINO .xml, a "
        "firmware folder or its .so, a TensorRT .engine, file.py:builder or a built-in model; ratios are to "
        "the first",
    )
    _of_artifacts(c)
    _of_boards(c)
    _of_live(c)
    c.add_argument("--threads", type=int, default=1, metavar="N", help="threads of the engine (default: 1)")
    c.add_argument("--json", action="store_true", help="print JSON (docs/schema/bench.json)")
    c.set_defaults(run=bench_command)
    text = "time what a bundle may run on this machine, and remember the fastest for edgepv run"
    c = commands.add_parser("choose", help=text, description=text)
    c.add_argument("bundle", metavar="BUNDLE", help="bundle folder")
    c.add_argument("--threads", type=int, default=1, metavar="N", help="threads of the engine (default: 1)")
    c.add_argument("--json", action="store_true", help="print JSON")
    c.set_defaults(run=choose_command)


def _of_artifacts(c: argparse.ArgumentParser) -> None:
    c.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="[NAME=]N,N,...",
        help="shape of an input whose size a file leaves open, or that a builder without --spec takes",
    )
    c.add_argument("--spec", metavar="FILE", help="TOML of file.onnx or file.py:builder: step it over frames")
    c.add_argument("--weights", metavar="FILE", help="safetensors of file.py:builder (default: as it begins)")
    c.add_argument(
        "--fps", type=float, metavar="N", help="also measure under the load of a camera of this rate"
    )
    c.add_argument(
        "--seconds", type=float, default=10.0, metavar="S", help="how long that camera runs (default: 10)"
    )
    c.add_argument(
        "--loadgen",
        action="store_true",
        help="have LoadGen (SingleStream) check p90; needs pip install 'edgepv[loadgen]'",
    )
    c.add_argument(
        "--compare",
        nargs=2,
        metavar=("OLD", "NEW"),
        help="measure nothing: say what became faster or slower between two --json results of one setup",
    )


def _of_boards(c: argparse.ArgumentParser) -> None:
    c.add_argument(
        "--remote",
        metavar="ADDRESS",
        help="measure on a board that has edgepv: ssh://[USER@]HOST[:PORT][/FOLDER] or adb:SERIAL",
    )
    c.add_argument(
        "--ssh-config", metavar="FILE", help="options of ssh, such as an identity (default: ~/.ssh/config)"
    )


def _of_live(c: argparse.ArgumentParser) -> None:
    c.add_argument(
        "--live",
        action="store_true",
        help="replay labelled clips at camera rate: streaming accuracy, missed deadlines, freshness",
    )
    c.add_argument(
        "--clips", metavar="DIR", help="labelled clips (default: those shipped, if their labels fit)"
    )
    c.add_argument(
        "--deadline-ms", type=float, metavar="MS", help="default: twice the largest variant's p50 here"
    )
    c.add_argument(
        "--rate", type=float, default=1.0, metavar="X", help="times the camera's speed (default: 1)"
    )
    c.add_argument("--limit", type=int, default=12, metavar="N", help="clips per variant (default: 12)")
    c.add_argument("--seed", type=seed, default=0, help="which clips, and in which order (default: 0)")


def bench_command(a: argparse.Namespace) -> int:
    """edgepv bench"""
    from edgepv.cli import show_bench
    from edgepv.types import encode

    refuse_threads(a.threads)
    refuse_deadline(a.deadline_ms)
    if a.compare:
        return _compare(a)
    if not a.artifacts:
        raise UsageError("bench wants something to measure, such as a bundle. See: edgepv bench --help")
    if a.live:
        return _live(a)
    if a.fps is not None and not 0 < a.fps <= MOST_FPS:
        raise UsageError(f"--fps {a.fps:g}: give frames per second above 0, at most {MOST_FPS:g}")
    if not 0 < a.seconds <= MOST_SECONDS:
        raise UsageError(f"--seconds {a.seconds:g}: give a time above 0, at most {MOST_SECONDS:g}")
    result = _there(a) if a.remote else _here(a)
    if a.json:
        print(json.dumps(encode(result), indent=1))
    else:
        show_bench.result(result, lone=len(a.artifacts) == 1)
    if result.inconclusive:
        raise InconclusiveError(f"times are inconclusive: {result.inconclusive}. Measure on an idle machine")
    return 0


def _here(a: argparse.Namespace) -> BenchResult:
    from edgepv.base.console import Console
    from edgepv.measure.bench import measured

    with contextlib.redirect_stdout(sys.stderr):  # what a builder or a model prints is no result
        return measured(a.artifacts, _options(a), Console(quiet=a.json))


def _options(a: argparse.Namespace) -> BenchOptions:
    from edgepv.measure.artifacts.artifact import Asked, shape_of
    from edgepv.measure.bench import BenchOptions

    asked = Asked(dict(map(shape_of, a.shape)), a.spec, a.weights)
    return BenchOptions(a.threads, asked, a.fps, a.seconds, a.loadgen)


def _there(a: argparse.Namespace) -> BenchResult:
    """The result of a board: files are sent, what is no file is named there as it is here."""
    from edgepv.measure.artifacts.find import files_of
    from edgepv.measure.remote import board, measured_there, sent_as

    there = board(a.remote, a.ssh_config)
    _options(a)  # what is wrong with them is said before anything is sent
    files: list[Path] = []

    def sent(path: Path) -> str:
        files.append(path)
        return sent_as(len(files) - 1, path)

    words = [files_of(word, sent) for word in a.artifacts]
    for option, value in (("--spec", a.spec), ("--weights", a.weights)):
        words += [option, sent(Path(value))] if value else []
    words += [word for shape in a.shape for word in ("--shape", shape)]
    words += ["--threads", str(a.threads), "--seconds", str(a.seconds)]
    words += ["--fps", str(a.fps)] if a.fps is not None else []
    words += ["--loadgen"] if a.loadgen else []
    if not a.json:
        tell(f"measuring on {there.name}", file=sys.stderr)
    return measured_there(there, files, words)


def _compare(a: argparse.Namespace) -> int:
    """edgepv bench --compare"""
    from edgepv.cli import show_bench
    from edgepv.measure.compare import compared, read_result
    from edgepv.types import encode

    if a.artifacts or a.live or a.remote:
        raise UsageError("--compare reads two results and measures nothing. Leave the rest out")
    changes = compared(read_result(a.compare[0]), read_result(a.compare[1]))
    if a.json:
        print(json.dumps(encode(changes), indent=1))
    else:
        show_bench.changes(changes)
    return 0


def _live(a: argparse.Namespace) -> int:
    """edgepv bench --live"""
    from edgepv.base.console import Console
    from edgepv.bundle.archive import opened
    from edgepv.bundle.manifest import check
    from edgepv.cli import show
    from edgepv.measure import bench
    from edgepv.types import encode

    if a.remote or len(a.artifacts) > 1:
        raise UsageError("--live replays clips on one bundle, here. Leave --remote and other artifacts out")
    place = a.artifacts[0]
    with opened(Path(place)) as bundle:
        check(bundle)
        options = bench.LiveBench(a.clips, a.deadline_ms, a.rate, a.limit, a.seed, a.threads)
        results = bench.live(bundle, options, Console(quiet=a.json))
    if a.json:
        print(json.dumps(encode(results), indent=1))
    else:
        show.replayed(results)
        limit = f"{results[0].limit_ms:.0f}"
        say_next(shlex.join(["edgepv", "run", place, "--source", "rtsp://...", "--deadline-ms", limit]))
    return 0


def choose_command(a: argparse.Namespace) -> int:
    """edgepv choose"""
    from edgepv.bundle.manifest import check, read
    from edgepv.cli import show
    from edgepv.measure.here import chosen
    from edgepv.types import encode

    refuse_threads(a.threads)
    bundle = read(Path(a.bundle))
    check(bundle)
    choice = chosen(bundle, a.threads, again=True)
    if a.json:
        print(json.dumps(encode(choice), indent=1))
        return 0
    show.latencies({row.variant: row.latency[0] for row in choice.rows})
    tell(choice.why)
    say_next(shlex.join(["edgepv", "run", a.bundle, "--source", "rtsp://..."]))
    return 0
