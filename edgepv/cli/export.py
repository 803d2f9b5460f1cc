"""The command ``export``."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from edgepv.base.console import say_next, tell
from edgepv.cli.arguments import EXIT_CODES, own_model, refuse_odd_text, seed
from edgepv.errors import UsageError


def add_export(commands: Any) -> None:
    """Add ``edgepv export`` to the commands."""
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


def export_command(a: argparse.Namespace) -> int:
    """edgepv export"""
    from edgepv.base.console import Console

    options = export_options(a)
    if a.dry_run:
        from edgepv.pipeline.dry_run import plan

        planned = plan(options)
        if a.json:
            print(json.dumps(planned, indent=1))
        else:
            for key, value in planned.items():
                tell(f"{key:12} {value}")
        return 0
    from edgepv import pipeline
    from edgepv.cli import show
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
            refuse_odd_text(value)
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
