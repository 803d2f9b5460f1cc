"""What each recipe of INT8 keeps of a float model, one change at a time against the recipe before it.

``python benchmarks/recipes.py --data DIR`` quantizes models of the zoo by each recipe, steps every file over
held-out clips with its own states, and keeps SQNR of the valid answers against the float model and what was
lost in recipes.json, file by file; what is there is left as it is. Without --data it only writes recipes.md.
No time is measured: every recipe gives the same graph, except where a row says so. TensorRT's file is run
by ONNX Runtime, which computes what it means.

plain: each tensor from its minimum to its maximum. mse, percentile, entropy: other ranges. even: channels
equalised first (``edgepv.quantize.equalise``).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from measured_at import machine, now, told

from edgepv.base.console import Console
from edgepv.base.files import read_json, write_json, write_text
from edgepv.base.machine import device_facts
from edgepv.data.calibration import in_turns
from edgepv.data.truth import EvalClip, eval_clip
from edgepv.errors import EdgepvError
from edgepv.export.tensorrt import form
from edgepv.export.to_tflite import to_tflite
from edgepv.metrics.margins import expected_loss
from edgepv.metrics.stats import sqnr_db
from edgepv.metrics.tasks import figures
from edgepv.pipeline import evaluate
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.line import Ready, lowered, ready
from edgepv.pipeline.options import Options
from edgepv.pipeline.source import gather, load
from edgepv.quantize import equalise, equalise_litert, int8_litert, int8_onnx, int8_openvino, mixed
from edgepv.quantize.step import Calibration
from edgepv.runtimes import open_engine
from edgepv.stream import Stepper, by_file_names
from edgepv.types import Variant, decode, encode

HERE = Path(__file__).resolve().parent
OUT, PAGE = HERE / "recipes.json", HERE / "recipes.md"
MODELS = {
    "pv-conv-nano-handwash": True,
    "pv-conv-small-handwash": True,
    "pv-conv-nano-fight": True,
    "pv-conv-small-fight": True,
    "pv-c3d-handwash": True,
    "pv-c3d-valid-fight": True,
    "pv-graph-nano-fight": True,
    "pv-track-nano": False,
    "pv-restore-nano-x2": False,
    "pv-restore-nano-denoise": False,
}
"""Model, and whether it is shown the clips of --data; the others see those that come with the package."""
CLIPS = 24  # held-out clips, spread over labels and groups: SQNR needs few


@dataclass(frozen=True)
class Bench:
    """A model ready for INT8, and what it answers in float to held-out clips."""

    context: RunContext
    model: Ready
    held: tuple[EvalClip, ...]
    wanted: tuple[np.ndarray, ...]

    @property
    def aid(self) -> Calibration:
        """What sets the ranges of a file that lies beside the float one."""
        chosen = self.model.calibration
        last = chosen.last if chosen else ()
        return Calibration(self.model.lowered.base_folder, self.model.feeds, "digest", last)


Recipe = Callable[[Bench, Variant, Path], Variant]
"""Given (bench, float file in the folder, folder) -> an INT8 file in the folder."""


def bench(name: str, data: Path | None) -> Bench:
    """The model of this name."""
    options = Options(name, clips=str(data) if data else None)
    context, source = RunContext(options, Console(quiet=True)), load(options)
    clips = gather(options, source.spec)
    model = ready(context, lowered(context, source, clips), clips)
    base = model.lowered.base
    chosen = [clips.held_out[i] for i in in_turns(clips.held_out)[:CLIPS]]
    held = tuple(eval_clip(clip, base.spec) for clip in chosen)
    return Bench(context, model, held, tuple(played(base, model.lowered.base_folder, held)))


def played(variant: Variant, folder: Path, held: Sequence[EvalClip]) -> list[np.ndarray]:
    """Answers of a file on every clip, TensorRT's by ONNX Runtime."""
    engine = open_engine(variant, folder)
    try:
        return evaluate.play_clips(engine.infer, variant, held)
    finally:
        engine.close()


def score(given: Bench, variant: Variant, folder: Path) -> dict[str, Any]:
    """SQNR in dB of the valid answers, and what was lost: points of a classifier, else of its own figure."""
    base = given.model.lowered.base
    got = played(variant, folder, given.held)
    warmup = Stepper(lambda feeds: feeds, base.spec, base.stream).warmup
    both = [np.concatenate([a[warmup - 1 :].reshape(-1) for a in side]) for side in (given.wanted, got)]
    before, after = (figures(base.spec, rows, given.held, warmup) for rows in (given.wanted, got))
    row: dict[str, Any] = {"sqnr_db": round(sqnr_db(*both), 2)}
    if base.spec.task != "classification":
        return row | {"before": round(float(before.mean()), 4), "after": round(float(after.mean()), 4)}
    groups = [clip.group or str(i) for i, clip in enumerate(given.held)]
    loss = expected_loss(before, after, groups)
    right = {"right": [int((before > 0).sum()), int((after > 0).sum())]}
    if loss.why:
        return row | right | {"why": loss.why}
    return row | right | {"points": [round(v, 2) for v in (loss.points, loss.low, loss.high)]}


def ours(ranges: Any = "minmax", bits: Any = 8, engine: str = "onnxruntime") -> Recipe:
    """Our file for CPUs."""

    def make(given: Bench, base: Variant, folder: Path) -> Variant:
        step = int8_onnx.Step(ranges=ranges, weight_bits=bits)
        made = step(base, folder / "int8.onnx", replace(given.aid, folder=folder))
        return replace(made, engine=engine)

    return make


def partly(**asked: Any) -> Recipe:
    """Our file for CPUs with layers in float. asked: options of ``mixed``."""

    def make(given: Bench, base: Variant, folder: Path) -> Variant:
        return mixed.Step(**asked)(base, folder / "int8.onnx", replace(given.aid, folder=folder))

    return make


def nncf(given: Bench, base: Variant, folder: Path) -> Variant:
    """NNCF's file for OpenVINO."""
    return int8_openvino.Step()(base, folder / "int8.xml", replace(given.aid, folder=folder))


def tensorrt(given: Bench, base: Variant, folder: Path) -> Variant:
    """The file that TensorRT builds from."""
    out, feeds = folder / "trt.onnx", by_file_names(base, given.model.feeds)
    states = [s for s in (base.stream.states if base.stream else ()) if s.dtype == "float32"]
    pairs = [(base.inputs[s.name], {**base.inputs, **base.outputs}[s.output]) for s in states]
    form.quantize_for_tensorrt(folder / base.path, out, feeds, state_pairs=pairs)
    return replace(base, precision="int8", path=out.name)


def litert(recipe: Any, *, equal: bool) -> Recipe:
    """LiteRT's file, of the float one that its converter makes. equal: its channels equalised before."""

    def make(given: Bench, base: Variant, folder: Path) -> Variant:
        checkpoint = given.model.lowered.checkpoint
        assert checkpoint
        place, found = given.context.step(
            "to-tflite",
            {"source": base.sha256},
            ("torch", "litert-torch"),
            lambda tmp: encode(to_tflite(checkpoint, base, tmp / "model.tflite")),
        )
        source, aid = decode(Variant, found), replace(given.aid, folder=folder)
        shutil.copyfile(place / source.path, folder / source.path)
        if equal:
            twin = equalise.Step()(base, folder / "even.onnx", aid)
            step = equalise_litert.Step(base.path, twin.path, twin.sha256)
            source = step(replace(source, state_scales=twin.state_scales), folder / "even.tflite", aid)
        return int8_litert.Step(recipe)(source, folder / "int8.tflite", aid)

    return make


def even(recipe: Recipe) -> Recipe:
    """A recipe on equalised channels."""

    def make(given: Bench, base: Variant, folder: Path) -> Variant:
        aid = replace(given.aid, folder=folder)
        return recipe(given, equalise.Step()(base, folder / "even.onnx", aid), folder)

    return make


RECIPES: dict[str, Recipe] = {
    "onnxruntime, plain": ours(),
    "onnxruntime, mse": ours("mse"),
    "onnxruntime, percentile": ours("percentile"),
    "onnxruntime, entropy": ours("entropy"),
    "onnxruntime, even": even(ours()),
    "onnxruntime, even, mse": even(ours("mse")),
    "onnxruntime, even, 8 most sensitive in float": even(partly(keep=8)),
    "onnxruntime, even, in float to 30 dB": even(partly(min_sqnr_db=30.0)),
    "openvino, plain": ours(bits=7, engine="openvino"),
    "openvino, even": even(ours(bits=7, engine="openvino")),
    "openvino, nncf, plain": nncf,
    "openvino, nncf, even": even(nncf),
    "tensorrt, plain": tensorrt,
    "tensorrt, even": even(tensorrt),
    "litert, full, plain": litert("full", equal=False),
    "litert, full, even": litert("full", equal=True),
    "litert, conv, plain": litert("conv", equal=False),
    "litert, conv, even": litert("conv", equal=True),
}
"""Engine and recipe -> what makes the file; "plain" is the recipe before."""


def measure(name: str, data: Path | None, result: dict[str, Any], recipes: Sequence[str]) -> Iterator[None]:
    """Fill the rows of ``result`` with what is not there yet of ``recipes``, one at a time."""
    rows = result["rows"]
    missing = [recipe for recipe in recipes if recipe not in rows]
    given = bench(name, data) if missing else None
    for recipe in missing:
        assert given
        result["clips"] = len(given.held)
        base, source = given.model.lowered.base, given.model.lowered.base_folder
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            shutil.copyfile(source / base.path, folder / base.path)
            try:
                made = RECIPES[recipe](given, base, folder)
                rows[recipe] = score(given, made, folder) | {"commit": now()["commit"]}
                if "in float" in recipe:
                    rows[recipe] |= {"in_float": in_float(folder / base.path, made)}
            except EdgepvError as e:
                rows[recipe] = {"refused": str(e), "commit": now()["commit"]}
        print(f"{name}: {recipe}: {rows[recipe]}", flush=True)
        yield


def in_float(path: Path, made: Variant) -> list[int]:
    """[convolutions in float, all], those of one value a channel among them."""
    import onnx

    names = [n.name for n in onnx.load(path).graph.node if n.op_type in int8_onnx.CONVOLUTIONS]
    return [len(set(names) & set(made.scheme.kept_float if made.scheme else ())), len(names)]


def page(found: dict[str, Any]) -> str:
    """recipes.md."""
    lines = [
        "# Recipes for INT8, one change at a time",
        "",
        "Made by `python benchmarks/recipes.py` from benchmarks/recipes.json. SQNR of the valid answers "
        "against the float model in dB, states rolled by each file itself; for classifiers the expected "
        "points lost with their 95 % interval and clips right before and after, for others their own figure "
        "before and after (delta-avg; PSNR in dB). Recipe *even* changes numbers in a file, not its graph.",
        "",
    ]
    for name, result in found.items():
        at = result["measured_at"]
        lines += [
            f"## {name}, {result['clips']} clips",
            "",
            f"{machine(result['device'])}. {told(at)}",
            "",
            "| engine, recipe | SQNR dB | lost | at another commit |",
            "|---|---|---|---|",
            *(
                line(recipe, result["rows"][recipe], at["commit"])
                for recipe in RECIPES
                if recipe in result["rows"]
            ),
            "",
        ]
    return "\n".join(lines)


def line(recipe: str, row: dict[str, Any], usual: str) -> str:
    """A row of the table. usual: the commit of rows that name none."""
    own = row.get("commit", usual)
    other = "" if own == usual else own
    if "refused" in row:
        return f"| {recipe} | not made | {row['refused']} | {other} |"
    if "in_float" in row:
        recipe += " ({} of {} convolutions)".format(*row["in_float"])
    return f"| {recipe} | {row['sqnr_db']:.1f} | {lost(row)} | {other} |"


def lost(row: dict[str, Any]) -> str:
    """What a row says of accuracy."""
    if "before" in row:
        return f"{row['before']} to {row['after']}"
    counted = "{} to {} right".format(*row["right"])
    return "{:+.2f} ({:.2f} to {:.2f}), ".format(*row["points"]) + counted if "points" in row else counted


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with the labelled clips; measures what is missing")
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    parser.add_argument("--recipe", action="append", choices=RECIPES, help="default: all")
    args = parser.parse_args(argv)
    found = read_json(OUT) if OUT.is_file() else {}
    for name in args.only or MODELS if args.data else ():
        fresh = {"clips": 0, "device": encode(device_facts()), "measured_at": now(), "rows": {}}
        result = found.setdefault(name, fresh)
        data = args.data if MODELS[name] else None
        for _ in measure(name, data, result, args.recipe or [*RECIPES]):
            write_json(OUT, found)
    write_text(PAGE, page(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
