"""What each compression method buys alone, and what the search finds together.

Four nets trained on the hand-washing clips: pv-c3d, pv-conv-small, R(2+1)D-18 and X3D-S (the last two by
train_clipnets.py). For each: engine alone, form alone (streamed), INT8 alone, pruning alone, low rank alone,
and ``edgepv search`` over all of them; then everything that matters timed in turns in one run, beside torch
eager. Accuracy is counted on the whole test split; the winner was chosen on one half of it, the other half
is reported apart. An interval is over groups of clips where it says in how many they come; else it takes
clips as independent, which those of one take are not, and is too narrow. Nets that are in the result file are
left as they are; --again NAME measures one anew.

Run it on a quiet machine: python benchmarks/compress.py --data DIR
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from measured_at import machine, now, told

from edgepv.base.console import Console
from edgepv.base.files import read_json, write_json, write_text
from edgepv.base.machine import device_facts
from edgepv.errors import EdgepvError
from edgepv.measure.latency import interleaved, noise_feeds
from edgepv.metrics.stats import counted
from edgepv.model.checkpoint import build
from edgepv.pipeline.options import Options
from edgepv.runtimes.engine import open_engine
from edgepv.runtimes.engines.eager import EagerEngine
from edgepv.search.answer import search
from edgepv.search.finals import Result
from edgepv.search.space import Candidate, Space, methods_of
from edgepv.search.trial import SearchRequest, TrialRunner
from edgepv.types import Variant, decode, encode

HERE = Path(__file__).resolve().parent
OUT = HERE / "compress.json"
EPOCHS = 4
MULTIPLE = 8
RANK = 0.9


@dataclass(frozen=True)
class Net:
    """A trained net. limit_ms: p50 that the search is asked for."""

    name: str
    options: Options
    limit_ms: float


def nets(data: Path) -> list[Net]:
    """The four, with their clips."""
    shown = {"clips": str(data), "max_drop": 1.0, "steps": {"multiple": MULTIPLE}, "force": True}

    def ours(name: str) -> Options:
        builder, weights = f"{HERE / 'train_clipnets.py'}:{name}", HERE / "weights" / f"{name}.safetensors"
        return Options(builder, weights=str(weights), spec=str(weights.with_suffix(".toml")), **shown)

    return [
        Net("pv-c3d", Options("pv-c3d", **shown), 1.0),
        Net("pv-conv-small", Options("pv-conv-small-handwash", **shown), 2.0),
        Net("R(2+1)D-18, quarter width", ours("r2plus1d_18"), 20.0),
        Net("X3D-S", ours("x3d_s"), 6.0),
    ]


def alone(space: Space) -> Iterator[Candidate]:
    """The model as it was written, and one method at a time; sizes are left to the search."""
    for candidate in dict.fromkeys(space.single_methods()):
        if candidate.size == space.sizes[0] and candidate.given.get("low_rank", RANK) == RANK:
            yield candidate


def path(space: Space, winner: Candidate) -> list[Candidate]:
    """From the model as it was written to the winner: engine, form, precision, then the rest."""
    start = space.start()
    engine = replace(start, variant=f"{winner.engine}-fp32")
    form = replace(engine, form=winner.form)
    precision = replace(
        form, variant=winner.variant, steps=tuple(one for one in winner.steps if one[0] == "keep_float")
    )
    return list(dict.fromkeys([start, engine, form, precision, winner]))


def measure(net: Net, seconds: float, console: Console) -> dict[str, Any]:
    """Everything about one net."""
    question = SearchRequest(net.options, net.limit_ms, 50, EPOCHS, EPOCHS)
    ground = TrialRunner(question, console)
    rows: dict[str, Any] = {}
    for candidate in alone(ground.space):
        rows[candidate.name] = row(ground, candidate)
        console.say(f"{net.name}: {candidate.name}: {rows[candidate.name].get('points', 'not measured')}")
    try:
        result, _ = search(question, console, seconds=seconds)
    except EdgepvError as e:
        return {"limit_ms": net.limit_ms, "rows": rows, "why": str(e), "device": encode(device_facts())}
    winner = result.winner.found.candidate
    for candidate in (winner, *path(ground.space, winner)):
        if candidate.name not in rows:
            rows[candidate.name] = row(ground, candidate)
    times = timed(ground, [c for c in rows.values() if "candidate" in c])
    for name, found in rows.items():
        found["latency"] = times.get(name)
    return {
        "limit_ms": net.limit_ms,
        "rows": rows,
        "winner": winner.name,
        "path": [c.name for c in path(ground.space, winner)],
        "torch": times["torch"],
        "search": summary(result),
        "device": encode(device_facts()),
    }


def row(ground: TrialRunner, candidate: Candidate) -> dict[str, Any]:
    """One candidate on the whole test split; why not, if it cannot be made."""
    held = ground.clips.held_out
    try:
        variant, folder = ground.make(candidate, EPOCHS)
        after, before = ground.margins(variant, folder, held), ground.original(held)
    except EdgepvError as e:
        return {"why": str(e), "method": methods_of(candidate, ground.space.start())}
    drop = ground.lost(before, after, held)
    net = ground.features(candidate)
    return {
        "candidate": encode(candidate),
        "method": methods_of(candidate, ground.space.start()),
        "top1": float((after > 0).mean()),
        "points": drop.points,
        "drop": encode(drop),
        "gflops_per_clip": sum(net[:4]) if net else None,
        "variant": encode(variant),
        "folder": str(folder),
    }


def timed(ground: TrialRunner, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """p50 and percentiles of every row and of torch eager, in turns, one thread."""
    turns: dict[str, Any] = {"torch": torch_eager(ground)}
    for one in rows:
        variant = decode(Variant, one.pop("variant"))
        engine = open_engine(variant, Path(one.pop("folder")), threads=1)
        turns[decode(Candidate, one["candidate"]).name] = (engine, [noise_feeds(engine.infer, variant)])
    return {name: encode(latency) for name, latency in interleaved(turns, threads=1, calls=150).items()}


def torch_eager(ground: TrialRunner) -> tuple[EagerEngine, list[dict[str, np.ndarray]]]:
    """The original in torch: a whole clip for every new frame, or its own step."""
    import torch

    from edgepv.export.to_onnx import stream_spec

    torch.set_num_threads(1)
    checkpoint = ground.source.checkpoint
    assert checkpoint
    module, spec = build(checkpoint), checkpoint.spec
    stream = stream_spec(module, spec)
    engine = EagerEngine(module, spec, stream)
    rng = np.random.default_rng(0)
    feed = {spec.input.name: rng.standard_normal(spec.input.shape, np.float32)}
    feed |= {s.name: rng.standard_normal(s.shape, np.float32) for s in (stream.states if stream else ())}
    return engine, [feed]


def summary(result: Result) -> dict[str, Any]:
    """What of a search's answer is kept here."""
    return {
        "trials": encode(result.trials),
        "failures": encode(result.failures),
        "finalists": [
            {"name": f.found.candidate.name, "p50_ms": f.latency.p50_ms, "drop": encode(f.found.drop)}
            for f in result.finalists
        ],
        "final_drop": encode(result.final_drop),
        "final_top1": list(result.final_top1),
        "looks": result.looks,
        "seconds": result.seconds,
    }


def best(net: dict[str, Any], methods: tuple[str, ...], within: float) -> tuple[str, dict[str, Any]] | None:
    """The fastest row of one of the ``methods`` that lost at most ``within`` points."""
    rows = [
        (name, r)
        for name, r in net["rows"].items()
        if r.get("latency") and r["method"] in methods and r["points"] <= within
    ]
    return min(rows, key=lambda r: r[1]["latency"]["p50_ms"]) if rows else None


SINGLE = {
    "as written": ("none",),
    "engine": ("engine",),
    "form": ("form",),
    "INT8": ("quant", "engine+quant"),
    "pruning": ("prune",),
    "low rank": ("rank",),
}


def table(found: dict[str, Any]) -> str:
    """compress.md."""
    lines = ["# What each method buys alone, and together", "", str(__doc__).split("\n\n")[1], ""]
    for name, net in found.items():
        lines += [f"## {name}", "", *_net(net), ""]
    missing = [net.name for net in nets(Path()) if net.name not in found]
    if missing:
        lines += [f"Not measured: {', '.join(missing)}.", ""]
    return "\n".join(lines) + "\n"


def _net(net: dict[str, Any]) -> Iterator[str]:
    if "why" in net:
        yield f"The search found nothing: {net['why']}"
        return
    start = best(net, ("none",), 100.0)
    assert start
    base, torch_ms = start[1]["latency"]["p50_ms"], net["torch"]["p50_ms"]
    n = net["torch"]["n"]
    yield told(net["measured_at"])
    yield ""
    yield (
        f"One thread, {machine(net['device'])}, n = {n} calls each, in turns. torch eager {torch_ms:.2f} ms "
        "for every new frame. The fastest of each method within 1 point (point estimate) on the test split:"
    )
    yield ""
    head = ("method", "candidate", "p50 / p99 ms", "against torch", "against as written", "GFLOP a clip")
    yield "| " + " | ".join((*head, "points lost")) + " |"
    yield "|---|---|---|---|---|---|---|"
    singles = [(label, best(net, methods, 1.0)) for label, methods in SINGLE.items()]
    for label, one in singles:
        if one is None:
            yield f"| {label} | none within 1 point | | | | | |"
        else:
            yield _cells(label, one, torch_ms, base)
    joint = (net["winner"], net["rows"][net["winner"]])
    yield _cells("**search**", joint, torch_ms, base)
    yield ""
    fastest = min(one[1]["latency"]["p50_ms"] for _, one in singles if one)
    faster = fastest / joint[1]["latency"]["p50_ms"]
    name, plain = min(unchanged(net), key=lambda r: r[1]["latency"]["p50_ms"])
    over = plain["latency"]["p50_ms"] / joint[1]["latency"]["p50_ms"]
    yield (
        f"The search's winner is x{faster:.2f} as fast as the best single method, and x{over:.2f} as fast as "
        f"the fastest that changes neither width, rank nor size ({name}), which a plain export makes."
    )
    yield _split(net, torch_ms)
    drop = net["search"]["final_drop"]
    yield (
        f"On the half of the test clips that chose nothing it loses {_lost(drop)}; search of "
        f"{net['search']['seconds']:.0f} s, {len(net['search']['trials'])} candidates scored."
    )


def unchanged(net: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The timed rows within 1 point that keep the widths of the original."""
    rows = [(name, r) for name, r in net["rows"].items() if r.get("latency") and r["points"] <= 1.0]
    return [(n, r) for n, r in rows if "cut " not in n and "rank " not in n]


def _split(net: dict[str, Any], torch_ms: float) -> str:
    """How the whole saving divides between the methods, pulled in this order."""
    parts, before = [], torch_ms
    for name in net["path"]:
        now = net["rows"][name]["latency"]["p50_ms"]
        parts.append(f"x{before / now:.2f} ({name})")
        before = now
    return f"From torch, a method at a time: {', then '.join(parts)}; x{torch_ms / before:.1f} in all."


def _cells(label: str, one: tuple[str, dict[str, Any]], torch_ms: float, base: float) -> str:
    name, r = one
    t = r["latency"]
    tail = "not measured" if t["p99_ms"] is None else f"{t['p99_ms']:.2f}"
    cells = (
        label,
        name,
        f"{t['p50_ms']:.2f} / {tail}",
        f"x{torch_ms / t['p50_ms']:.1f}",
        f"x{base / t['p50_ms']:.2f}",
        f"{r['gflops_per_clip']:.2f}" if r["gflops_per_clip"] else "not measured",
        _lost(r["drop"]),
    )
    return "| " + " | ".join(cells) + " |"


def _lost(drop: dict[str, Any]) -> str:
    many = counted(drop["n"], drop.get("groups"))
    text = f"{drop['points']:.1f} ({drop['low']:.1f} to {drop['high']:.1f}, n {many}), {drop['verdict']}"
    return text + (f", {drop['clips_needed']} clips would tell" if drop["clips_needed"] else "")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv and clips")
    parser.add_argument("--minutes", type=float, default=8.0, help="of search for each net")
    parser.add_argument("--again", action="append", default=[], metavar="NAME")
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    args = parser.parse_args()
    found = read_json(OUT) if OUT.is_file() else {}
    for net in nets(args.data.resolve()):
        if net.options.weights and not Path(net.options.weights).is_file():
            print(f"{net.name}: not measured, it has no weights (see train_clipnets.py)", flush=True)
            continue
        if (net.name in found and net.name not in args.again) or (args.only and net.name not in args.only):
            continue
        begun = time.monotonic()
        found[net.name] = measure(net, 60 * args.minutes, Console()) | {"measured_at": now()}
        print(f"{net.name}: {time.monotonic() - begun:.0f} s", flush=True)
        write_json(OUT, found)
        write_text(OUT.with_suffix(".md"), table(found))
    write_text(OUT.with_suffix(".md"), table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
