"""Bundles on a real Jetson: built, proven, judged and timed by ``edgepv build``; numbers nobody has yet.

``python benchmarks/jetson.py BUNDLE... [--clips DIR]`` runs on the board, for bundles that were made
elsewhere with --target jetson. It adds to benchmarks/jetson.json what came out for this board, JetPack and
power mode: every step that was said, layers, golden answers, accuracy, times, and refusals as refusals.
``--table`` prints the results. Set the power mode first (sudo nvpmodel -m 0; sudo jetson_clocks), and let
nothing else run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measured_at import now

from edgepv.base.console import tell
from edgepv.base.files import read_json, write_json
from edgepv.bundle import manifest
from edgepv.device.judge import Judge
from edgepv.errors import EdgepvError
from edgepv.runtimes.trt import kit, measure
from edgepv.runtimes.trt.bundle import Bundle

OUT = Path(__file__).resolve().parent / "jetson.json"
MAX_DROP = 1.0  # points, as edgepv build


def measured(folder: Path, clips: Path | None, calls: int) -> dict[str, Any]:
    """What came out for one bundle: what was said, and what was found or why nothing was."""
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        tell(line)

    row: dict[str, Any] = {"bundle": folder.name, "at": now(), "said": said}
    try:
        whole = manifest.read(folder)
        manifest.check(whole)
        judge = Judge(whole, clips, MAX_DROP) if clips else None
        row["found"] = kit.build(Bundle(folder), say, calls=calls, judge=judge)
    except EdgepvError as e:
        row["refused"] = str(e)
        tell(f"{folder.name}: {e}")
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The committed results as Markdown, a line for each engine."""
    heads = (
        "bundle",
        "board, JetPack, TensorRT, power",
        "variant",
        "p50 ms",
        "p99 ms",
        "ratio",
        "graph",
        "kept",
    )
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        found = row.get("found")
        if not found:
            lines.append(f"| {row['bundle']} | refused: {row['refused']} | | | | | | |")
            continue
        device = found["device"]
        where = ", ".join(
            str(device[key] or "not known") for key in ("board", "jetpack", "tensorrt", "power")
        )
        for name, times in found["times"].items():
            p99 = "not measured" if times["p99_ms"] is None else times["p99_ms"]
            cells = (row["bundle"], where, name, times["p50_ms"], p99, times["ratio"])
            graph, kept = "yes" if times["cuda_graph"] else "no", "kept" if name == found["variant"] else ""
            lines.append(f"| {' | '.join(map(str, cells))} | {graph} | {kept} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, or print what was."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundles", nargs="*", type=Path, metavar="BUNDLE")
    parser.add_argument("--clips", type=Path, metavar="DIR")
    parser.add_argument("--calls", type=int, default=measure.CALLS, metavar="N")
    parser.add_argument("--table", action="store_true")
    a = parser.parse_args()
    before: list[dict[str, Any]] = read_json(OUT)["rows"] if OUT.is_file() else []
    if a.table:
        tell(table(before) if before else "no Jetson was measured yet")
        return
    rows = [*before, *(measured(folder, a.clips, a.calls) for folder in a.bundles)]
    write_json(OUT, {"measured_at": now(), "rows": rows})


if __name__ == "__main__":
    main()
