"""What INT8 takes from detectors: AP50 of persons of every target's files, against the float file.

``python benchmarks/detection.py --data ../shared/data/detect`` reads YOLOX-nano and the built-in person
detector, does what an export does for each target, sets ranges on some of the pictures and judges on the
others; and makes INT8 in two ways that no target has. The pictures do not ship.

Which box just overlaps enough, and which just comes before another, is chance, and is drawn anew when a
picture is mirrored, moved or shrunk. So every picture is shown in ``VIEWS`` views too, in all of which it is
known where the persons are. Views are no new pictures: the units of every error stay the pictures, as
``edgepv.metrics.detection.jackknife`` leaves out one with all of its views. ``--simulate`` holds that against
pictures of known law. Writes detection.json and, of what was tried, detection.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from measured_at import now

from edgepv.base.console import Console
from edgepv.base.files import read_json, sha256, write_json, write_text
from edgepv.data.annotated import TrueBoxes
from edgepv.data.boxes import Detections, placed
from edgepv.data.truth import EvalClip, eval_clip
from edgepv.export.tensorrt import form
from edgepv.export.tensorrt.bias import correct_biases
from edgepv.export.tensorrt.spread import spread
from edgepv.measure.answers import clip_answers
from edgepv.metrics.detection import (
    Matches,
    alike,
    box_change,
    found_on,
    matches,
    mean_ap,
    rated,
    telling_rows,
)
from edgepv.metrics.stats import jackknifed, mean_drop, sqnr_db
from edgepv.metrics.tasks import change_of, figures, groups_of, task_drop
from edgepv.model.boxes import uneven_layers
from edgepv.pipeline.build import run_builder
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.line import lowered, ready
from edgepv.pipeline.options import Options
from edgepv.pipeline.source import gather, load
from edgepv.quantize import int8_onnx
from edgepv.quantize.step import Calibration
from edgepv.runtimes.engine import on_this_host, open_engine
from edgepv.stream import by_file_names
from edgepv.targets import target as find_target
from edgepv.types import ModelSpec, PairedDrop, Variant, decode, encode
from edgepv.zoo import detector

HERE = Path(__file__).resolve().parent
OUT, PAGE = HERE / "detection.json", HERE / "detection.md"
DETECTORS = ("yolox-nano", "person-detector")
MAX_DROP = 1.0  # points, as edgepv export has it
VIEWS = 6  # of each picture; the first is the picture as it is
SMALLEST = 0.85  # of a picture's side, in a view
IN_VIEWS = (
    "cpu onnxruntime-int8",
    "cpu openvino-int8-nncf",
    "mobile litert-int8-conv",
    "jetson tensorrt-int8-fp16",
)
"""Files that are judged in views: of these engines the best of YOLOX-nano, as the pictures alone have it."""
TRIED = {
    "throughout": "ONNX Runtime, all layers in INT8",
    "percentile": "ONNX Runtime, all but one in ten thousand values in range",
    "tensorrt plain": "TensorRT, ranges around 0",
    "tensorrt spread": "TensorRT, channels spread (`export/tensorrt/spread.py`)",
    "tensorrt corrected": "TensorRT, biases corrected (`export/tensorrt/bias.py`)",
    "jetson tensorrt-int8": "TensorRT, both: the target's file for weakly typed builds",
    "jetson tensorrt-int8-fp16": "TensorRT, both and float16: the target's file for strongly typed builds",
    "mobile litert-int8-full": "LiteRT, all of it: the target's file",
    "mobile litert-int8-conv": "LiteRT, convolutions: the target's file",
    "cpu openvino-int8-nncf": "OpenVINO by NNCF, the depthwise convolutions too: the target's file",
}
"""What was tried, and what the page says of it."""
HEAD = "| way | SQNR | AP50 | lost, pictures as they are | lost, in views of each |"
TARGETS = ("cpu", "mobile", "jetson")
Made = tuple[str, Variant, Path]
"""How a file is called in the results, the file, and the folder it lies in."""


def ways() -> dict[str, Callable[[Variant, Path, Calibration], Variant]]:
    """How INT8 may be made besides as the targets make it, by name."""

    def throughout(given: Variant, out: Path, aid: Calibration) -> Variant:
        plain = replace(given, spec=replace(given.spec, boxes=None))
        return replace(int8_onnx.Step()(plain, out, aid), spec=given.spec)

    return {
        "throughout": throughout,
        "percentile": int8_onnx.Step((), "percentile"),
        "tensorrt plain": for_tensorrt(spreads=False, corrects=False),
        "tensorrt spread": for_tensorrt(spreads=True, corrects=False),
        "tensorrt corrected": for_tensorrt(spreads=False, corrects=True),
    }


def for_tensorrt(*, spreads: bool, corrects: bool) -> Callable[[Variant, Path, Calibration], Variant]:
    """Q/DQ pairs where TensorRT has them, run by ONNX Runtime; the target spreads and corrects."""

    def make(given: Variant, out: Path, aid: Calibration) -> Variant:
        source, feeds = aid.folder / given.path, by_file_names(given, aid.feeds)
        kept, model = uneven_layers(source), form.prepare(source)
        if spreads:
            chosen = [n.name for n in model.graph.node if n.op_type == "Conv" and n.name not in kept]
            model = spread(model, feeds, chosen)
        source = out.with_suffix(".float.onnx")
        onnx.save(model, source)
        form.quantize_for_tensorrt(source, out, feeds, state_pairs=(), keep_float=kept)
        if corrects:
            quantized = onnx.load(out)
            correct_biases(quantized, form.prepare(source), feeds)
            onnx.save(quantized, out)
        return replace(given, precision="int8", path=out.name, sha256=sha256(out))

    return make


def made(
    file: Path, spec: Path, data: Path, folder: Path, wanted: Sequence[str]
) -> tuple[list[EvalClip], Iterator[Made]]:
    """(the held-out pictures, every file of a detector): the float one that was given comes first.

    wanted: names of the files that are made besides; none: all.
    """
    options = Options(str(file), spec=str(spec), clips=str(data))
    context, source = RunContext(options, Console(quiet=True)), load(options)
    clips = gather(options, source.spec)
    model = ready(context, lowered(context, source, clips), clips)
    held_out = [eval_clip(clip, model.lowered.base.spec) for clip in clips.held_out]

    def every() -> Iterator[Made]:
        base, given = model.lowered.base, model.lowered.base_folder / model.lowered.base.path
        yield "float", base, given.parent
        for name in wanted or TARGETS:
            target, _, only = name.partition(" ")
            if target not in TARGETS:
                continue
            here = folder / name.replace(" ", "-")
            here.mkdir()
            shutil.copy(given, here / given.name)
            mine = RunContext(replace(options, variant=only or None), Console(quiet=True))
            for variant in run_builder(mine, model, find_target(target), base, here).variants:
                yield f"{target} {variant.name}", on_this_host(variant), here
        aid = Calibration(given.parent, list(model.feeds), "")
        for name, make in ways().items():
            if not wanted or name in wanted:
                yield name, make(base, folder / f"{name}.onnx", aid), folder

    return held_out, every()


def answers(variant: Variant, folder: Path, clips: list[EvalClip]) -> list[np.ndarray]:
    """What a file answers to the pictures."""
    opened = open_engine(variant, folder)
    try:
        return clip_answers(opened.infer, variant, [c.frames for c in clips])
    finally:
        opened.close()


def measured(file: Path, spec: Path, data: Path, wanted: Sequence[str]) -> dict[str, Any]:
    """Every file of one detector, or the float one and those that are wanted."""
    table: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        shown, every = made(file, spec, data, Path(scratch), wanted)
        _, base, given = next(every)
        original = answers(base, given, shown)
        before, seen = figures(base.spec, original, shown, 1), None
        for name, variant, folder in every:
            got = answers(variant, folder, shown)
            table[name] = compared(variant.spec, original, got, before, shown)
            if name in IN_VIEWS:
                seen = seen or ap_of(base.spec, in_views(base, given, shown))
                here = in_views(variant, folder, shown)
                table[name]["views"] = judged_in_views(variant.spec, seen, here)
            print(file.stem, name, table[name], flush=True)
    return {"float": encode(rated(base.spec, original, shown, None)), "files": table}


def viewed(clip: EvalClip, spec: ModelSpec, draw: np.random.Generator) -> EvalClip:
    """A picture's views: as it is, then every second one mirrored, all shrunk and moved in the input."""
    assert spec.boxes is not None and isinstance(clip.truth, tuple)
    side, true = spec.input.shape[-1], clip.truth[0]
    left, top, wide, tall = placed(spec, clip.size)
    picture = clip.frames[0].transpose(1, 2, 0)[top : top + tall, left : left + wide]
    frames, truth = [], []
    for view in range(VIEWS):
        scale = draw.uniform(SMALLEST, 1) if view else 1.0
        width, height = round(scale * wide), round(scale * tall)
        x, y = (int(draw.integers(0, side - n + 1)) if view else 0 for n in (width, height))
        mirrored = view % 2 == 1
        canvas = np.full((side, side, 3), spec.boxes.pad, np.float32)
        small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        canvas[y : y + height, x : x + width] = small[:, ::-1] if mirrored else small
        boxes = true.boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [1, 0, 1, 0] if mirrored else true.boxes
        frames.append(canvas.transpose(2, 0, 1))
        truth.append(replace(true, boxes=(boxes * ([width, height] * 2) + [x, y] * 2) / side))
    return replace(clip, frames=np.stack(frames), truth=tuple(truth), size=(side, side))


Found = tuple[list[list[Detections]], list[tuple[TrueBoxes, ...]]]
"""Boxes found, and true ones, on every view of every picture."""


def in_views(variant: Variant, folder: Path, clips: list[EvalClip]) -> Found:
    """What a file finds in all views; the spec's pictures keep what they are padded with as it is."""
    found, truth, draw = [], [], np.random.default_rng(0)
    for clip in clips:
        views = viewed(clip, variant.spec, draw)
        found += found_on(variant.spec, answers(variant, folder, [views]), [views])
        truth.append(views.truth)
    return found, truth  # type: ignore[return-value]


def ap_of(spec: ModelSpec, one: Found) -> tuple[np.ndarray, np.ndarray]:
    """Figures of the pictures, whose mean is AP over their views in points: AP50, and smoothed.

    See ``edgepv.metrics.detection.ap_figures``.
    """
    rows = (by_overlaps(matches(spec, *one, at), at, len(one[1])) for at in (HALF, NEAR))
    plain, smooth = (100 * row for row in rows)
    return plain, smooth


def judged_in_views(spec: ModelSpec, seen: tuple[np.ndarray, np.ndarray], got: Found) -> dict[str, Any]:
    """The loss over all views, counted and smoothed; seen: the original's figures."""
    (before, smooth), (after, smoothed) = seen, ap_of(spec, got)
    change = 100 * box_change(got[1])
    return {
        "ap50": float(after.mean()) / 100,
        "drop": encode(mean_drop(before, after, max_drop=MAX_DROP, unit="points", change=change)),
        "smoothed": encode(mean_drop(smooth, smoothed, max_drop=MAX_DROP, unit="points")),
    }


def compared(
    spec: ModelSpec,
    original: list[np.ndarray],
    got: list[np.ndarray],
    before: np.ndarray,
    shown: list[EvalClip],
) -> dict[str, Any]:
    """One file's boxes against those of the original, and both against the true ones."""
    after, change = figures(spec, got, shown, 1), change_of(spec, shown)
    rows = [(telling_rows(spec, a, a), telling_rows(spec, b, a)) for a, b in zip(original, got, strict=True)]
    drop = task_drop(spec, before, after, MAX_DROP, groups_of(shown), change)
    return {
        "ap50": rated(spec, got, shown, None).value,
        "sqnr_db": sqnr_db(*(np.concatenate(side) for side in zip(*rows, strict=True))),
        "drop": encode(drop),
        "boxes": alike(*(found_on(spec, x, shown, None) for x in (original, got))),
    }


def yolox_spec(person: Path, out: Path) -> Path:
    """The spec of YOLOX-nano at ``out``: that of the person detector, larger, with 79 other labels."""
    labels = json.dumps(["person", *(f"other {i}" for i in range(1, 80))])
    text = person.read_text()
    for ours, theirs in (
        ("person-detector", "yolox-nano"),
        ('["person"]', labels),
        ("192, 192", "416, 416"),
        ("756, 6", "3549, 85"),
    ):
        text = text.replace(ours, theirs)
    write_text(out, text)
    return out


LAWS = {"small changes": (0.3, 0.01), "changes": (1.0, 0.0), "changes, and a loss": (1.0, 0.02)}
"""How large the changes of scores and overlaps are, and by how much every overlap falls."""
PICTURES, MANY = 82, 20_000
"""Pictures of a draw, and pictures that tell a law's true loss."""
HALF = np.array([0.5])
NEAR, WIDTH = np.linspace(0.3, 0.7, 9), 0.1
"""Overlaps over which AP is smoothed, and the width of the Gaussian kernel: no gate takes that yet."""
WAYS = (
    ("counted", 1, HALF, 200),
    ("counted", VIEWS, HALF, 100),
    ("smoothed", 1, NEAR, 60),
    ("smoothed", VIEWS, NEAR, 60),
)
"""What is made of a draw, views, overlaps, and draws."""


def drawn(
    draw: np.random.Generator, pictures: int, views: int, size: float, falls: float, at: np.ndarray = HALF
) -> tuple[Matches, Matches]:
    """Boxes of an original and of its variant in views of pictures, of known law.

    Half of the variance of all that changes from view to view, and by the variant, is that of the picture.
    at: overlaps at which boxes are right.
    """
    true = np.where(draw.random(pictures) < 0.45, 0, draw.geometric(0.35, pictures))
    false = draw.poisson(np.exp(1.2 + 0.5 * draw.normal(size=pictures)))
    clip = np.repeat(np.repeat(np.arange(pictures), true + false), views)
    real = np.concatenate([np.arange(t + f) < t for t, f in zip(true, false)]).repeat(views)
    once = len(real) // views
    worth = (0.7 * draw.normal(size=pictures)[clip[::views]] + 1.3 * draw.normal(size=once)).repeat(views)
    near = draw.normal(size=once).repeat(views)

    def moves() -> np.ndarray:
        own = draw.normal(size=(2, len(real)))
        every: np.ndarray = np.sqrt(0.5) * (draw.normal(size=(2, pictures))[:, clip] + own)
        return every

    view, change = moves(), moves()
    scores = np.where(real, worth + 0.5, worth - 2.2) + 0.4 * view[0]
    overlap = np.where(real, 1 / (1 + np.exp(-(1.2 + 0.45 * worth + 0.9 * near))), -9.0) + 0.05 * view[1]
    support, none = views * true.astype(float), np.zeros((len(at), len(real)), bool)

    def side(more: float, moved: float) -> Matches:
        hit = overlap + more * 0.06 * change[1] - moved >= at[:, None]
        return Matches("x", scores + more * 0.4 * change[0], clip, hit, none, support)

    return side(0.0, 0.0), side(size, falls)


def simulated() -> Iterator[dict[str, Any]]:
    """How often the interval holds the truth, and lets pass what loses just what is allowed, by views.

    And the same of AP that is smoothed over overlaps near a half.
    """
    for law, (size, falls) in LAWS.items():
        many = drawn(np.random.default_rng(0), MANY, VIEWS, size, falls)
        truth = 100 * float(np.subtract(*(mean_ap([side], np.ones(MANY))[0] for side in many)))
        for way, views, at, repeats in WAYS:
            draw = np.random.default_rng(1)
            drops = [judged(drawn(draw, PICTURES, views, size, falls, at), at, truth) for _ in range(repeats)]
            yield {
                "law": law,
                "way": way,
                "views": views,
                "draws": repeats,
                "lost": truth,
                "coverage": float(np.mean([d.low <= truth <= d.high for d in drops])),
                "passed_at_limit": float(np.mean([d.verdict == "pass" for d in drops])),
                "width": float(np.median([d.high - d.low for d in drops])),
            }


def judged(sides: tuple[Matches, Matches], at: np.ndarray, max_drop: float) -> PairedDrop:
    """The loss of a draw. AP smoothed over overlaps moves by any amount."""
    change = 100 * PICTURES / sides[0].support.sum() if len(at) == 1 else None
    rows = (100 * by_overlaps([side], at, PICTURES) for side in sides)
    return mean_drop(*rows, max_drop=max_drop, unit="points", change=change)


def by_overlaps(table: Sequence[Matches], at: np.ndarray, count: int) -> np.ndarray:
    """The jackknife's figures of ``count`` pictures of AP50, or of AP averaged over overlaps near a half."""
    weight = np.exp(-0.5 * ((at - 0.5) / WIDTH) ** 2)
    weight /= weight.sum()
    return jackknifed(lambda kept: float(mean_ap(table, kept, len(at)) @ weight), count)


def table(found: dict[str, Any]) -> str:
    """The rows of docs/tasks.md: the files of ``IN_VIEWS``."""
    lines = [
        "| detector | file | AP50 | lost, pictures as they are | lost, in views of each | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for detector_name in DETECTORS:
        for name in IN_VIEWS:
            file = found[detector_name]["files"][name]
            plain = decode(PairedDrop, file["drop"])
            verdict = file.get("views", file)["drop"]["verdict"]
            lines.append(
                f"| {detector_name} | {name} | {100 * file['ap50']:.1f} % | {told(plain)} "
                f"| {told_in_views(file)} | {verdict} |"
            )
    return "\n".join(lines) + "\n"


def page(found: dict[str, Any]) -> str:
    """detection.md: what was tried."""
    lines = [
        "# INT8 of detectors, what was tried",
        "",
        "Made by `python benchmarks/detection.py` from detection.json. SQNR against the float model,",
        "of the rows that say something; AP50 of persons and what is lost of it, on pictures as they are",
        f"and over {VIEWS} views of each, with 95 % intervals.",
    ]
    for name in DETECTORS:
        lines += ["", f"## {name}", "", HEAD, "|---|---|---|---|---|"]
        known = found[name]["files"]
        for key in [key for key in TRIED if "sqnr_db" in known.get(key, {})]:
            what, file = TRIED[key], known[key]
            lines.append(
                f"| {what} | {file['sqnr_db']:.1f} dB | {100 * file['ap50']:.1f} % "
                f"| {told(decode(PairedDrop, file['drop']))} | {told_in_views(file)} |"
            )
    return "\n".join(lines) + "\n"


def told_in_views(file: dict[str, Any]) -> str:
    """What a file loses over all views, where that was measured."""
    return told(decode(PairedDrop, file["views"]["drop"])) if "views" in file else "not measured"


def told(drop: PairedDrop) -> str:
    """ "0.4 points (-1.6 to 2.3)"."""
    return f"{drop.figures()[0]} points ({drop.interval()})"


def main() -> None:
    """Simulate or measure, and write."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, help="with images/, models/, persons.csv")
    arguments.add_argument("--only", choices=DETECTORS, help="measure this one, leave the other as it is")
    arguments.add_argument("--file", action="append", default=[], help="and of it this file, as it is called")
    arguments.add_argument("--simulate", action="store_true")
    given = arguments.parse_args()
    if given.simulate:
        rows = list(simulated())
        write_json(OUT, read_json(OUT) | {"simulated": rows})
    if given.data:
        measure(given.data, given.only, given.file)


def measure(data: Path, only: str | None, wanted: Sequence[str]) -> None:
    """Every file of both detectors, into detection.json."""
    shipped = detector("person-detector")
    assert shipped is not None
    with tempfile.TemporaryDirectory() as scratch:
        yolox = yolox_spec(shipped[1], Path(scratch) / "yolox.toml")
        files = (data / "models" / "yolox_nano_416.onnx", yolox), shipped
        for name, (file, spec) in zip(DETECTORS, files, strict=True):
            if only in (None, name):
                row, known = measured(file, spec, data, wanted), read_json(OUT)
                if wanted:
                    own = {key: one | {"measured_at": now()} for key, one in row["files"].items()}
                    row["files"] = known[name]["files"] | own
                write_json(OUT, known | ({} if wanted else {"measured_at": now()}) | {name: row})
    write_text(PAGE, page(read_json(OUT)))


if __name__ == "__main__":
    main()
