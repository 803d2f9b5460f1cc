"""The command ``build``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from edgepv.base.console import say_next, tell
from edgepv.cli.arguments import Commands
from edgepv.errors import UsageError


def add_build(commands: Commands) -> None:
    """edgepv build"""
    text = "on a Jetson: build a bundle's engines, prove them, time them in turns, keep the better"
    c = commands.add_parser("build", help=text, description=text)
    c.add_argument("bundle", metavar="BUNDLE", help="bundle folder or .zip, made with --target jetson")
    c.add_argument(
        "--variant", metavar="NAME", help="build this one alone (default: all that this device runs)"
    )
    c.add_argument(
        "--calls",
        type=int,
        default=None,
        metavar="N",
        help="timed steps of each engine (default: 700, for p99)",
    )
    c.add_argument("--clips", metavar="DIR", help="labelled clips that judge each engine before one is kept")
    c.add_argument(
        "--max-drop",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="accuracy that an engine may lose on --clips against the one in float (default: 1)",
    )
    c.add_argument("--key", metavar="FILE", help="public key (PEM) that must have signed the bundle")
    c.add_argument(
        "--json", action="store_true", help="print what was found as JSON; progress goes to stderr"
    )
    c.set_defaults(run=build_command)


def build_command(a: argparse.Namespace) -> int:
    """edgepv build"""
    from edgepv.bundle import signing
    from edgepv.bundle.manifest import check
    from edgepv.device.judge import Judge
    from edgepv.runtimes.trt import kit, measure
    from edgepv.runtimes.trt.bundle import Bundle

    calls = measure.CALLS if a.calls is None else a.calls
    if calls < 1:
        raise UsageError(f"--calls {calls}: give at least 1")
    if not 0 <= a.max_drop <= 100:
        raise UsageError(f"--max-drop {a.max_drop:g}: give points of accuracy, from 0 to 100")
    stream = sys.stderr if a.json else sys.stdout
    with signing.opened(Path(a.bundle), Path(a.key) if a.key else None) as opened:
        check(opened)
        judge = Judge(opened, Path(a.clips), a.max_drop) if a.clips else None
        bundle = Bundle(opened.folder)
        if (bundle.digest, bundle.measured["files"]) != (opened.digest, dict(opened.measured.files)):
            raise UsageError(f"{opened.folder} was changed while it was checked. Copy the bundle again")
        found = kit.build(
            bundle,
            lambda line: tell(line, file=stream),
            only=a.variant,
            calls=calls,
            judge=judge,
        )
    if a.json:
        print(json.dumps(found, indent=1))
    say_next(f"edgepv run {a.bundle} --source rtsp://...")
    return 0
