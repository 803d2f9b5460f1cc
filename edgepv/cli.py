"""The command line. Only argparse is imported here: ``edgepv --help`` answers at once."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import posix
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from edgepv import __version__, cli_import, cli_live, cli_models, cli_search
from edgepv.base.console import own_model, say_next, seed, tell, timeout, visible
from edgepv.base.quiet import nobody_reads
from edgepv.errors import EdgepvError, UsageError, told

EXIT_CODES = """exit codes:
  0 ok    1 internal error    2 wrong input or option    3 accuracy gate    4 latency gate
  5 parity    6 inconclusive (too few clips, or a label without)    7 target or engine not on this machine
  8 camera lost    9 signature    10 some targets were made, others not    11 a receiver raised"""


class _Parser(argparse.ArgumentParser):
    """Speaks in one line, like the rest of edgepv."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See: {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. No traceback reaches a user."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's Ctrl-C
    try:
        arguments = parser().parse_args(argv)
        for value in vars(arguments).values():
            _refuse_odd_text(value)
        from edgepv.base.files import scratch

        _fonts_in_the_cache()
        with scratch(), _no_silent_end(), warnings.catch_warnings():
            if not os.environ.get("EDGEPV_DEBUG"):
                warnings.simplefilter("ignore")  # those of libraries and models are no news to a user
            return _call(arguments)
    except KeyboardInterrupt as e:
        left = str(e) or "Nothing half-written is left; run the same command again"
        return _fail(f"stopped. {left}", 130)
    except BrokenPipeError:
        nobody_reads()
        return 0
    except (EdgepvError, OSError) as e:
        return _fail(*told(e))
    except SystemExit:
        raise  # --help and --version
    except BaseException as e:  # a model's own code may raise anything
        if os.environ.get("EDGEPV_DEBUG"):
            raise
        line, code = told(e)
        return _fail(f"{line}. EDGEPV_DEBUG=1 shows where; please report it", code)


def _call(arguments: argparse.Namespace) -> int:
    try:
        return int(arguments.run(arguments) or 0)
    except SystemExit as e:
        raise UsageError(
            f"code of the model or of a library called sys.exit or os._exit ({e.code}) before this was done. "
            "Take the call out"
        ) from e


@contextlib.contextmanager
def _no_silent_end() -> Iterator[None]:
    """Have os._exit raise SystemExit: called by a model's code it would end us at once, silent, often with 0.

    Processes that are forked from this one end by it as ever.
    """
    own, real = os.getpid(), os._exit

    def end(status: int) -> NoReturn:
        if os.getpid() != own:
            real(status)
        raise SystemExit(status)

    os._exit = posix._exit = end
    try:
        yield
    finally:
        os._exit = posix._exit = real


def _refuse_odd_text(value: Any) -> None:
    """Raise UsageError for text that can name no file: with a NUL, or half of a surrogate pair."""
    if isinstance(value, list | tuple):
        for one in value:
            _refuse_odd_text(one)
    elif isinstance(value, str):
        try:
            odd = b"\0" in os.fsencode(value)
        except UnicodeEncodeError:
            odd = True
        if odd:
            raise UsageError(f"{value!r} holds a character that no name can have. Write it without")


def _fonts_in_the_cache() -> None:
    """Have matplotlib keep its list of fonts in edgepv's cache, not in a folder below the user's home."""
    from edgepv.base.cache import root

    with contextlib.suppress(RuntimeError):  # this user has no home and named no cache
        os.environ.setdefault("MPLCONFIGDIR", str(root() / "matplotlib"))


def _fail(message: str, code: int) -> int:
    with contextlib.suppress(OSError):  # nobody has to be there to read it
        tell(f"edgepv: {' '.join(message.split())}", file=sys.stderr)
    return code


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(
        prog="edgepv",
        description="Take a trained video model to an embedded camera: smaller, converted, checked.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"edgepv {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    _export(commands)
    _stream(commands)
    _sensitivity(commands)
    cli_import.add_import(commands)
    cli_models.add_finetune(commands)
    cli_models.add_explain(commands)
    cli_search.add_search(commands)
    cli_search.add_widths(commands)
    cli_live.add_run(commands)
    cli_live.add_bench(commands)
    cli_live.add_ladder(commands)
    _report(commands)
    _verify(commands)
    _inspect(commands)
    cli_live.add_signing(commands)
    cli_live.add_update(commands)
    for name, text, call in (
        ("targets", "the devices edgepv packs for", targets_command),
        ("models", "the built-in trained models", models_command),
        ("doctor", "what is installed, and what can be built and measured here", doctor_command),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--json", action="store_true", help="print JSON")
        command.set_defaults(run=call)
    return top


def _export(commands: Any) -> None:
    text = "compress and convert a model, compare it with the original, write a bundle"
    c = commands.add_parser(
        "export",
        help=text,
        description=text,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    c.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="built-in name (see: edgepv models), file.py:builder, package.module:builder, or "
        "file.onnx (default: pv-conv-small)",
    )
    c.add_argument(
        "--target", metavar="NAME[,NAME]", help="devices to pack for (see: edgepv targets; default: cpu)"
    )
    c.add_argument(
        "--out",
        metavar="DIR",
        help="new folder for the bundle; an existing one is never "
        "overwritten (default: bundle); with several targets, one sub-folder each",
    )
    own_model(c)
    c.add_argument(
        "--clips",
        metavar="DIR",
        help="clips that train, set INT8 ranges and judge: one folder "
        "per label, or manifest.csv; needed for INT8 of your own model, and for --prune",
    )
    c.add_argument(
        "--prune",
        type=_shares,
        metavar="SHARE[,SHARE]",
        help="share of channels to cut, one for all or one for each stage (resolution) of the model, then "
        "fine-tune on the training clips of --clips (default: 0, off)",
    )
    c.add_argument(
        "--importance",
        metavar="HOW",
        help="which channels go: magnitude of their weights, taylor (predicted loss), or group (driven to "
        "zero by a short training first) (default: magnitude)",
    )
    c.add_argument(
        "--scope",
        metavar="WHERE",
        help="layer cuts the same share everywhere, global ranks all channels together (default: layer)",
    )
    c.add_argument(
        "--multiple",
        type=int,
        metavar="N",
        help="keep widths multiples of this (default: 8; measure yours: edgepv widths)",
    )
    c.add_argument(
        "--low-rank",
        type=float,
        metavar="ENERGY",
        help="split heavy layers in two narrow ones that keep this share of their weights' energy, like 0.9 "
        "(default: off)",
    )
    c.add_argument(
        "--tune-epochs",
        type=int,
        metavar="N",
        help="epochs of fine-tuning on the training clips (default: 6 after --prune or --low-rank, else 0)",
    )
    c.add_argument(
        "--stream",
        metavar="HOW",
        help="a clip model as: auto, a step over new frames where its operators allow it, else a window; "
        "window, the host holds the frames; off, a window and the graph as it is (default: auto)",
    )
    c.add_argument(
        "--every",
        type=int,
        metavar="N",
        help="new frames per step of a streamed model, and per answer (default: 1)",
    )
    c.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help="height and width of the frames (default: what the model was trained on); smaller is faster",
    )
    c.add_argument(
        "--particles",
        type=int,
        metavar="K",
        help="how many particles the model follows (default: what it was trained with); fewer are faster",
    )
    c.add_argument(
        "--precision",
        metavar="P",
        help="auto, fp32, bf16, fp16 or int8; auto measures all of the "
        "target's and keeps the fastest that passes (default: auto)",
    )
    c.add_argument(
        "--qat",
        type=int,
        metavar="N",
        help="epochs of training under INT8 rounding, for a model that INT8 hurts (default: 0, off)",
    )
    c.add_argument(
        "--ranges",
        metavar="HOW",
        help="INT8 ranges on cpu: minmax, percentile, mse or entropy (default: minmax, the best on ours)",
    )
    c.add_argument("--variant", metavar="NAME", help="make this one only, like openvino-int8 (default: all)")
    c.add_argument(
        "--keep-float",
        type=int,
        metavar="N",
        help="on cpu: keep the N most sensitive layers of an INT8 ONNX in float (default: 0)",
    )
    c.add_argument(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="accuracy that may be lost, in points, of a restorer in dB; a loss that is sure is exit code 3; "
        "when given, too few clips to tell, or none of a label, is exit code 6 (default: 1, a restorer 0.3)",
    )
    c.add_argument(
        "--latency-ms", type=float, metavar="MS", help="largest p99 of the chosen variant on this machine"
    )
    c.add_argument(
        "--min-sqnr",
        type=float,
        metavar="DB",
        help="on cpu: keep the most sensitive layers of an INT8 ONNX in float until its logits are this "
        "close to the original's (default: all in INT8; see: edgepv sensitivity)",
    )
    c.add_argument("--seed", type=seed, help="seed of fine-tuning (default: 0)")
    c.add_argument("--config", metavar="FILE", help="TOML file with these options; the command line wins")
    c.add_argument("--dry-run", action="store_true", help="print the resolved plan and stop")
    c.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else")
    c.add_argument("--force", action="store_true", help="replace an existing bundle")
    c.set_defaults(run=export_command)


def _stream(commands: Any) -> None:
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


def _sensitivity(commands: Any) -> None:
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


def _report(commands: Any) -> None:
    text = "put every variant of one or more bundles side by side"
    c = commands.add_parser("report", help=text, description=text)
    c.add_argument("runs", nargs="+", metavar="RUN", help="bundle, folder of bundles, or measured.json")
    c.add_argument(
        "--html", metavar="FILE", default="report.html", help="self-contained page (default: report.html)"
    )
    c.add_argument("--md", metavar="FILE", help="Markdown (default: beside the page)")
    c.add_argument("--json", metavar="FILE", help="JSON (default: beside the page)")
    timeout(c, "all of it")
    c.set_defaults(run=report_command)


def _verify(commands: Any) -> None:
    text = "check every digest of a bundle and replay its golden vectors"
    c = commands.add_parser("verify", help=text, description=text)
    c.add_argument("bundle", metavar="BUNDLE", help="bundle folder or .zip")
    c.add_argument("--key", metavar="FILE", help="public key (PEM) that must have signed it")
    timeout(c, "all of it")
    c.set_defaults(run=verify_command)


def _inspect(commands: Any) -> None:
    text = "print what a bundle holds, for a person"
    c = commands.add_parser("inspect", help=text, description=text)
    c.add_argument("bundle", metavar="BUNDLE", help="bundle folder or .zip")
    c.add_argument(
        "--layers",
        metavar="FILE",
        help="the layers.json that build.sh wrote on the Jetson: is its engine really INT8?",
    )
    c.add_argument("--json", action="store_true", help="print the manifest")
    c.set_defaults(run=inspect_command)


def export_command(a: argparse.Namespace) -> int:
    """edgepv export"""
    from edgepv.base.console import Console

    options = export_options(a)
    if a.dry_run:
        from edgepv.pipeline.plan.plan import plan

        planned = plan(options)
        if a.json:
            print(json.dumps(planned, indent=1))
        else:
            for key, value in planned.items():
                tell(f"{key:12} {value}")
        return 0
    from edgepv import pipeline, show
    from edgepv.types import encode

    with contextlib.redirect_stdout(sys.stderr):  # what a builder prints is no result
        found = pipeline.export(options, Console(quiet=a.json))
    made = found.made
    if a.json:
        print(json.dumps([*map(show.as_data, made), *map(encode, found.not_made)], indent=1))
    else:
        show.exported(made, found.not_made)
        say_next(
            *(
                shlex.join(["edgepv", "run", str(made[0].folder), "--source", "clip.mp4"]),
                shlex.join(["edgepv", "inspect", str(made[0].folder)]),
                shlex.join(["edgepv", "report", *(str(m.folder) for m in made), "--html", "report.html"]),
            )
        )
    return pipeline.exit_code(options, found)


def _shares(text: str) -> list[float]:
    """Shares of channels, like 0.25 or 0,0.25,0.5."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--prune {text}: give the share of channels to remove, like 0.25") from None


def export_options(a: argparse.Namespace) -> Any:
    """Options from --config and the command line; the command line wins."""
    from edgepv.base.files import read_toml
    from edgepv.pipeline.options import Options
    from edgepv.types import decode

    data: dict[str, Any] = {}
    if a.config:
        data = read_toml(Path(a.config), wanted="--config wants a TOML file")
        for value in data.values():
            _refuse_odd_text(value)
    given = {
        "model": a.model,
        "out": a.out,
        "weights": a.weights,
        "spec": a.spec,
        "clips": a.clips,
        "prune": a.prune,
        "importance": a.importance,
        "scope": a.scope,
        "multiple": a.multiple,
        "low_rank": a.low_rank,
        "qat": a.qat,
        "ranges": a.ranges,
        "tune_epochs": a.tune_epochs,
        "variant": a.variant,
        "keep_float": a.keep_float,
        "stream": a.stream,
        "every": a.every,
        "size": a.size,
        "particles": a.particles,
        "precision": a.precision,
        "max_drop": a.max_drop,
        "latency_ms": a.latency_ms,
        "min_sqnr": a.min_sqnr,
        "seed": a.seed,
        "force": a.force or None,
        "trust_pickle": a.trust_pickle or None,
        "targets": [t.strip() for t in a.target.split(",") if t.strip()] if a.target else None,
    }
    data |= {k: v for k, v in given.items() if v is not None}
    if "max_drop" in data:
        data["gate"] = True
    if isinstance(data.get("prune"), int | float):
        data["prune"] = [data["prune"]]
    options = decode(Options, data, where=a.config or "options")
    if not options.targets or len(set(options.targets)) != len(options.targets):
        raise UsageError("--target wants one or more different names. See: edgepv targets")
    return options


def sensitivity_command(a: argparse.Namespace) -> int:
    """edgepv sensitivity"""
    from edgepv import pipeline, show
    from edgepv.base.console import Console
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
        found = pipeline.sensitivity(options, Console(quiet=a.json), cut=a.prune)
    if a.json:
        print(json.dumps(encode(found), indent=1))
    else:
        show.sensitivity(found)
    if a.picture:
        show.sensitivity_picture(a.model, found, Path(a.picture))
        tell(f"picture: {a.picture}", file=sys.stderr)
    return 0


def stream_command(a: argparse.Namespace) -> int:
    """edgepv stream"""
    from edgepv import show
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
        made = convert(module, spec, every=a.every or 1, pool=a.pool)
    except NotStreamableError as e:
        return explain.of_window(spec, e.why, e.cure, _gflops(module, spec))
    proven = replace(made.stream, proof=prove(module, made))
    told = [explain.told(made.explanation, proven, spec)]
    if not a.every and told[0].stride > 1:
        made = convert(module, spec, every=told[0].stride, pool=a.pool)
        told.append(explain.told(made.explanation, made.stream, spec))
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
    """10^9 operations of one call. Raises UsageError if the module does not run on its own input."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from edgepv.export.cost import gflops_per_frame

    try:
        with sdpa_kernel(SDPBackend.MATH):  # torch counts attention only as its two products
            return gflops_per_frame(module, spec)
    except Exception as e:
        raise UsageError(
            f"{spec.name} does not run on an input of shape {spec.input.shape}: {type(e).__name__}: {e}"
        ) from e


def report_command(a: argparse.Namespace) -> int:
    """edgepv report"""
    from edgepv import report
    from edgepv.base.files import write_text
    from edgepv.base.isolated import within
    from edgepv.bundle.manifest import MANIFEST

    page = Path(a.html)
    places = {
        "--html": page,
        "--md": Path(a.md) if a.md else page.with_suffix(".md"),
        "--json": Path(a.json) if a.json else page.with_suffix(".json"),
    }
    with within(a.timeout, "the report"):
        found = report.load([Path(r) for r in a.runs])
        texts = (report.to_html(found), report.to_markdown(found), report.to_json(found))
    written = dict(zip(places.values(), texts))
    if len(written) < 3:
        raise UsageError("--html, --md and --json must name three different files")
    for option, path in places.items():
        if path.resolve() in {Path(r).resolve() for r in a.runs} or (path.parent / MANIFEST).is_file():
            raise UsageError(f"{path} would change a bundle or an input. Write the report somewhere else")
        if path.exists() and not report.is_report(path):
            raise UsageError(f"{path} exists and is no report of edgepv. Name another file with {option}")
    for path, text in written.items():
        write_text(path, text)
    tell(f"{len(found.rows)} variants: {', '.join(str(p) for p in written)}", file=sys.stderr)
    say_next(shlex.join(["xdg-open", str(page)]))
    return 0


def verify_command(a: argparse.Namespace) -> int:
    """edgepv verify"""
    from edgepv.base.isolated import within
    from edgepv.bundle import golden, signing
    from edgepv.bundle.manifest import check

    key = Path(a.key) if a.key else None
    with within(a.timeout, a.bundle) as left, signing.opened(Path(a.bundle), key) as bundle:
        files = check(bundle)
        if a.key:
            tell(f"signed by the owner of {a.key}")
        tell(f"{files} files match their digests; bundle {bundle.digest[:16]}")
        replayed = golden.replay_apart(bundle, left())
        for one in replayed:
            if one.error is None or one.limit is None:
                tell(f"  {one.variant}: not replayed: {one.skipped}")
            else:
                tell(
                    f"  {one.variant}: golden answers reproduced, rmse {one.error:.2g}, limit {one.limit:.2g}"
                )
        if all(one.error is None for one in replayed):
            tell("  only the digests were checked: none of its engines is on this machine")
    say_next(shlex.join(["edgepv", "run", a.bundle, "--source", "clip.mp4"]))
    return 0


def inspect_command(a: argparse.Namespace) -> int:
    """edgepv inspect"""
    from edgepv import show
    from edgepv.bundle.archive import opened
    from edgepv.bundle.manifest import MANIFEST

    with opened(Path(a.bundle)) as bundle:
        if a.layers:
            from edgepv.export.audit import of_layers
            from edgepv.types import encode

            found = of_layers(Path(a.layers), bundle.checked, bundle.content.variants)
            print(json.dumps(encode(found), indent=1)) if a.json else show.audited(found)
            return 0
        if a.json:
            print(visible((bundle.folder / MANIFEST).read_text(encoding="utf-8"), keep="\n"), end="")
            return 0
        show.bundle(bundle)
    run = ["edgepv", "run", a.bundle, "--source", "clip.mp4"]
    say_next(shlex.join(["edgepv", "verify", a.bundle]), shlex.join(run))
    return 0


def targets_command(a: argparse.Namespace) -> int:
    """edgepv targets"""
    from edgepv.targets import targets
    from edgepv.types import encode

    known = sorted(targets().values(), key=lambda t: t.name)
    if a.json:
        print(json.dumps([encode(t) for t in known], indent=1))
        return 0
    for t in known:
        tell(f"{t.name:8} {t.summary}")
        tell(f"{'':8} precisions {', '.join(t.precisions)}; engines {', '.join(t.engines)}")
    say_next("edgepv export --target cpu", "edgepv doctor")
    return 0


def models_command(a: argparse.Namespace) -> int:
    """edgepv models"""
    from edgepv import show, zoo

    rows = show.model_rows(zoo)
    if a.json:
        print(json.dumps(rows, indent=1))
        return 0
    show.models(rows)
    say_next("edgepv export pv-conv-small --target cpu")
    return 0


def doctor_command(a: argparse.Namespace) -> int:
    """edgepv doctor"""
    from edgepv import doctor

    found = doctor.examine()
    if a.json:
        print(json.dumps(found, indent=1))
        return 0
    doctor.show(found)
    say_next(*(found["cures"] or ["edgepv export --target cpu"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
