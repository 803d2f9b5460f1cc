"""The commands about finished bundles: report, verify, inspect."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from edgepv.base.console import say_next, tell, visible
from edgepv.cli.arguments import Commands, timeout
from edgepv.errors import UsageError


def add_report(commands: Commands) -> None:
    """Add ``edgepv report`` to the commands."""
    text = "put every variant of one or more bundles side by side"
    c = commands.add_parser("report", help=text, description=text)
    c.add_argument("runs", nargs="+", metavar="RUN", help="bundle, folder of bundles, or measured.json")
    c.add_argument(
        "--html", metavar="FILE", default="report.html", help="self-contained page (default: report.html)"
    )
    c.add_argument("--md", metavar="FILE", help="Markdown (default: beside the page)")
    c.add_argument("--json", metavar="FILE", help="JSON (default: beside the page)")
    c.add_argument(
        "--live",
        metavar="FILE",
        action="append",
        default=[],
        help="misses over time of edgepv bench --live --json; several times for several files",
    )
    c.add_argument(
        "--model-explorer",
        metavar="DIR",
        help="write what INT8 costs each layer as node data, to load into Model Explorer over the ONNX file",
    )
    c.add_argument("--mlflow", metavar="URI", help="log every variant as a run there, like file:mlruns")
    timeout(c, "all of it")
    c.set_defaults(run=report_command)


def add_verify(commands: Commands) -> None:
    """Add ``edgepv verify`` to the commands."""
    text = "check every digest of a bundle and replay its golden vectors"
    c = commands.add_parser("verify", help=text, description=text)
    c.add_argument("bundle", metavar="BUNDLE", help="bundle folder or .zip")
    c.add_argument("--key", metavar="FILE", help="public key (PEM) that must have signed it")
    timeout(c, "all of it")
    c.set_defaults(run=verify_command)


def add_inspect(commands: Commands) -> None:
    """Add ``edgepv inspect`` to the commands."""
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
        results = report.with_live(report.load(*a.runs).report, [Path(file) for file in a.live])
        texts = (report.to_html(results), report.to_markdown(results), report.to_json(results))
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
    if a.model_explorer:
        written |= dict.fromkeys(report.write_overlay(results, Path(a.model_explorer)), "")
    if a.mlflow:
        runs = report.log_to_mlflow(results, a.mlflow)
        tell(f"{len(runs)} runs logged at {a.mlflow}", file=sys.stderr)
    tell(f"{len(results.rows)} variants: {', '.join(str(p) for p in written)}", file=sys.stderr)
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
    from edgepv.bundle.archive import opened
    from edgepv.bundle.manifest import MANIFEST
    from edgepv.cli import show

    with opened(Path(a.bundle)) as bundle:
        if a.layers:
            from edgepv.export.tensorrt import layers
            from edgepv.types import encode

            audit = layers.of_bundle(Path(a.layers), bundle.checked, bundle.content.variants)
            print(json.dumps(encode(audit), indent=1)) if a.json else show.audited(audit)
            return 0
        if a.json:
            print(visible((bundle.folder / MANIFEST).read_text(encoding="utf-8"), keep="\n"), end="")
            return 0
        show.bundle(bundle)
    run = ["edgepv", "run", a.bundle, "--source", "clip.mp4"]
    say_next(shlex.join(["edgepv", "verify", a.bundle]), shlex.join(run))
    return 0
