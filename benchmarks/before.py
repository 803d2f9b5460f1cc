"""What a chain before the model gains, on clips as they are, dark and noisy. Writes before.json.

    python benchmarks/before.py --data DATA      # a quarter of an hour on one core; see benchmarks/data.py

The float graphs of two classifiers of the zoo answer the test clips of their tasks, spoilt at the model's
size (edgepv.data.degrade) and then passed through each chain of `--before`, both, or the zoo's small
denoiser. That is no chain of the product: what it gains says whether it should be. Points are expected
ones, from margins of the same clips with the chain and without, over groups. Accuracy alone; what a chain
takes is told by `edgepv export`.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured_at import now

from edgepv.base.console import Console
from edgepv.base.files import read_json, write_json
from edgepv.data.before import clahe, denoise
from edgepv.data.clips import Clip, find_clips
from edgepv.data.degrade import CORRUPTIONS
from edgepv.data.frames import clean_frames, preprocess
from edgepv.data.truth import EvalClip
from edgepv.metrics.tasks import figures, groups_of, task_drop
from edgepv.model.checkpoint import build
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.evaluate import play_clips
from edgepv.pipeline.lower import lower
from edgepv.pipeline.options import Options
from edgepv.pipeline.source import load
from edgepv.runtimes.engine import open_engine
from edgepv.stream import Stepper
from edgepv.types import ModelSpec
from edgepv.zoo import checkpoint

RESULT = Path(__file__).parent / "before.json"
MODELS = ("pv-conv-small-fight", "pv-conv-nano-handwash")
RESTORER = "pv-restore-nano-denoise"
Pictures = list[np.ndarray]
Spoil = Callable[[np.ndarray, np.random.Generator], np.ndarray]
CONDITIONS: dict[str, Spoil] = {
    "as they are": lambda frame, rng: frame,
    "low light": CORRUPTIONS["low light"][1],
    "noise": CORRUPTIONS["noise"][1],
}
"""Name -> what is done to a frame of the model's size."""


def seen(clip: Clip, spec: ModelSpec, name: str) -> Pictures:
    """The frames (h, w, 3) uint8 BGR of a clip under a condition, of the model's size and rate."""
    rng = np.random.default_rng(zlib.crc32(f"{name} {clip.path.name}".encode()))
    return [CONDITIONS[name](frame, rng) for frame in clean_frames(clip.path, spec)]


def restored(spec: ModelSpec) -> Callable[[Pictures], Pictures]:
    """What the zoo's denoiser makes of a clip at the model's size, frame by frame with its memory."""
    known = checkpoint(RESTORER)
    shape = (1, 3, *spec.input.shape[-2:])
    sized = replace(
        known.spec,
        input=replace(known.spec.input, shape=shape),
        outputs=tuple(replace(o, shape=shape) for o in known.spec.outputs),
    )
    net: Any = build(replace(known, spec=sized))

    def run(frames: Pictures) -> Pictures:
        states, out = tuple(net.init_state().values()), []
        with torch.no_grad():
            for frame in frames:
                image, *states = net.step(torch.from_numpy(preprocess(frame, sized)), *states)
                shown = np.rint(255 * image[0].numpy().clip(0, 1)).astype(np.uint8).transpose(1, 2, 0)
                out.append(np.ascontiguousarray(shown[..., ::-1]))
        return out

    return run


def chains(spec: ModelSpec) -> dict[str, Callable[[Pictures], Pictures]]:
    """Name -> what it makes of a clip."""
    return {
        "clahe": lambda frames: [clahe(f) for f in frames],
        "denoise": lambda frames: [denoise(f) for f in frames],
        "denoise,clahe": lambda frames: [clahe(denoise(f)) for f in frames],
        RESTORER: restored(spec),
    }


def measured(name: str, clips: Sequence[Clip], conditions: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One classifier under each condition, with each chain and without."""
    source = load(Options(name))
    base, folder = lower(RunContext(Options(name), Console()), source, source.checkpoint)
    engine, spec = open_engine(base, folder), base.spec
    warmup = Stepper(engine.infer, spec, base.stream).warmup

    def margins(shown: Sequence[Pictures]) -> tuple[np.ndarray, list[EvalClip]]:
        given = [
            EvalClip(
                np.concatenate([preprocess(f, spec) for f in frames]),
                spec.labels.index(str(clip.label)),
                group=clip.group,
            )
            for clip, frames in zip(clips, shown, strict=True)
        ]
        return figures(spec, play_clips(engine.infer, base, given), given, warmup), given

    for condition in conditions:
        shown = [seen(clip, spec, condition) for clip in clips]
        before, given = margins(shown)
        gained = {}
        for chain, work in chains(spec).items():
            after, _ = margins([work(frames) for frames in shown])
            drop = task_drop(spec, before, after, 0.0, groups_of(given))
            gained[chain] = {
                "points": -drop.points,
                "low": -drop.high,
                "high": -drop.low,
                "why": drop.why,
                "top1": float((after > 0).mean()),
            }
        yield {
            "model": name,
            "condition": condition,
            "clips": len(clips),
            "groups": len({c.group for c in clips}),
            "top1": float((before > 0).mean()),
            "gained": gained,
        }
    engine.close()


def table(found: dict[str, Any]) -> str:
    """The rows of docs/before.md."""
    names = list(found["rows"][0]["gained"])
    head = f"| model | clips | top-1 without | {' | '.join(names)} |"
    lines = [head, f"|---|---|{'---|' * (len(names) + 1)}"]
    for row in found["rows"]:
        gains = [f"{g['points']:+.1f} ({g['low']:+.1f} to {g['high']:+.1f})" for g in row["gained"].values()]
        cells = [row["model"], row["condition"], f"{100 * row['top1']:.1f} %", *gains]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is not in the result yet, writing after each condition."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--out", type=Path, default=RESULT)
    a = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = read_json(a.out)["rows"] if a.out.is_file() else []
    done = {(row["model"], row["condition"]) for row in rows}
    for name in MODELS:
        clips = [c for c in find_clips(a.data, load(Options(name)).spec.labels) if c.split == "test"]
        for row in measured(name, clips, [c for c in CONDITIONS if (name, c) not in done]):
            rows.append(row)
            write_json(a.out, {"measured_at": now(), "rows": rows})


if __name__ == "__main__":
    main()
