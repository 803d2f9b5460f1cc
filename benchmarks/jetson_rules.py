"""What our rules and NVIDIA's parser say of every built-in model, packed for Jetson, without a GPU.

``python benchmarks/jetson_rules.py [MODEL ...]`` packs each model's four files with ranges of a few clips,
which change no operator, and keeps the findings in jetson_rules.json, model by model; what is there is left
as it is. Every planted violation of tests/planted_rules.py is checked too. jetson_rules.md is written of the
results; docs/jetson.md shows ``table``.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from measured_at import now, stamps

from edgepv import zoo
from edgepv.base.console import Console
from edgepv.base.files import read_json, write_json, write_text
from edgepv.data.clips import Clip
from edgepv.export.tensorrt import rules
from edgepv.export.tensorrt.parser import PROVES
from edgepv.pipeline.build import run_builder
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.line import lowered, ready
from edgepv.pipeline.options import Options
from edgepv.pipeline.source import gather, load
from edgepv.targets import target

HERE = Path(__file__).resolve().parent
OUT, PAGE = HERE / "jetson_rules.json", HERE / "jetson_rules.md"
FEWEST = 4
"""Calibration clips: the least that edgepv sets ranges by."""


def checked(name: str) -> dict[str, Any]:
    """File -> findings by rule, and the parser's verdict, of one model packed for every Jetson."""
    options = Options(name, targets=("jetson",))
    context, source = RunContext(options, Console(quiet=True)), load(options)
    clips = gather(options, source.spec)
    clips = replace(clips, calibration=_few(clips.calibration or clips.held_out), fits=True)
    model = ready(context, lowered(context, source, clips), clips)
    with tempfile.TemporaryDirectory() as scratch:
        models = Path(scratch)
        base = model.lowered.base
        (models / "model.onnx").write_bytes((model.lowered.base_folder / base.path).read_bytes())
        run_builder(context, model, target("jetson"), replace(base, path="model.onnx"), models)
        rows = read_json(models / "checks.json")
    return {row["file"]: {"rules": _counted(row["rules"]), "parser": _verdict(row["parser"])} for row in rows}


def _few(clips: tuple[Clip, ...]) -> tuple[Clip, ...]:
    """The first clips of each label, four in all or one a label."""
    by_label: dict[Any, list[Clip]] = {}
    for clip in clips:
        by_label.setdefault(clip.label, []).append(clip)
    return tuple(c for some in by_label.values() for c in some[: max(1, FEWEST // len(by_label))])


def _counted(findings: list[dict[str, Any]]) -> dict[str, int]:
    """ "severity rule" -> how many."""
    return dict(sorted(Counter(f"{f['severity']} {f['rule']}" for f in findings).items()))


def _verdict(said: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("version", "accepted", "built", "layers", "fed", "unfed", "errors", "reason")
    return {key: said[key] for key in keys}


def planted() -> dict[str, list[int]]:
    """Rule -> [planted violations, of which the rule found], of tests/planted_rules.py."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from planted_rules import PLANTED, found

    counts: dict[str, list[int]] = {}
    for one in PLANTED.values():
        row = counts.setdefault(one.rule, [0, 0])
        row[0] += 1
        row[1] += {f.rule for f in found(one)} == {one.rule}
    return counts


def table(results: Mapping[str, Any]) -> str:
    """The table of rules, for docs/jetson.md."""
    lines = [
        "| rule | severity | why | cure | planted, found | source |",
        "|---|---|---|---|---|---|",
    ]
    for name, severity, why, cure, source in rules.listed():
        put, seen = results["planted"][name]
        lines.append(f"| {name} | {severity} | {why} | {cure} | {put}, {seen} | {source} |")
    return "\n".join(lines) + "\n"


def page(results: Mapping[str, Any]) -> str:
    """jetson_rules.md."""
    lines = [
        "# What a host finds in the files for Jetson",
        "",
        "Made by `python benchmarks/jetson_rules.py` from benchmarks/jetson_rules.json. Every built-in "
        "model, packed by `--target jetson`, with a few calibration clips: more change no operator, but may "
        "show more that float16 does not hold. "
        f"{stamps(results['measured_at'])}",
        "",
        f"{PROVES[0].upper()}{PROVES[1:]}. Rules: docs/jetson.md.",
        "",
        "| model | file | errors | warnings | notes | tensorrt-rtx | parsed | built | layers | "
        "INT8 convolutions between Q/DQ |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, files in sorted(results["models"].items()):
        for file, row in files.items():
            said = row["parser"]
            counts = [_of(row["rules"], severity) for severity in ("error", "warning", "info")]
            planned = (said["fed"] or 0) + len(said["unfed"])
            fed = f"{said['fed']} of {planned}" if planned else "none"
            fed = "not asked" if said["fed"] is None else fed
            cells = (said["version"], _yes(said["accepted"]), _yes(said["built"]), said["layers"], fed)
            lines.append(f"| {' | '.join(map(str, (name, file, *counts, *cells)))} |")
    return "\n".join(lines) + "\n"


def _of(counted: Mapping[str, int], severity: str) -> str:
    some = [f"{key.split()[1]} ({n})" for key, n in counted.items() if key.startswith(severity)]
    return ", ".join(some) or "0"


def _yes(answer: bool | None) -> str:
    return "not asked" if answer is None else "yes" if answer else "no"


def main(names: list[str]) -> None:
    """Check what is missing, and write both files."""
    results = read_json(OUT) if OUT.exists() else {"models": {}, "measured_at": {}}
    results["planted"] = planted()
    results["measured_at"]["planted violations"] = now()
    for name in names or sorted([*read_json(zoo.INDEX), *zoo.ONNX]):
        if name not in results["models"]:
            results["models"][name] = checked(name)
            results["measured_at"][name] = now()
            write_json(OUT, results)
            print(name, flush=True)
    write_json(OUT, results)
    write_text(PAGE, page(results))


if __name__ == "__main__":
    main(sys.argv[1:])
