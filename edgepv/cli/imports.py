"""The command that takes a checkpoint of another library."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from edgepv.base.console import say_next, tell
from edgepv.cli.arguments import Commands


def add_import(commands: Commands) -> None:
    """edgepv import"""
    text = "make builder, weights and spec of a checkpoint that another library trained"
    c = commands.add_parser(
        "import",
        help=text,
        description=text,
        epilog="torchvision: r3d_18, mc3_18, r2plus1d_18, s3d, mvit_v1_b, mvit_v2_s, swin3d_t, swin3d_s, "
        "swin3d_b. pytorchvideo: x3d_xs, x3d_s, x3d_m, x3d_l, slow_r50, c2d_r50, i3d_r50, r2plus1d_r50, "
        "slowfast_r50, slowfast_r101. mmaction2: tsn_r50, tsm_r50, i3d_r50, slowonly_r50. "
        "See docs/import.md",
    )
    c.add_argument("net", metavar="LIBRARY:NET", help="like torchvision:r3d_18 or pytorchvideo:x3d_s")
    c.add_argument(
        "checkpoint", metavar="FILE", help="its weights; FILE#SET for one of several sets of weights in it"
    )
    c.add_argument(
        "--out", metavar="DIR", required=True, help="new folder for model.py, weights and spec.toml"
    )
    c.add_argument(
        "--labels",
        metavar="FILE",
        help="its labels, one a line or JSON (default: those in the checkpoint; of 400, Kinetics-400's)",
    )
    c.add_argument("--trust-pickle", action="store_true", help="read pickled weights; no code in them runs")
    c.add_argument("--force", action="store_true", help="replace an earlier import")
    c.add_argument("--json", action="store_true", help="print JSON")
    c.set_defaults(run=import_command)


def import_command(a: argparse.Namespace) -> int:
    """edgepv import"""
    from edgepv import importers
    from edgepv.types import encode

    imported = importers.import_model(
        a.net,
        Path(a.checkpoint),
        Path(a.out),
        labels=Path(a.labels) if a.labels else None,
        trust_pickle=a.trust_pickle,
        force=a.force,
    )
    if a.json:
        print(json.dumps(encode(imported), indent=1))
        return 0
    spec = imported.spec
    tell(f"{imported.folder}: {', '.join(importers.FILES)}")
    tell(
        f"{a.net}: {spec.frames} frames of {spec.input.shape[-1]} px at {float(spec.fps):g} fps, "
        f"{len(spec.labels)} labels"
    )
    for note in imported.notes:
        tell(f"  {note}", file=sys.stderr)
    say_next(
        shlex.join(["edgepv", "stream", *imported.files]),
        shlex.join(["edgepv", "export", *imported.files, "--target", "cpu"]),
    )
    return 0
