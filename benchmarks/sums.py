"""INT8 under both ways in which x86 CPUs add: what eight and seven bits in the weights lose.

``python benchmarks/sums.py --data DIR`` quantizes classifiers, steps them over held-out clips and keeps SQNR
against the float model and clips lost and won in sums.json, model by model; what is there is left as it is.
Without --data it only writes sums.md from the committed results. "fast" sums are those of this CPU: without
VNNI they saturate in 16 bits. "exact" is ONNX Runtime's session.x64quantprecision, and what VNNI and Arm do.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
from measured_at import now, told

from edgepv.base.console import Console
from edgepv.base.files import read_json, write_json, write_text
from edgepv.base.machine import device_facts
from edgepv.base.optional import need
from edgepv.data.truth import EvalClip, eval_clip
from edgepv.metrics.stats import sqnr_db
from edgepv.metrics.tasks import figures
from edgepv.pipeline import evaluate
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.line import lowered, ready
from edgepv.pipeline.options import Options
from edgepv.pipeline.source import gather, load
from edgepv.quantize import int8_onnx, int8_openvino
from edgepv.quantize.step import Calibration
from edgepv.runtimes import Engine, open_engine
from edgepv.runtimes.engines import ort
from edgepv.stream import Stepper
from edgepv.types import Variant, encode

HERE = Path(__file__).resolve().parent
OUT, PAGE = HERE / "sums.json", HERE / "sums.md"
MODELS = (
    "pv-conv-nano-handwash",
    "pv-conv-small-handwash",
    "pv-c3d-handwash",
    "pv-conv-nano",
    "pv-conv-small",
)
PROVIDERS = ("CPUExecutionProvider",)
BITS: tuple[Literal[7, 8], ...] = (8, 7)


def measure(name: str, data: Path) -> dict[str, Any]:
    """SQNR in dB and clips (lost, won) of every way to quantize and to add."""
    own = str(data) if "handwash" in name else None
    options = Options(name, clips=own)
    context, source = RunContext(options, Console(quiet=True)), load(options)
    clips = gather(options, source.spec)
    model = ready(context, lowered(context, source, clips), clips)
    held = [eval_clip(clip, model.lowered.base.spec) for clip in clips.held_out]
    wanted = play(open_engine(model.lowered.base, model.lowered.base_folder), model.lowered.base, held)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for how, made, engine in ways(model, Path(scratch)):
            got = play(engine, made, held)
            both = [np.concatenate([a.reshape(len(a), -1) for a in side]) for side in (wanted, got)]
            lost, won = changes(model.lowered.base, held, wanted, got)
            rows.append({**how, "sqnr_db": sqnr_db(*both), "lost": lost, "won": won})
            print(f"{name}: {rows[-1]}", flush=True)
    return {"clips": len(held), "device": encode(device_facts()), "rows": rows}


def ways(model: Any, scratch: Path) -> Iterator[tuple[dict[str, Any], Variant, Engine]]:
    """Every file and engine, and what to call it."""
    aid = Calibration(model.lowered.base_folder, model.feeds, "digest")
    for bits in BITS:
        made = int8_onnx.Step(weight_bits=bits)(model.lowered.base, scratch / f"{bits}.onnx", aid)
        for sums in ("fast", "exact"):
            file = (scratch / made.path).read_bytes()
            session = ort.session(file, made.path, 1, PROVIDERS, exact_sums=sums == "exact")
            yield (
                {"file": "ours", "bits": bits, "engine": "onnxruntime", "sums": sums},
                made,
                ort.OrtEngine(made, session),
            )
        how = {"file": "ours", "bits": bits, "engine": "openvino", "sums": "fast"}
        yield how, made, open_engine(replace(made, engine="openvino"), scratch)
    for bits in BITS:
        with nncf_bits(bits):
            made = int8_openvino.Step()(model.base, scratch / f"{bits}.xml", aid)
        how = {"file": "nncf", "bits": bits, "engine": "openvino", "sums": "fast"}
        yield how, made, open_engine(made, scratch)


def nncf_bits(bits: int) -> Any:
    """While it lasts, NNCF quantizes weights to so many bits."""
    nncf = need("nncf", extra="compress")
    whole = nncf.quantize

    def changed(*a: Any, advanced_parameters: Any, **k: Any) -> Any:
        if bits == 8:
            advanced_parameters.overflow_fix = nncf.OverflowFix.DISABLE
        return whole(*a, advanced_parameters=advanced_parameters, **k)

    return mock.patch.object(nncf, "quantize", changed)


def play(engine: Engine, variant: Variant, held: Sequence[EvalClip]) -> list[np.ndarray]:
    """Answers on every clip; closes the engine."""
    try:
        return evaluate.play_clips(engine.infer, variant, held)
    finally:
        engine.close()


def changes(base: Variant, held: Sequence[EvalClip], wanted: list[Any], got: list[Any]) -> tuple[int, int]:
    """Clips that only the float model, and that only the other got right."""
    warmup = Stepper(lambda feeds: feeds, base.spec, base.stream).warmup
    before, after = (figures(base.spec, rows, held, warmup) for rows in (wanted, got))
    right, still = before > 0, after > 0
    return int((right & ~still).sum()), int((still & ~right).sum())


def page(found: dict[str, Any]) -> str:
    """sums.md."""
    lines = [
        "# INT8 on CPUs that add in 16 bits",
        "",
        "Made by `python benchmarks/sums.py` from benchmarks/sums.json. SQNR of all valid answers against "
        "the float model in dB, states rolled by each file itself; clips that only the float model / only "
        "the INT8 file got right. Fast sums saturate on an x86 without VNNI; exact ones are those of VNNI "
        "and Arm. edgepv ships ours with eight bits and exact sums for ONNX Runtime, and those with seven "
        "bits for OpenVINO.",
        "",
    ]
    for name, result in found.items():
        device = result["device"]
        lines += [
            f"## {name}, {result['clips']} clips",
            "",
            f"{device['cpu']}, {' '.join(device['flags'])}. {told(result['measured_at'])}",
            "",
            "| file | bits in the weights | engine | sums | SQNR dB | lost / won |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {r['file']} | {r['bits']} | {r['engine']} | {r['sums']} | {r['sqnr_db']:.1f} | "
            f"{r['lost']} / {r['won']} |"
            for r in result["rows"]
        ]
        lines.append("")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with manifest.csv; measures what is missing")
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    args = parser.parse_args(argv)
    found = read_json(OUT) if OUT.is_file() else {}
    for name in args.only or MODELS if args.data else ():
        if name not in found:
            found[name] = measure(name, args.data) | {"measured_at": now()}
            write_json(OUT, found)
    write_text(PAGE, page(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
