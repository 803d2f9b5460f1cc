"""``edgepv calibrate-normal``: a threshold for what is odd, from what is normal before this camera."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from edgepv.base.console import say_next, tell
from edgepv.cli.arguments import Commands, refuse_threads
from edgepv.errors import UsageError

MOST_S = 3600.0
"""Seconds of --smooth-s and --cooldown-s."""


def add_calibrate_normal(commands: Commands) -> None:
    """Add ``edgepv calibrate-normal`` and its options."""
    text = "learn a camera's anomaly threshold from its normal footage, for a rate of false alarms"
    c = commands.add_parser(
        "calibrate-normal",
        help=text,
        description=text,
        epilog="The rate may be as low as once in four times the hours of footage; below once in the hours "
        "the threshold is extrapolated, which is said. See docs/odd.md",
    )
    c.add_argument("bundle", metavar="BUNDLE", help="bundle folder or .zip that will watch the camera")
    c.add_argument(
        "--footage", metavar="DIR", required=True, help="video of this camera in which nothing odd happens"
    )
    c.add_argument(
        "--per-hour", type=float, default=1.0, metavar="N", help="false alarms that may be (default: 1)"
    )
    c.add_argument(
        "--score",
        metavar="NAME",
        help="entropy, rest or margin of a classifier, background, or a number that the model answers, such "
        "as surprise (default: the model's number, else entropy, else background)",
    )
    c.add_argument(
        "--rules", metavar="FILE", help="rules of this camera: its masks are used, and the new rule is added"
    )
    c.add_argument(
        "--smooth-s",
        type=float,
        default=1.0,
        metavar="S",
        help="time constant of the score's smoothing (default: 1)",
    )
    c.add_argument(
        "--cooldown-s",
        type=float,
        default=30.0,
        metavar="S",
        help="least time from one alarm to the next (default: 30)",
    )
    c.add_argument("--variant", metavar="NAME", help="which variant (default: the one that runs)")
    c.add_argument("--threads", type=int, default=1, metavar="N", help="threads of the engine (default: 1)")
    c.add_argument(
        "--out",
        metavar="FILE",
        default="normal.toml",
        help="rules file for edgepv run --rules (default: normal.toml)",
    )
    c.add_argument("--force", action="store_true", help="replace an earlier file")
    c.add_argument("--json", action="store_true", help="print JSON")
    c.set_defaults(run=calibrate_normal_command)


def calibrate_normal_command(a: argparse.Namespace) -> int:
    """Do ``edgepv calibrate-normal``."""
    from edgepv.base.console import Console
    from edgepv.device.normal import NormalRequest, learn_normal, told
    from edgepv.types import encode

    refuse_threads(a.threads)
    for option, value, least in (("--smooth-s", a.smooth_s, 0), ("--cooldown-s", a.cooldown_s, 0.1)):
        if not least <= value <= MOST_S:
            raise UsageError(f"{option} {value:g}: give {least:g} to {MOST_S:g} seconds")
    if Path(a.out).exists() and not a.force:
        raise UsageError(f"{a.out} exists. Name another file with --out, or add --force")
    request = NormalRequest(
        Path(a.bundle),
        Path(a.footage),
        a.per_hour,
        Path(a.out),
        score=a.score,
        smooth_s=a.smooth_s,
        cooldown_s=a.cooldown_s,
        rules=Path(a.rules) if a.rules else None,
        variant=a.variant,
        threads=a.threads,
    )
    normal = learn_normal(request, Console(quiet=a.json))
    if a.json:
        print(json.dumps(encode(normal), indent=1))
        return 0
    for line in told(normal):
        tell(line)
    run = ["edgepv", "run", a.bundle, "--source", "CAMERA", "--rules", a.out]
    say_next(shlex.join(run))
    return 0
