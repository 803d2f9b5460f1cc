"""What interaction is worth, and what pv-graph costs: ``python benchmarks/graph.py --data DIR``.

* physics: error of a forecast of simulated discs after 1, 5 and 10 frames, and foretold collisions, against
  straight lines and against the same core without interaction;
* points: the core on tracked body points, with and without interaction;
* video: pv-graph against pv-conv, the same network without interaction and a 2-D network whose answers are
  averaged over the frames; with 8, 16 and 32 particles and one set of weights;
* latency: one frame in ONNX Runtime, by number of particles, beside pv-conv, interleaved on one thread;
* int8: how close the INT8 file stays to float, logits and positions apart.

Networks come out of the cache of ``edgepv.zoo.training.graph`` and are trained
first where they are not there.
Each part replaces its own section of graph.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured_at import now
from safetensors.torch import load_file

from edgepv import zoo
from edgepv.base.files import read_json, write_json
from edgepv.base.machine import device_facts
from edgepv.data.calibration import calibration_set, rolled_feeds
from edgepv.data.clips import Clip
from edgepv.export.cost import gflops_per_frame
from edgepv.export.to_onnx import lower
from edgepv.measure.latency import interleaved, noise_feeds
from edgepv.metrics.stats import paired_drop, sqnr_db, wilson
from edgepv.model.checkpoint import build
from edgepv.quantize.int8_onnx import Step
from edgepv.quantize.step import Calibration
from edgepv.runtimes import open_engine
from edgepv.stream import Stepper, roll
from edgepv.types import Variant, encode
from edgepv.zoo import TASKS
from edgepv.zoo.pv_graph import Bodies, PvGraph
from edgepv.zoo.training import graph
from edgepv.zoo.training.command import default_cache
from edgepv.zoo.training.data import read_manifest
from edgepv.zoo.training.physics import Film, film

OUT = Path(__file__).resolve().with_suffix(".json")
AHEAD = (1, 5, 10)
SEEDS = (0,)
"""Seeds of the networks on body points; they are small, so several can be trained."""


def physics(args: argparse.Namespace) -> dict[str, Any]:
    """Forecasts of new worlds, with as many discs as in training and with twice as many."""
    nets: dict[str, Bodies | None] = {"constant velocity": None}
    for name, interact in (("core", True), ("core without interaction", False)):
        nets[name], _ = graph.physics("nano", interact=interact, cache=args.cache, tick=say)
    trained = graph.PHYSICS.world
    tuning = film(trained, np.random.default_rng((0, 3)), films=200, frames=11)
    rows: dict[str, Any] = {}
    for count in (trained.count, 2 * trained.count):
        world = replace(trained, count=count)
        tape = film(world, np.random.default_rng((0, 2)), films=300, frames=11)
        rows[f"{count} discs"] = {
            name: {"rmse": errors(net, tape), "collisions": foretold(net, tape, tuning)}
            for name, net in nets.items()
        }
    return {"films": 300, "world": encode(trained), "plan": encode(graph.PHYSICS), "worlds": rows}


def errors(net: Bodies | None, tape: Film) -> dict[str, Any]:
    """RMSE of positions in image heights after 1, 5 and 10 frames; 95 % bootstrap interval over the films."""
    far, _ = graph.forecasts(net, tape, frames=max(AHEAD))
    rng, found = np.random.default_rng(0), {}
    for ahead in AHEAD:
        square = (far[:, ahead - 1] ** 2).mean(1)
        drawn = np.sqrt(rng.choice(square, (1000, len(square))).mean(1))
        low, high = np.percentile(drawn, [2.5, 97.5])
        found[f"+{ahead}"] = {
            "value": float(np.sqrt(square.mean())),
            "low": float(low),
            "high": float(high),
            "median": float(np.median(far[:, ahead - 1])),
        }
    return found


def foretold(net: Bodies | None, tape: Film, tuning: Film) -> dict[str, Any] | None:
    """Collisions foretold one frame ahead, from every frame; None for a core that knows one disc only.

    The log odds above which a collision is foretold are those with the best F1 on the films for tuning.
    """
    if net is not None and not net.core.interact:
        return None
    touch, real = ahead(net, tuning)
    i, j = np.triu_indices(touch.shape[1], 1)
    cuts = np.unique(np.quantile(touch[:, i, j], np.linspace(0.98, 1, 400)))
    best = max(cuts, key=lambda cut: graph.collisions(touch - cut, real)["f1"])
    touch, real = ahead(net, tape)
    return graph.collisions(touch - best, real) | {"log_odds": round(float(best), 3)}


def ahead(net: Bodies | None, tape: Film) -> tuple[np.ndarray, np.ndarray]:
    """Foretold and real collisions of the next frame, from every frame of every film: (n, K, K) each."""
    begin, after = (slice(None), slice(0, -1)), (slice(None), slice(1, None))
    where, speeds = (x[begin].reshape(-1, *x.shape[2:]) for x in (tape.position, tape.velocity))
    charge = np.repeat(tape.charge, tape.position.shape[1] - 1, 0)
    real = tape.touched[after].reshape(-1, *tape.touched.shape[2:])
    still = np.zeros_like(real)
    pairs = Film(
        np.stack([where, where], 1), np.stack([speeds, speeds], 1), charge, np.stack([still, real], 1)
    )
    return graph.forecasts(net, pairs, frames=1)[1], real


def points(args: argparse.Namespace) -> dict[str, Any]:
    """Test top-1 on body points, with and without interaction, over the answers of all seeds together."""
    data = graph.read_points(args.data)
    truth, right = data.label[~data.train], {}
    for name, interact in (("core", True), ("core without interaction", False)):
        runs = [
            graph.points(data, interact=interact, seed=seed, cache=args.cache, tick=say) for seed in SEEDS
        ]
        right[name] = [bool(r) for _, table, _ in runs for r in table.argmax(1) == truth]
    return {
        "rows": {name: _share(sum(found), len(found)) for name, found in right.items()},
        "lost_without_interaction": encode(
            paired_drop(right["core"], right["core without interaction"], max_drop=1.0)
        ),
        "seeds": list(SEEDS),
        "plan": encode(graph.POINT_PLAN),
    }


def _share(hits: int, n: int) -> dict[str, Any]:
    low, high = wilson(hits, n)
    return {"value": hits / n, "low": low, "high": high, "hits": hits, "n": n}


def video(args: argparse.Namespace) -> dict[str, Any]:
    """Every comparison on the test clips of interact and fight; the released networks by their results."""
    sizes: dict[str, Any] = {}
    for size in args.size:
        alone = graph.video(size, args.data, interact=False, cache=args.cache, tick=say)
        sizes[size] = {
            task: compared(size, task, released(size, task), net, args.data)
            for task, (net, _) in alone.items()
        }
    return sizes


def compared(size: str, task: str, net: PvGraph, alone: PvGraph, data: Path) -> dict[str, Any]:
    """A released network beside all it is compared with, on the same clips.

    alone: without interaction. "map only": the same weights with the word of the particles left out.
    """
    cards, mine = zoo.HERE / "cards", f"pv-graph-{size}"
    results = {n: read_json(cards / f"{n}-{task}.json") for n in (mine, "pv-conv-nano", "pv-conv-small")}
    tests = {name: result["test"] for name, result in results.items()}
    tests[f"{mine} without interaction"] = graph.tested(alone, data, size, task)
    torch.nn.init.zeros_(net.head.weight)
    tests[f"{mine} map only"] = graph.tested(net, data, size, task)
    rows = {name: _share(sum(_right(test)), len(_right(test))) for name, test in tests.items()}
    average = read_json(cards / "baselines.json")["frame_average"][task]["accuracy"]
    rows["frame average"] = _headline(average)
    whole = graph.build(size, len(TASKS[task]), graph.SIDES[size], True).eval()
    return {
        "rows": rows,
        "lost_against": {
            name: encode(paired_drop(_right(test), _right(tests[mine]), max_drop=1.0))
            for name, test in tests.items()
            if name != mine
        },
        "by_particles": {k: _headline(row) for k, row in results[mine]["particles"].items()},
        "gflops": {mine: gflops_per_frame(whole, graph.spec(size, task))}
        | {n: conv_gflops(n, task) for n in ("pv-conv-nano", "pv-conv-small")},
        "params": {mine: sum(p.numel() for p in alone.parameters())},
    }


def _headline(row: dict[str, Any]) -> dict[str, Any]:
    return {k: row[k] for k in ("value", "low", "high", "n")}


def _right(test: dict[str, Any]) -> list[bool]:
    return [int(np.argmax(clip["scores"])) == clip["label"] for clip in test["clips"]]


def conv_gflops(model: str, task: str) -> float:
    """Of one new frame of a pv-conv."""
    checkpoint = zoo.checkpoint(f"{model}-{task}")
    return gflops_per_frame(build(checkpoint), checkpoint.spec)


def latency(args: argparse.Namespace) -> dict[str, Any]:
    """Time of one frame in ONNX Runtime on one thread, float, by number of particles."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, engines = Path(scratch), {}
        for size in args.size:
            net = graph.build(size, 2, graph.SIDES[size], True).eval()
            for k in graph.COUNTS:
                net.particles = k
                spec = graph.spec(size, "fight", particles=k)
                variant = lower(net, spec, folder / f"{size}{k}.onnx")
                engines[f"pv-graph-{size} K={k}"] = _opened(variant, folder)
        for model in ("pv-conv-nano", "pv-conv-small"):
            checkpoint = zoo.checkpoint(f"{model}-fight")
            variant = lower(build(checkpoint), checkpoint.spec, folder / f"{model}.onnx")
            engines[model] = _opened(variant, folder)
        rows = interleaved(engines, threads=1)
    return {"rows": {name: encode(row) for name, row in rows.items()}, "device": encode(device_facts())}


def _opened(variant: Variant, folder: Path) -> tuple[Any, list[Any]]:
    engine = open_engine(variant, folder, threads=1)
    return engine, [noise_feeds(engine.infer, variant)]


def int8(args: argparse.Namespace) -> dict[str, Any]:
    """INT8 against float in ONNX Runtime on test clips, each on its own states: SQNR of every answer."""
    return {
        size: {
            task: _quantized(released(size, task), size, task, args.data)
            for task in graph.recipe_of(size).tasks
        }
        for size in args.size
    }


def released(size: str, task: str) -> PvGraph:
    """The network with the weights that are in the zoo."""
    net = graph.build(size, len(TASKS[task]), graph.SIDES[size], True)
    net.load_state_dict(load_file(zoo.HERE / "weights" / f"pv-graph-{size}-{task}.safetensors"))
    return net.eval()


def _quantized(net: PvGraph, size: str, task: str, data: Path) -> dict[str, Any]:
    """Calibrated on 24 training clips of all labels, measured on 12 test clips."""
    spec = graph.spec(size, task)
    learning = [s for s in read_manifest(data) if s.split == "train" and s.task == task]
    chosen = learning[:: max(1, len(learning) // 24)]
    clips = calibration_set([Clip(s.path, TASKS[task][s.label], s.group) for s in chosen], spec)
    _, tests = graph.held_clips(data, size, task)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = lower(net, spec, folder / "float.onnx")
        feeds = rolled_feeds(Stepper(open_engine(base, folder).infer, spec, base.stream), clips, spec)
        wanted = _answers(base, folder, tests[:: len(tests) // 12])
        rows = {}
        for name, kept in (("every convolution", ()), ("edges in float", _edges(folder / base.path))):
            small = Step(keep_float=kept)(
                base, folder / "int8.onnx", Calibration(folder, feeds, clips.digest)
            )
            rows[name] = _closeness(wanted, _answers(small, folder, tests[:: len(tests) // 12]))
    return rows


def _edges(path: Path) -> tuple[str, ...]:
    """The description by edges: its fixed filters, and all they need.

    A filter in float is not enough: what stands before it would be quantized for its sake, and a small
    number that keeps a division from 0 / 0 is 0 in eight bits.
    """
    import onnx

    kept, needed = [], set()
    for node in reversed(onnx.load(path).graph.node):
        fixed = node.op_type == "Conv" and any("edges" in name for name in node.input)
        if fixed or needed & set(node.output):
            needed |= set(node.input)
            kept.append(node.name)
    return tuple(kept)


def _closeness(wanted: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> dict[str, Any]:
    """Of INT8 answers to float ones; positions by how far particles stray from their mean place."""
    a, b = (x["particles"][..., :2] - wanted["particles"][..., :2].mean(0) for x in (wanted, got))
    return {
        "logits_sqnr_db": sqnr_db(wanted["logits"], got["logits"]),
        "position_sqnr_db": sqnr_db(a, b),
        "position_error": float(np.abs(a - b).mean()),
        "same_answer": float((wanted["logits"].argmax(1) == got["logits"].argmax(1)).mean()),
        "frames": len(wanted["logits"]),
    }


def _answers(variant: Variant, folder: Path, clips: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Logits (n, classes) and particles (n, K, 7) after every valid frame."""
    engine = open_engine(variant, folder)
    stepper = Stepper(engine.infer, variant.spec, variant.stream)
    rows = [
        {name: np.array(out[name]) for name in ("logits", "particles")}
        for clip in clips
        for _, out in roll(stepper, clip)
        if stepper.valid
    ]
    engine.close()
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def say(row: dict[str, Any]) -> None:
    """One row of a training that was not in the cache."""
    print(graph.line(row), flush=True)


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "physics": physics,
    "points": points,
    "video": video,
    "latency": latency,
    "int8": int8,
}
BY_SIZE = ("video", "int8")
"""Parts with a section for each size, which replaces its own only."""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv, clips and points")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="trainings")
    parser.add_argument("--part", choices=list(PARTS), action="append", help="default: all")
    parser.add_argument("--size", choices=list(graph.SIDES), action="append", help="default: all")
    args = parser.parse_args(argv)
    args.size = args.size or list(graph.SIDES)
    torch.set_num_threads(1)
    for part in args.part or PARTS:
        found = PARTS[part](args)
        rows = read_json(OUT) if OUT.is_file() else {}
        if part in BY_SIZE:
            found = rows.get(part, {}) | found
        stamps = rows.get("measured_at", {}) | {part: now()}
        write_json(OUT, {**rows, part: found, "measured_at": stamps})
    return 0


if __name__ == "__main__":
    sys.exit(main())
