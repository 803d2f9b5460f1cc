"""The commands that say what there is: targets, models, doctor."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from edgepv.base.console import say_next, tell


def add_about(commands: Any) -> None:
    """edgepv targets, edgepv models, edgepv doctor"""
    for name, text, call in (
        ("targets", "the devices edgepv packs for", targets_command),
        ("models", "the built-in trained models", models_command),
        ("doctor", "what is installed, and what can be built and measured here", doctor_command),
    ):
        c = commands.add_parser(name, help=text, description=text)
        c.add_argument("--json", action="store_true", help="print JSON")
        c.set_defaults(run=call)


def targets_command(a: argparse.Namespace) -> int:
    """edgepv targets"""
    from edgepv.targets import TARGETS
    from edgepv.types import encode

    by_name, faults = TARGETS.every()
    for fault in faults:
        tell(f"edgepv: {fault}", file=sys.stderr)
    known = [by_name[name] for name in sorted(by_name)]
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
    from edgepv import zoo
    from edgepv.cli import show

    rows = show.model_rows(zoo)
    if a.json:
        print(json.dumps(rows, indent=1))
        return 0
    show.models(rows)
    tell(f"detectors by others, as they were published: {', '.join(zoo.ONNX)}")
    say_next("edgepv export pv-c3d-valid --target cpu")
    return 0


def doctor_command(a: argparse.Namespace) -> int:
    """edgepv doctor"""
    from edgepv.cli import doctor

    facts = doctor.examine()
    if a.json:
        print(json.dumps(facts, indent=1))
        return 0
    doctor.show(facts)
    say_next(*(facts["cures"] or ["edgepv export --target cpu"]))
    return 0
