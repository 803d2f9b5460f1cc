"""Every built-in model on every target: size, cost, metric and time, and a picture of what each one sees.

``python benchmarks/models.py --data DIR`` exports each model to cpu, mobile and jetson with all gates and
keeps what was measured in models.json, model by model: those that are there are left as they are, --again
NAME measures one anew, with --target T for that target alone. Without --data it only writes docs/models.md
from the committed results. Classifiers are judged on the test clips of DIR, the others on the clips that
come with the package. The bundles stay in the cache, for choose.py and roofline.py.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import model_tables
import numpy as np
from measured_at import machine, now

from edgepv import bundle, pipeline
from edgepv.base import cache
from edgepv.base.console import Console
from edgepv.base.files import read_json, whole_file, write_json, write_text
from edgepv.base.machine import device_facts
from edgepv.cli import show
from edgepv.data.frames import clean_frames, degraded
from edgepv.data.video import read_video
from edgepv.errors import EdgepvError
from edgepv.metrics.stats import metric_name
from edgepv.pipeline.options import Options
from edgepv.runtimes.on_file import run_file
from edgepv.runtimes.records import picture_of
from edgepv.runtimes.session import open_session
from edgepv.types import Accuracy, Measurement, PairedDrop, decode, encode
from edgepv.zoo import HERE as ZOO
from edgepv.zoo import INDEX, MODELS, cross_validated, parse, tested_on

HERE = Path(__file__).resolve().parent
OUT = HERE / "models.json"
DOCS = HERE.parent / "docs"
TARGETS = ("cpu", "mobile", "jetson")
PICTURED = ("pv-graph-nano-fight", "pv-track-nano", "pv-restore-nano-denoise")
HEIGHT = 240
KEPT = ("chosen", "original_latency", "reasons", "measured_at")
"""What a result has for each target. original_latency: of torch in that target's turns; none for a Jetson,
whose files are not timed on a host."""


def measure(name: str, data: Path, targets: Sequence[str], console: Console) -> dict[str, Any]:
    """Export ``name`` to the targets; what their reports say, one row for each variant."""
    classifier = read_json(INDEX)[name]["spec"]["task"] == "classification"
    for target in targets:
        shutil.rmtree(place_of(name, target), ignore_errors=True)
    out = place_of(name, targets[0]) if len(targets) == 1 else place_of(name, targets[0]).parent
    options = Options(name, targets=tuple(targets), out=str(out), clips=str(data) if classifier else None)
    made = pipeline.export(options, console).made
    rows = {(row.target, row.variant): row for one in made[::-1] for row in one.report.rows}
    originals = {one.target: next(r for r in one.report.rows if r.target == "host") for one in made}
    if name in PICTURED and "cpu" in targets:
        with tempfile.TemporaryDirectory() as scratch:
            draw(name, place_of(name, "cpu"), Path(scratch) / "seen.mp4")
    return {
        "chosen": {one.target: one.chosen.variant for one in made},
        "original_latency": {target: encode(row.latency) for target, row in originals.items()},
        "rows": [slim(row) for row in rows.values()],
        "reasons": {one.target: [r.replace(str(data), "DIR") for r in one.report.reasons] for one in made},
        "measured_at": {one.target: {**now(), "device": encode(device_facts())} for one in made},
    }


def place_of(name: str, target: str) -> Path:
    """Where the bundle of a model for a target stays, once measured."""
    return cache.root() / "models" / name / target


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """A result with what was measured anew, of some targets, in the place of what was known of them.

    The original is timed beside the files of a target: where none was, what was known of it stays.
    """
    if not old:
        return new
    anew = {(row["target"], row["variant"]): row for row in new["rows"]}
    kept = [row for row in old["rows"] if row["target"] not in (*new["chosen"], "host")]
    was = {(row["target"], row["variant"]): row for row in old["rows"] if row["target"] == "host"}
    for key in set(was) & set(anew):
        anew[key] = {**anew[key], "latency": anew[key]["latency"] or was[key]["latency"]}
    both = {key: {**old.get(key, {}), **new[key]} for key in KEPT}
    return {**both, "rows": [*anew.values(), *kept]}


def slim(row: Measurement) -> dict[str, Any]:
    """A row without what the table does not show."""
    accuracy = replace(row.accuracy, classes=(), confusion=()) if row.accuracy else None
    parity = replace(row.parity, worst=()) if row.parity else None
    latency = tuple(replace(one, interleaved_with=(), spread_ms=()) for one in row.latency[:1])
    slimmer = replace(row, accuracy=accuracy, parity=parity, latency=latency, audit=None, device=None)
    return dict(encode(replace(slimmer, curves=(), slices=(), peaks=None, each_frame=None)))


def draw(name: str, folder: Path, video: Path) -> None:
    """docs/models/NAME.jpg: a frame of the video that `edgepv run --video` draws; of a restorer, what it is
    given on the left half and what it answers on the right."""
    import cv2

    if name.startswith("pv-restore"):
        frame = before_and_after(folder, ZOO / "film" / "evaluation" / "cars1.mp4")
    else:
        points = ZOO / "points" / "evaluation" / "pt3.mp4"
        fight = ZOO / "clips" / "evaluation" / "fight" / "fs_fi045.mp4"
        run_file(bundle.read(folder).variant(), folder, points if "track" in name else fight, video=video)
        frames = read_video(video).frames
        frame = frames[3 * len(frames) // 4]
    width = round(HEIGHT * frame.shape[1] / frame.shape[0])
    small = cv2.resize(frame, (width, HEIGHT), interpolation=cv2.INTER_AREA)
    with whole_file(picture(name)) as tmp:
        cv2.imwrite(str(tmp), small, [cv2.IMWRITE_JPEG_QUALITY, 88])


def before_and_after(folder: Path, clip: Path) -> np.ndarray:
    """The last frame of a clip, its left half degraded and its right half restored, (H, W, 3) BGR."""
    import cv2

    variant = bundle.read(folder).variant()
    with open_session(variant, folder) as session:
        for frame in degraded(clean_frames(clip, variant.spec), variant.spec):
            answer = session.step(frame)
    after = picture_of(answer, variant.spec)
    assert after is not None
    before = cv2.resize(frame, (after.shape[1], after.shape[0]), interpolation=cv2.INTER_NEAREST)
    half = after.shape[1] // 2
    return np.concatenate([before[:, :half], after[:, half:]], 1)


def picture(name: str) -> Path:
    """Where the picture of a model is."""
    return DOCS / "models" / f"{name}.jpg"


def page(found: dict[str, Any]) -> str:
    """docs/models.md."""
    lines = [
        "# The built-in models",
        "",
        "Made by `python benchmarks/models.py` from committed results (benchmarks/models.json, and those of "
        "the benchmarks named below). Metrics are of the files that are shipped: the torch original, and "
        "what each target runs after all gates; intervals are 95 %, over groups of clips (a camera, a take, "
        "a film) where a row says in how many they come, else over clips. p50 is for one new frame on one "
        "thread, all variants of a target and torch in turns; a Jetson's files are checked on this host "
        "and not timed. "
        f"CPU: with its instructions that add up INT8. Measured at {commits(found)}.",
        "",
        decided(found),
        "",
        *(f"![{name}](models/{name}.jpg)" for name in PICTURED if picture(name).is_file()),
        "",
        "| model | what | params | GFLOPs / frame | torch fp32 | judged on | cross-validated by group |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in sorted(found.items()):
        rows = [decode(Measurement, row) for row in result["rows"]]
        first = rows[0]
        summary = MODELS[parse(name)[0]].summary
        lines.append(
            f"| {name} | {summary} | {first.params or 0:,} | {first.gflops_per_frame or 0:.3f} | "
            f"{score(first.accuracy)} | {judged_on(name)} | {folds(name)} |"
        )
    lines += [
        "",
        "| model | target | variant | metric | lost against torch | p50 ms | torch / this | KB | CPU |",
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for name, result in sorted(found.items()):
        lines += list(variants(name, result))
    lines += ["", "Not measured: " + (", ".join(missing(found)) or "nothing") + ".", ""]
    return "\n".join([*lines, *baselines()]) + "\n"


def decided(found: dict[str, Any]) -> str:
    """How many INT8 files the gate can tell of, over all models and targets."""
    drops = [
        row["drop"]["verdict"]
        for result in found.values()
        for row in result["rows"]
        if row["precision"] == "int8" and row["drop"]
    ]
    passed, failed = drops.count("pass"), drops.count("fail")
    return (
        f"Of {len(drops)} files in INT8 whose loss was measured {passed} pass and {failed} fail a gate of "
        "1 point (a restorer's 0.3 dB); of the others the clips are too few to tell."
    )


def commits(found: dict[str, Any]) -> str:
    """ "commit 3bfac1a (2026-11-22)", of all results."""
    noted = [at for result in found.values() for at in result["measured_at"].values()]
    return ", ".join(sorted({f"commit {at['commit']} ({at['date']})" for at in noted}))


def variants(name: str, result: dict[str, Any]) -> Iterator[str]:
    """Per target the fastest float and the fastest INT8 file, and which one runs."""
    rows = [decode(Measurement, row) for row in result["rows"]]
    for target in TARGETS:
        if target not in result["measured_at"]:
            yield f"| {name} | {target} | {show.UNKNOWN} | | | | | | |"
            continue
        host = machine(result["measured_at"][target]["device"])
        mine = [row for row in rows if row.target == target]
        chosen = result["chosen"].get(target)
        torch = result.get("original_latency", {}).get(target)
        for kind in (False, True):
            these = [row for row in mine if (row.precision == "int8") == kind]
            runs = next((r for r in these if r.variant == chosen), None)
            best = runs or min(these, key=speed, default=None)
            if best is None:
                yield f"| {name} | {target} | {'int8' if kind else 'float'} | {show.UNKNOWN} | | | | | |"
                continue
            p50 = f"{best.latency[0].p50_ms:.2f}" if best.latency else show.UNKNOWN
            star = " (runs)" if best.variant == chosen else ""
            size = f"{(best.bytes or 0) / 1024:.0f}" if best.bytes else show.UNKNOWN
            yield (
                f"| {name} | {target} | {best.variant}{star} | {score(best.accuracy)} | {loss(best.drop)} "
                f"| {p50} | {of_torch(best, torch)} | {size} | {host} |"
            )


def of_torch(row: Measurement, original: Sequence[dict[str, Any]] | None) -> str:
    """ "0.23": the share of torch's time in the same turns; UNKNOWN where either is not timed."""
    if not (row.latency and original):
        return show.UNKNOWN
    return f"{row.latency[0].p50_ms / original[0]['p50_ms']:.2g}"


def judged_on(name: str) -> str:
    """What the clips show that the figures of a model are of, and what they score without it."""
    if name.startswith("pv-track"):
        return "photographs moved by a homography"
    if not name.startswith("pv-restore"):
        return tested_on(name)
    row = read_json(HERE / "restore.json")["shipped"][name]
    given = "bicubic alone" if name.endswith("x2") else "as given"
    return f"{row['clips']} cuts of one smooth film, {given} {row['psnr_given']:.2f} dB"


def folds(name: str) -> str:
    """ "top-1 57.7 % (folds of 53.2 to 64.7 %, n 338)"; by a shorter recipe than the shipped one."""
    found = cross_validated(name)
    return show.folds(found) if found else show.UNKNOWN


def speed(row: Measurement) -> float:
    """What is sorted by: p50, and the file's size where nothing is timed."""
    return row.latency[0].p50_ms if row.latency else 1e6 + (row.bytes or 0)


def score(found: Accuracy | None) -> str:
    """ "top-1 78.8 % (71.5 to 84.7, n 146)"."""
    return f"{metric_name(found.metric)} {show.accuracy_text(found)}" if found else show.UNKNOWN


def loss(drop: PairedDrop | None) -> str:
    """ "+0.7 points (-2.6 to +4.1), inconclusive"."""
    return f"{show.points(drop)}, {drop.verdict}" if drop else show.UNKNOWN


def missing(found: dict[str, Any]) -> list[str]:
    """Models that have weights and no result."""
    return sorted(set(read_json(INDEX)) - set(found))


def baselines() -> list[str]:
    """What the other benchmarks say of named baselines, also where they win."""
    lines = ["## Named baselines", ""]
    for name in ("graph", "track", "restore"):
        path = HERE / f"{name}.json"
        if path.is_file():
            lines += getattr(model_tables, name)(read_json(path))
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with manifest.csv; measures what is missing")
    parser.add_argument("--again", action="append", default=[], metavar="NAME")
    parser.add_argument("--target", action="append", choices=TARGETS, help="these only (default: all)")
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    args = parser.parse_args(argv)
    found = read_json(OUT) if OUT.is_file() else {}
    for name in sorted(read_json(INDEX)) if args.data else ():
        if (name in found and name not in args.again) or (args.only and name not in args.only):
            continue
        try:
            new = measure(name, args.data, args.target or TARGETS, Console())
        except EdgepvError as e:
            print(f"{name}: {e}", file=sys.stderr, flush=True)
            continue
        found[name] = merged(found.get(name, {}), new)
        print(f"{name}: measured", flush=True)
        write_json(OUT, found)
    write_text(DOCS / "models.md", page(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
