"""Which numbers of channels a target rewards: the time of a convolution against its width, measured.

Engines pad channels to the width of their vectors, so a curve has steps: a width between two steps costs
what the next step costs, and keeps fewer channels. A multiple pays when rounding up to it is free.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from edgepv.base import cache
from edgepv.base.console import Console
from edgepv.base.files import sha256
from edgepv.base.machine import machine, versions
from edgepv.base.optional import need
from edgepv.data.calibration import CalibrationSet
from edgepv.measure.latency import alone, interleaved
from edgepv.model.weights import save
from edgepv.pipeline.build import run_builder
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.line import Lowered, Ready
from edgepv.pipeline.lower import lower
from edgepv.pipeline.options import Options
from edgepv.pipeline.source import Source
from edgepv.search.space import variants_of
from edgepv.search.trial import engines
from edgepv.targets import target as find_target
from edgepv.types import Checkpoint, ModelSpec, TensorSpec, Variant, decode, encode

WIDTHS = tuple(range(16, 65, 4))
MULTIPLES = (4, 8, 16, 32)
"""Channels that engines may pad to: the lanes of vectors of 128 to 1024 bits in float."""
FREE = 0.03
"""Share of the time that rounding up may cost and still count as free."""
SIDE = 28
"""Pixels: the middle stages of a model for pictures of 112 or 224."""
LAYERS = 4
"""Convolutions in the block: beside them the first layer and the head do not count."""
CALLS = 120
"""Of each width, for its median."""
HEADER = ("variant", *(f"{w} ch" for w in WIDTHS[::3]), "multiple")


@dataclass(frozen=True)
class Curve:
    """p50 in ms of a block of convolutions at each width, on one thread; multiple: the largest that pays."""

    variant: str
    widths: tuple[int, ...]
    p50_ms: tuple[float, ...]
    multiple: int


def block(width: int = WIDTHS[0]) -> Any:
    """Four 3x3 convolutions of one width over a picture of 28 x 28, and a linear layer of two outputs."""
    nn = need("torch", extra="compress").nn
    layers: list[Any] = [nn.Conv2d(3, width, 3, 1, 1), nn.ReLU()]
    for _ in range(LAYERS):
        layers += [nn.Conv2d(width, width, 3, 1, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))


def measured(target: str, console: Console) -> tuple[Curve, ...]:
    """The curve of every variant of a target on this machine; from the cache if it was measured before."""
    names = variants_of(find_target(target), "auto")
    key = {
        "step": "widths",
        "target": target,
        "machine": machine(),
        "tools": versions(("onnxruntime", "openvino", "nncf", "ai-edge-litert", "ai-edge-quantizer")),
    }
    result = cache.cached(key, lambda folder: encode(_measure(target, names, folder, console)))[1]
    return tuple(decode(Curve, row) for row in result)


def best(target: str, console: Console) -> int:
    """A multiple that every variant of a target can live with: the largest that pays for one of them."""
    console.say(f"measuring which widths pay on {target} (once on this machine)")
    return max(curve.multiple for curve in measured(target, console))


def _measure(target: str, names: Sequence[str], folder: Path, console: Console) -> list[Curve]:
    blocks: dict[str, dict[int, tuple[Variant, Path]]] = {name: {} for name in names}
    for width in console.track(WIDTHS, "building one block for each width"):
        for variant in _built(target, width, folder / str(width)):
            blocks[variant.name][width] = (variant, folder / str(width))
    return [_curve(name, by_width) for name, by_width in blocks.items() if len(by_width) == len(WIDTHS)]


def _built(target: str, width: int, folder: Path) -> tuple[Variant, ...]:
    """Every variant of a block, with INT8 ranges set on noise: its time does not depend on the values."""
    folder.mkdir()
    spec = ModelSpec(
        name=f"block-{width}",
        input=TensorSpec("frame", (1, 3, SIDE, SIDE), "NCHW"),
        labels=("a", "b"),
        frames=1,
        fps=Fraction(10),
        colour="rgb",
        mean=(0.45, 0.45, 0.45),
        std=(0.225, 0.225, 0.225),
    )
    need("torch", extra="compress").manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "block.safetensors"
        save(block(width), weights)
        checkpoint = Checkpoint(str(weights), sha256(weights), f"{__name__}:block", spec)
        source = Source(spec, checkpoint)
        context = RunContext(Options(targets=(target,)), Console(quiet=True))
        base, place = lower(context, source, checkpoint)
        rng = np.random.default_rng(0)
        feeds = tuple({"frame": rng.standard_normal((1, 3, SIDE, SIDE), np.float32)} for _ in range(8))
        noise = CalibrationSet((), "noise")
        model = Ready(Lowered(source, checkpoint, base, place, None, ()), noise, feeds, ())
        (folder / "model.onnx").write_bytes((place / base.path).read_bytes())
        base = replace(base, path="model.onnx")
        return run_builder(context, model, find_target(target), base, folder).variants


def _curve(name: str, built: dict[int, tuple[Variant, Path]]) -> Curve:
    """Time all widths of one variant, taking turns."""
    with alone(), engines(*built.values()) as opened:
        feed = {"frame": np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE), np.float32)}
        turns = {str(width): (engine, [feed]) for width, engine in zip(built, opened)}
        times = interleaved(turns, threads=1, calls=CALLS)
    p50 = {width: times[str(width)].p50_ms for width in built}
    return Curve(name, tuple(p50), tuple(p50.values()), pays(p50))


def pays(p50_ms: dict[int, float]) -> int:
    """The largest multiple that widths can be rounded up to at no cost, on average; else the smallest."""
    best = MULTIPLES[0]
    for multiple in MULTIPLES[1:]:
        up = {w: -(-w // multiple) * multiple for w in p50_ms}
        costs = [p50_ms[up[w]] / p50_ms[w] for w in p50_ms if up[w] in p50_ms and up[w] != w]
        if costs and sum(costs) / len(costs) <= 1 + FREE:
            best = multiple
    return best


def rows(curves: Sequence[Curve]) -> list[list[str]]:
    """Cells of a table: p50 in ms at every third width."""
    return [[c.variant, *(f"{t:.3f}" for t in c.p50_ms[::3]), str(c.multiple)] for c in curves]


def picture(curves: Sequence[Curve], out: Path) -> None:
    """Time against width, a line for each variant, relative to its widest."""
    need("matplotlib", extra="compress").use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for curve in curves:
        relative = [t / curve.p50_ms[-1] for t in curve.p50_ms]
        axes.plot(curve.widths, relative, marker="o", ms=3, label=f"{curve.variant}: {curve.multiple}")
    axes.set(xlabel="channels", ylabel=f"time, as a share of that at {WIDTHS[-1]} channels", xticks=WIDTHS)
    axes.legend(fontsize=8, title="variant: multiple that pays")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)
    pyplot.close(figure)
