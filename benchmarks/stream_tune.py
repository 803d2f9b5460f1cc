"""What a stream keeps of its sliding window where it sees far more than its clips, as it is and tuned.

    python benchmarks/stream_tune.py r2plus1d_18 --data DIR --epochs 10
    python benchmarks/stream_tune.py r2plus1d_18 --time

A net of train_clipnets.py. The test clips of a take follow each other without a gap, so they are joined to
takes again, and the takes, in an order drawn once, to one video. Of every clip one window (the first that the
net's strides allow) is answered by the net on that window, as trained and with the edge repeated where it
pads time with zeros, and by its stream, as it is and tuned by --stream-tune on the training clips. Each is
held against the window as trained. X3D-S squeezes over its clip; its stream squeezes over the clip that ends
now, and is tuned as such a net. What is in stream_tune.json is left as it is; --again measures it anew.
--time takes CPU times instead: of window and stream in float32, on one thread, every engine in turns; it
wants a quiet machine. Writes stream_tune.json and stream_tune.md.
"""

from __future__ import annotations

import argparse
import copy
import functools
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import measured_at
import numpy as np
import torch
import train_clipnets
from torch import Tensor, nn
from torch.nn import functional as F

from edgepv.base.files import read_json, sha256, write_json, write_text
from edgepv.data.split import Sample
from edgepv.export.to_onnx import lower
from edgepv.export.to_tflite import to_tflite
from edgepv.measure.latency import on_noise
from edgepv.metrics.margins import margin_drop, margins
from edgepv.metrics.stats import accuracy
from edgepv.model.checkpoint import build
from edgepv.model.spec import at_size
from edgepv.quantize import stream_tune
from edgepv.quantize.step import Training
from edgepv.runtimes.engine import open_engine
from edgepv.stream import convert
from edgepv.stream.rolled import Rolled
from edgepv.types import Checkpoint, Latency, Rewrite, decode, encode
from edgepv.types import PairedDrop as Drop
from edgepv.zoo.training.command import default_cache
from edgepv.zoo.training.data import read_manifest
from edgepv.zoo.training.score import frames_of

HERE = Path(__file__).resolve()
OUT, PAGE = HERE.with_suffix(".json"), HERE.with_suffix(".md")
MAX_DROP = 2.0
AT_ONCE = 40
"""Answers of a stream that are computed from one stretch of video: what memory allows."""
CALLS, BUDGET_S = 201, 600.0
"""Timed calls of each engine, and the seconds after which fewer have to do."""


@dataclass(frozen=True)
class Joined:
    """Test clips as one video (N, C, H, W). begins: the first frame of the window of each clip's answer."""

    video: Tensor
    begins: tuple[int, ...]
    truth: tuple[int, ...]
    groups: tuple[str, ...]


def checkpoint(name: str, size: int) -> Checkpoint:
    """The committed net, for frames of this size."""
    weights = train_clipnets.WEIGHTS / f"{name}.safetensors"
    return Checkpoint(str(weights), sha256(weights), _builder(name), at_size(train_clipnets.spec(name), size))


def as_streamed(given: Checkpoint, name: str) -> Checkpoint:
    """The net as its stream computes it, for long video: itself, unless it squeezes over its clip."""
    return replace(given, builder=_builder(train_clipnets.AS_STREAM.get(name, name)))


def _builder(name: str) -> str:
    return f"{HERE.parent / 'train_clipnets.py'}:{name}"


def clips_of(data: Path, split: str) -> list[Sample]:
    """Hand-washing clips in the order they were filmed in."""
    samples = [s for s in read_manifest(data) if s.task == "handwash" and s.split == split]
    return sorted(samples, key=lambda s: s.path)


def joined(given: Checkpoint, data: Path, rolled: Rolled) -> Joined:
    """The test clips that the stream answers in the middle of their video."""
    takes: dict[str, list[Sample]] = {}
    for sample in clips_of(data, "test"):
        takes.setdefault(f"{sample.path.parent}/{sample.path.stem.rpartition('_')[0]}", []).append(sample)
    order = list(takes)
    np.random.default_rng(0).shuffle(order)
    samples = [s for take in order for s in takes[take]]
    shown = [frames_of(s.path, given.spec) for s in samples]
    ends = np.cumsum([len(frames) for frames in shown])
    begins, which = [], []
    for begin in rolled.begins(int(ends[-1])):
        clip = int(np.searchsorted(ends, begin, side="right"))
        if begin + given.spec.frames <= ends[clip] and clip not in which:
            begins.append(begin)
            which.append(clip)
    truth, groups = (tuple(getattr(samples[i], key) for i in which) for key in ("label", "group"))
    return Joined(torch.from_numpy(np.concatenate(shown)), tuple(begins), truth, groups)


@torch.no_grad()
def by_window(module: nn.Module, test: Joined, frames: int) -> np.ndarray:
    """(clips, classes): each window answered by itself."""
    windows = (test.video[b : b + frames].transpose(0, 1)[None] for b in test.begins)
    return torch.cat([module(window) for window in windows]).numpy()


@torch.no_grad()
def by_stream(rolled: Rolled, test: Joined) -> np.ndarray:
    """(clips, classes): the same windows, each answered with the frames around it."""
    length, found = rolled.frames(AT_ONCE), {}
    first = rolled.begins(length)[0]
    for start in range(0, len(test.video), AT_ONCE * rolled.stride):
        part = test.video[start : start + length]
        if any(start + first <= b < start + length for b in test.begins) and len(rolled.begins(len(part))):
            answers = rolled.answers(part)
            found.update(zip((start + b for b in rolled.begins(len(part))), answers))
    return torch.stack([found[b] for b in test.begins]).numpy()


def edge_repeated(module: nn.Module) -> nn.Module:
    """A copy in which convolutions pad time with their first and last row."""

    def pad(layer: Any, given: tuple[Tensor, ...], rows: int) -> tuple[Tensor]:
        return (F.pad(given[0], (0, 0, 0, 0, rows, rows), mode="replicate"),)

    module = copy.deepcopy(module)
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d) and (rows := int(layer.padding[0])):
            layer.padding = (0, *layer.padding[1:])
            layer.register_forward_pre_hook(lambda m, x, rows=rows: pad(m, x, rows))  # type: ignore[misc]
    return module


def tuned(
    given: Checkpoint, teacher: Checkpoint, train: Sequence[Sample], epochs: int, out: Path
) -> nn.Module:
    """The module after --stream-tune; read from ``out`` where it lies there already."""
    if not out.is_file():
        shown = [frames_of(s.path, given.spec) for s in train]
        stream_tune.Step(epochs)(given, out, Training(clips=shown, teacher=teacher))
    return build(replace(given, weights=str(out), sha256=sha256(out)))


def held(answers: np.ndarray, window: np.ndarray, test: Joined) -> dict[str, Any]:
    """What a result keeps of one row, against the window as trained."""
    before, after = margins(window, test.truth), margins(answers, test.truth)
    drop = margin_drop(before, after, max_drop=MAX_DROP, groups=test.groups)
    return {
        "accuracy": encode(accuracy(test.truth, answers, train_clipnets.LABELS, test.groups)),
        "drop": encode(drop),
        "same": float((answers.argmax(1) == window.argmax(1)).mean()),
    }


def measured(name: str, args: argparse.Namespace, known: dict[str, Any]) -> dict[str, Any]:
    """The rows of one net, those that are known left as they are; written after each."""
    given = checkpoint(name, args.size)
    module, streamed = build(given), as_streamed(given, name)
    cost = convert(module, given.spec).explanation
    video = functools.cache(lambda: joined(given, args.data, Rolled(build(streamed), given.spec)))
    window = functools.cache(lambda: by_window(module, video(), given.spec.frames))

    def stream(other: nn.Module) -> np.ndarray:
        return by_stream(Rolled(other, given.spec), video())

    def tuned_stream() -> np.ndarray:
        weights = args.cache / f"stream-tune-{name}-{args.size}-{args.epochs}.safetensors"
        return stream(tuned(streamed, given, clips_of(args.data, "train"), args.epochs, weights))

    rows: dict[str, Callable[[], np.ndarray]] = {
        "window": window,
        "stream": lambda: stream(build(streamed)),
        "window, edge repeated": lambda: by_window(edge_repeated(module), video(), given.spec.frames),
        f"stream, tuned {args.epochs} epochs": tuned_stream,
    }
    for row, answer in rows.items():
        if args.again or row not in known:
            known[row] = held(answer(), window(), video()) | {"measured_at": measured_at.now()}
            print(f"{name} {row}: {told(known[row])}", flush=True)
            keep(name, args.size, known)
    known["window"]["gflops_frame"] = cost.flops_clip / 1e9
    known["stream"]["gflops_frame"] = cost.flops_frame / 1e9
    keep(name, args.size, known)
    return known


def forms(given: Checkpoint) -> Iterator[tuple[str, str, Checkpoint]]:
    """(row, form, checkpoint): what is timed. A flat clip is a window without convolutions over time."""
    yield "window", "clip", given
    yield "window", "flat", replace(given, rewrite=Rewrite("flat", given.spec.input))
    spec = convert(build(given), given.spec).spec
    yield "stream", "stream", replace(given, spec=spec, rewrite=Rewrite("stream", given.spec.input))


def timed(given: Checkpoint) -> dict[str, dict[str, Any]]:
    """Row -> engine and form -> time of one new frame, in float32 on one thread, all of them in turns."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, opened, of = Path(scratch), {}, {}
        for row, form, one in forms(given):
            base = lower(build(one), one.spec, folder / f"{form}.onnx")
            variants = [base, replace(base, engine="openvino")]
            if form != "clip":  # LiteRT has no fast convolution over time: see stream.md
                variants.append(to_tflite(one, base, folder / f"{form}.tflite"))
            for variant in variants:
                of[name := f"{variant.engine} {form}"] = row
                opened[name] = open_engine(variant, folder, threads=1), variant
        found = on_noise(opened, threads=1, calls=CALLS, budget_s=BUDGET_S)
    return {row: {name: encode(found[name]) for name in of if of[name] == row} for row in set(of.values())}


def keep(name: str, size: int, rows: dict[str, Any]) -> None:
    """Write the results so far."""
    results = read_json(OUT) if OUT.exists() else {}
    results[f"{name} {size}px"] = rows
    write_json(OUT, results)
    write_text(PAGE, page(results))


def told(row: dict[str, Any]) -> str:
    """A row in words."""
    drop = decode(Drop, row["drop"])
    lost = f"{drop.figures()[0]} ({drop.interval()})"
    right, same = (f"{100 * share:.1f} %" for share in (row["accuracy"]["value"], row["same"]))
    return f"{right} right, loses {lost}, {same} the same label"


def cost(rows: dict[str, Any]) -> str:
    """What a result for every frame costs window and stream, in words."""
    if "gflops_frame" not in rows["window"]:
        return "What a result for every frame costs: not measured."
    clip, frame = (rows[row]["gflops_frame"] for row in ("window", "stream"))
    ratio = f"{clip:.2f} GFLOPs by window, {frame:.3f} by stream (x{clip / frame:.1f})"
    text = f"A result for every frame takes {ratio}."
    if "latency" not in rows["window"]:
        return f"{text} CPU time: not measured."
    window, stream = (fastest(rows[row]["latency"]) for row in ("window", "stream"))
    pair = stream[1].against(window[0])
    share = f", {pair.cpu} of it" if pair and pair.cpu else ""
    why = window[1].inconclusive or stream[1].inconclusive
    busy = f" Inconclusive: {why}." if why else ""
    return (
        f"{text} CPU time on one thread: {window[1].cpu_ms:.2f} ms by window ({window[0]}), "
        f"{stream[1].cpu_ms:.2f} ms by stream ({stream[0]}){share}.{busy} "
        f"{measured_at.stamp(rows['window']['timed_at'])}"
    )


def fastest(times: dict[str, Any]) -> tuple[str, Latency]:
    """(engine and form, time) that takes the least CPU time."""
    found = {name: decode(Latency, one) for name, one in times.items()}
    return min(found.items(), key=lambda one: one[1].cpu_ms or one[1].p50_ms)


def page(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [f"# A stream and its window\n\n{__doc__.split(chr(10) * 2)[2].strip()}"]
    for net, rows in results.items():
        lines += [f"\n## {net}\n", "| answered by | right | points lost | same label as the window | n |"]
        lines.append("|---|---|---|---|---|")
        for name, row in rows.items():
            drop = decode(Drop, row["drop"])
            right, same = (f"{100 * share:.1f} %" for share in (row["accuracy"]["value"], row["same"]))
            lost = f"{drop.figures()[0]} ({drop.interval()}), {drop.verdict}"
            lines.append(f"| {name} | {right} | {lost} | {same} | {drop.n} |")
        lines.append(f"\n{cost(rows)}")
        lines.append(f"\n{measured_at.stamp(next(iter(rows.values()))['measured_at'])}")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(train_clipnets.BUILDERS))
    parser.add_argument("--data", type=Path, default=train_clipnets.DATA)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--size", type=int, default=train_clipnets.SIZE)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--time", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    known = read_json(OUT).get(f"{args.name} {args.size}px", {}) if OUT.exists() else {}
    if not args.time:
        measured(args.name, args, {} if args.again else known)
    elif "stream" not in known:
        parser.error(f"{args.name} at {args.size} px has no result yet: run it without --time before")
    else:
        for row, times in timed(checkpoint(args.name, args.size)).items():
            known[row] |= {"latency": times, "timed_at": measured_at.now()}
        keep(args.name, args.size, known)
    return 0


if __name__ == "__main__":
    sys.exit(main())
