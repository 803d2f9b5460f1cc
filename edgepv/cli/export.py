"""The command ``export``."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepv.base.console import say_next, tell
from edgepv.cli.arguments import EXIT_CODES, Commands, own_model, refuse_odd_text, seed
from edgepv.errors import UsageError

if TYPE_CHECKING:
    from edgepv.pipeline.options import Options


def add_export(commands: Commands) -> None:
    """Add ``edgepv export`` to the commands."""
    from edgepv.base.options import options_of
    from edgepv.pipeline.options import Options
    from edgepv.quantize.step import broken_steps, step_options

    for line in broken_steps():
        tell(f"edgepv: {line}", file=sys.stderr)
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
        "file.onnx (default: pv-c3d-valid)",
    )
    c.add_argument(
        "--target", metavar="NAME[,NAME]", help="devices to pack for (see: edgepv targets; default: cpu)"
    )
    own_model(c)
    for option in options_of(Options):
        c.add_argument(option.flag, **option.argument())
    steps = c.add_argument_group("compression steps")
    for option in step_options().values():
        steps.add_argument(option.flag, **option.argument())
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
        result = pipeline.export(options, Console(quiet=a.json))
    bundles = result.made
    if a.json:
        print(json.dumps([*map(show.as_data, bundles), *map(encode, result.not_made)], indent=1))
    else:
        show.exported(bundles, result.not_made)
        say_next(
            *(
                shlex.join(["edgepv", "run", str(bundles[0].folder), "--source", "clip.mp4"]),
                shlex.join(["edgepv", "inspect", str(bundles[0].folder)]),
                shlex.join(["edgepv", "report", *(str(m.folder) for m in bundles), "--html", "report.html"]),
            )
        )
    return pipeline.exit_code(options, result)


def export_options(a: argparse.Namespace) -> Options:
    """Options from --config and the command line; the command line wins."""
    from edgepv.base.files import read_toml
    from edgepv.pipeline.options import Options, options_from
    from edgepv.quantize.step import step_options

    data: dict[str, Any] = {}
    if a.config:
        data = read_toml(Path(a.config), wanted="--config wants a TOML file")
        for value in data.values():
            refuse_odd_text(value)
    names = {*(f.name for f in fields(Options)), *step_options()} - {"targets", "steps", "gate"}
    given = {name: getattr(a, name) for name in names}
    given |= {name: given[name] or None for name in ("force", "trust_pickle")}
    given["targets"] = [t.strip() for t in a.target.split(",") if t.strip()] if a.target else None
    data |= {k: v for k, v in given.items() if v is not None}
    if "max_drop" in data:
        data["gate"] = True
    options = options_from(data, a.config or "options")
    if not options.targets or len(set(options.targets)) != len(options.targets):
        raise UsageError("--target wants one or more different names. See: edgepv targets")
    return options
