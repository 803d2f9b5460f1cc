"""The gate of accuracy held against known truth: does its interval hold it, how wide is it, does it let pass?

``python benchmarks/gate.py --simulate`` draws clips with margins and changes of known law, many times, and
writes gate.json: coverage of the 95 % interval, how often a variant at the very limit passes, and the median
width beside that of counting (``edgepv.metrics.stats.paired_drop``). ``--data DIR`` does what an export
does to the built-in classifiers and keeps the margins of every INT8 variant on the held-out clips, model by
model; what is there is left as it is. Without an option it writes gate.md from the committed results.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from measured_at import machine, now, told
from scipy.special import ndtr

from edgepv.base.console import Console
from edgepv.base.files import read_json, write_json, write_text
from edgepv.base.machine import device_facts
from edgepv.data.truth import eval_clip
from edgepv.metrics.margins import expected_loss, margin_drop, margins
from edgepv.metrics.stats import counted, paired_drop
from edgepv.metrics.tasks import figures, groups_of
from edgepv.pipeline import evaluate
from edgepv.pipeline.build import run_builder
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.line import lowered, ready
from edgepv.pipeline.options import Options
from edgepv.pipeline.source import gather, load
from edgepv.runtimes import Engine, open_engine
from edgepv.runtimes.engine import on_this_host
from edgepv.stream import Stepper
from edgepv.targets import target as find_target
from edgepv.types import PairedDrop, Variant, encode
from edgepv.zoo import INDEX

HERE = Path(__file__).resolve().parent
OUT, PAGE = HERE / "gate.json", HERE / "gate.md"
CLIPS = {24: 6, 52: 8, 146: 16, 400: 20}
"""Clips -> groups they come in, where they do."""
LOSSES = (0.0, 0.5, 1.0, 2.0)  # points
NOISE_DB = (10, 15, 20, 25, 40)
REPEATS = 150
COUNTED = 20
"""Draws of a row that are counted too: the width of that hardly varies."""
TRUTH = 400_000
"""Clips that tell a law's true loss."""
WITHIN = math.sqrt(0.5)
"""What clips of a group share: half of the variance of logits and of changes."""
SMOOTH = 0.15
"""Of the spread of margins: at this width the bias of the step is below 0.5 % in every law."""
NEAR = 0.2
"""Of the spread of margins: clips nearer to 0 are asked whether another label runs up."""


@dataclass(frozen=True)
class Law:
    """How a net's logits fall on its clips: the shape of the margins, and the number of labels.

    clipped: its variants keep no logit beyond so many times the root of the mean square of all.
    """

    name: str
    labels: int = 2
    clipped: float = math.inf

    def logits(self, rng: np.random.Generator, runs: int, clips: int, groups: Groups | None) -> np.ndarray:
        """(runs, clips, labels) logits of the original; label 0 is the true one."""
        if self.labels > 2:
            logits = shared(rng, rng.normal(size=(runs, clips, self.labels)), groups)
            logits[..., 0] += 1.8
            return logits
        shape = shared(rng, rng.normal(size=(runs, clips, 1)), groups)[..., 0]
        margin = {
            "normal": lambda: 1 + 1.6 * shape,
            "skewed": lambda: 4 - np.exp(0.9 * shape + 0.6),
            "two humps": lambda: np.where(rng.random(shape.shape) < 0.8, 3 + 1.2 * shape, shape - 1),
            "nearly all right": lambda: 3 + 1.5 * shape,
        }[self.name]()
        return np.stack([margin / 2, -margin / 2], -1)


LAWS = (
    Law("normal"),
    Law("skewed"),
    Law("two humps"),
    Law("nearly all right"),
    Law("five labels", 5),
    Law("ten labels", 10),
    Law("five labels, clipped", 5, clipped=2.0),
)


@dataclass(frozen=True)
class Groups:
    """Groups that clips come in. unequal: the k-th has 1 / k of the clips of the first, as cameras have."""

    count: int
    unequal: bool = False

    def of(self, clips: int) -> np.ndarray:
        """(clips,) the group of each."""
        ends = np.cumsum(1 / np.arange(1, self.count + 1) if self.unequal else np.ones(self.count))
        return np.searchsorted(ends / ends[-1], (np.arange(clips) + 0.5) / clips)


def shared(rng: np.random.Generator, alone: np.ndarray, groups: Groups | None) -> np.ndarray:
    """``alone`` (runs, clips, values), or with half of its variance from what clips of a group share."""
    if groups is None:
        return alone
    runs, clips, values = alone.shape
    return WITHIN * alone + WITHIN * rng.normal(size=(runs, groups.count, values))[:, groups.of(clips)]


class World:
    """A law, noise of ``db``, and clips each for itself or in groups: what very many clips tell of it.

    size: root of the mean square of its logits. margins, after: of the original and of its variant, by which
    the bias that loses so many points is known.
    """

    def __init__(self, law: Law, db: float, grouped: bool) -> None:
        rng, self.law, self.db = np.random.default_rng(0), law, db
        self.groups = Groups(TRUTH // 2) if grouped else None
        logits = law.logits(rng, 1, TRUTH, self.groups)
        self.size = math.sqrt(float((logits**2).mean()))
        found = self.changed(logits, rng, self.groups)
        self.margins, self.after = margins_of(logits)[0], margins_of(found)[0]
        near = np.abs(self.margins) < NEAR * self.margins.std()
        others = [side[0, near, 1:].argmax(1) for side in (logits, found)]
        self.runner_up_changed = float(np.mean(others[0] != others[1]))

    def changed(self, logits: np.ndarray, rng: np.random.Generator, groups: Groups | None) -> np.ndarray:
        """Logits of a variant: noise of t6, ``db`` below them, that grows with them."""
        growing = 0.5 + 0.5 * np.abs(logits).mean(-1, keepdims=True) / (0.8 * self.size)
        noise = shared(rng, rng.standard_t(6, logits.shape) / math.sqrt(1.5), groups)
        most = self.law.clipped * self.size
        found: np.ndarray = np.clip(logits, -most, most) + self.size * 10 ** (-self.db / 20) * growing * noise
        return found

    def bias(self, points: float) -> tuple[float, float]:
        """(what to take from every margin, the true points that are lost then): as near as may be.

        The truth by the step of fourth order over ``SMOOTH``, which has a fraction of the spread of counting.
        """
        right = float(np.mean(self.margins > 0))
        bias = float(np.quantile(self.after, 1 - (right - points / 100)))
        before, after = (step(m / (SMOOTH * self.margins.std())) for m in (self.margins, self.after - bias))
        return bias, 100 * float(np.mean(before - after))

    def draw(
        self, bias: float, runs: int, clips: int, groups: Groups | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Margins (runs, clips) of the original and of a variant with ``bias`` against the true label."""
        rng = np.random.default_rng(1)
        logits = self.law.logits(rng, runs, clips, groups)
        return margins_of(logits), margins_of(self.changed(logits, rng, groups)) - bias


def step(x: np.ndarray) -> np.ndarray:
    """From 0 to 1: the integral of the Gaussian kernel of fourth order."""
    rising: np.ndarray = ndtr(x) + 0.5 * x * np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
    return rising


def margins_of(logits: np.ndarray) -> np.ndarray:
    """(runs, clips) margins of logits (runs, clips, labels)."""
    flat = logits.reshape(-1, logits.shape[-1])
    return margins(flat, np.zeros(len(flat), int)).reshape(logits.shape[:2])


def simulate() -> Iterator[dict[str, Any]]:
    """Every law, noise and loss, at every number of clips: alone, and in groups of each kind."""
    for law in LAWS:
        for db in NOISE_DB:
            for kind in ("no", "equal", "unequal"):
                world = World(law, db, kind != "no")
                for points in LOSSES:
                    bias, truth = world.bias(points)
                    for clips, count in CLIPS.items():
                        groups = None if kind == "no" else Groups(count, kind == "unequal")
                        row = {"law": law.name, "db": db, "points": truth, "clips": clips}
                        row |= {"groups": groups and count, "sizes": kind}
                        row |= {"runner_up_changed": world.runner_up_changed}
                        yield row | repeat(world, bias, truth, clips, groups)
            print(f"{law.name}, {db} dB", flush=True)


def repeat(world: World, bias: float, truth: float, clips: int, groups: Groups | None) -> dict[str, Any]:
    """What ``REPEATS`` runs say: how often margins may tell, then coverage, passes at the limit, widths."""
    names = None if groups is None else [str(k) for k in groups.of(clips)]
    before, after = world.draw(bias, REPEATS, clips, groups)
    every = [expected_loss(m, v, names) for m, v in zip(before, after)]
    told = [one for one in every if not one.why]
    if len(told) < REPEATS // 50:
        return {"told": len(told) / REPEATS}
    counts = [
        paired_drop((m > 0).tolist(), (v > 0).tolist(), max_drop=1.0, groups=names)
        for m, v in zip(before[:COUNTED], after[:COUNTED])
    ]
    return {
        "told": len(told) / REPEATS,
        "coverage": float(np.mean([one.low <= truth <= one.high for one in told])),
        "passed_at_limit": float(np.mean([one.high <= truth for one in told])),
        "bias": float(np.mean([one.points for one in told])) - truth,
        "width": float(np.median([one.high - one.low for one in told])),
        "counted_width": float(np.median([one.high - one.low for one in counts])),
    }


FRAMES = 16
"""Answers of one clip."""
FILMS = ((52, None), (144, Groups(16)))
"""Clips, and groups they come in."""


def film(
    rng: np.random.Generator, runs: int, clips: int, groups: Groups | None, by_clip: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Margins (runs, clips, FRAMES) of an original and of its variant after each frame, which drift.

    The variant takes 0.04 off, and a tenth of the frame's margin, or of the clip's (``by_clip``), with noise
    of which half of the variance is that of the clip.
    """
    scene = 1 + 1.4 * shared(rng, rng.normal(size=(runs, clips, 1)), groups)
    drift = np.zeros((runs, clips, FRAMES))
    state = rng.normal(size=(runs, clips))
    for t in range(FRAMES):
        state = 0.8 * state + 0.6 * rng.normal(size=state.shape)
        drift[..., t] = 0.9 * state
    before = scene + drift - drift.mean(-1, keepdims=True)
    noise = shared(rng, rng.normal(size=scene.shape), groups)
    noise = noise + rng.standard_t(6, before.shape) / math.sqrt(1.5)
    return before, before - 0.04 - 0.1 * (scene if by_clip else before) + 0.08 * noise


def simulate_frames() -> Iterator[dict[str, Any]]:
    """What clips tell of a clip's answer, and frames of a frame's, and of a clip's."""
    for by_clip in (False, True):
        many = film(np.random.default_rng(0), 1, TRUTH, None, by_clip)
        clip, frame = (
            100 * float(np.mean(m > 0) - np.mean(v > 0))
            for m, v in (tuple(side.mean(-1) for side in many), many)
        )
        for clips, groups in FILMS:
            of_clip = np.arange(clips) if groups is None else groups.of(clips)
            by_clips, by_frames = [], []
            for m, v in zip(*film(np.random.default_rng(1), REPEATS, clips, groups, by_clip)):
                names = None if groups is None else [str(k) for k in of_clip]
                by_clips.append(expected_loss(m.mean(-1), v.mean(-1), names))
                frames = [str(k) for k in np.repeat(of_clip, FRAMES)]
                by_frames.append(expected_loss(m.ravel(), v.ravel(), frames, independent=clips))
            row = {
                "by_clip": by_clip,
                "clips": clips,
                "groups": groups and groups.count,
                "lost_clip": clip,
                "lost_frame": frame,
            }
            yield row | {
                f"{name}_{key}": value
                for name, found, truth in (
                    ("clip", by_clips, clip),
                    ("frame", by_frames, frame),
                    ("clip_by_frames", by_frames, clip),
                )
                for key, value in (
                    ("coverage", float(np.mean([one.low <= truth <= one.high for one in found]))),
                    ("width", float(np.median([one.high - one.low for one in found]))),
                    ("mean", float(np.mean([one.points for one in found]))),
                )
            }


def real(name: str, data: Path) -> dict[str, Any]:
    """Margins of a built-in classifier and of its INT8 variants for every target, on the held-out clips."""
    options = Options(name, precision="int8", clips=str(data))
    context, source = RunContext(options, Console(quiet=True)), load(options)
    clips = gather(options, source.spec)
    model = ready(context, lowered(context, source, clips), clips)
    held = [eval_clip(clip, model.lowered.base.spec) for clip in clips.held_out]

    def asked(variant: Variant, engine: Engine) -> list[float]:
        warmup = Stepper(engine.infer, variant.spec, variant.stream).warmup
        try:
            rows = evaluate.play_clips(engine.infer, variant, held)
        finally:
            engine.close()
        return [round(float(m), 5) for m in figures(variant.spec, rows, held, warmup)]

    variants = {}
    before = asked(model.lowered.base, open_engine(model.lowered.base, model.lowered.base_folder))
    for target in ("cpu", "mobile", "jetson"):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            base = replace(model.lowered.base, path="model.onnx")
            (folder / base.path).write_bytes(
                (model.lowered.base_folder / model.lowered.base.path).read_bytes()
            )
            for made in run_builder(context, model, find_target(target), base, folder).variants:
                here = on_this_host(made)
                variants[f"{target} {made.name}"] = asked(here, open_engine(here, folder))
    return {
        "groups": groups_of(held),
        "before": before,
        "variants": variants,
        "measured_at": {**now(), "device": encode(device_facts())},
    }


def page(found: dict[str, Any]) -> str:
    """gate.md."""
    lines = [
        "# The gate of accuracy",
        "",
        "Made by `python benchmarks/gate.py` from benchmarks/gate.json. A variant passes where the whole "
        "95 % interval of the points it is expected to lose by the margins of all clips "
        "(edgepv/metrics/margins.py) is within --max-drop. Counting: what edgepv/metrics/stats.py makes "
        "of the clips that flipped (Tango 1998).",
    ]
    return "\n".join([*lines, *drawn(found), *each_frame(found), *shipped(found["real"])]) + "\n"


def drawn(found: dict[str, Any]) -> list[str]:
    """The table of clips of known law."""
    rows = [row for row in found["rows"] if "coverage" in row]
    laws, losses = list(dict.fromkeys(row["law"] for row in rows)), ", ".join(f"{p:g}" for p in LOSSES)
    lines = [
        "",
        "## Clips of known law",
        "",
        f"{found['repeats']:,} draws for each of {len(laws)} laws of margins ({'; '.join(laws)}), "
        f"{len(LOSSES)} true losses ({losses} points), changes that grow with the logits and have long "
        "tails, each clip for itself and in groups that share half of the variance of logits and changes, of "
        "one size or, as the clips of cameras are, unequal: the k-th has 1 / k of the clips of the first. "
        "Coverage: how often the interval holds the truth. Passes at the limit: how often one passes that "
        "loses exactly what is allowed; 2.5 % would be right. Told: how often margins may tell at all; "
        "counting decides the rest. Where large logits are clipped, the loss of many clips that each stand "
        "for themselves is overstated: the interval misses the truth more often, and fewer pass. "
        f"{runner_up(rows)}{told(found['measured_at'])}",
        "",
        "| SQNR dB | clips | in groups | told | coverage: mean, least | passes at the limit: mean, most "
        "| width, points | counting's | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key in sorted({kind_of(row) for row in rows}):
        alike = [row for row in rows if kind_of(row) == key]
        many = [row for row in alike if row["told"] >= 0.5]
        each = {name: np.array([row[name] for row in many]) for name in many[0]} if many else {}
        share = np.mean([row["told"] for row in alike])
        if not each:
            continue
        cover, passed = 100 * each["coverage"], 100 * each["passed_at_limit"]
        width, counted = np.median(each["width"]), np.median(each["counted_width"])
        lines.append(
            f"| {key[0]} | {key[1]} | {in_groups(key)} | {100 * share:.0f} % | {cover.mean():.1f}, "
            f"{cover.min():.1f} % | {passed.mean():.1f}, {passed.max():.1f} % | {width:.2f} | {counted:.1f} "
            f"| {width / counted:.2f} |"
        )
    return lines


def kind_of(row: dict[str, Any]) -> tuple[int, int, int, str]:
    """(dB, clips, groups, how large they are) of a row."""
    return row["db"], row["clips"], row["groups"] or 0, row["sizes"]


def in_groups(key: tuple[int, int, int, str]) -> str:
    """ "no", "16" or "16, unequal"."""
    return {"no": "no", "equal": f"{key[2]}", "unequal": f"{key[2]}, unequal"}[key[3]]


def each_frame(found: dict[str, Any]) -> list[str]:
    """The table of clips of many frames."""
    lines = [
        "",
        "## Answers after each frame",
        "",
        f"Clips of {FRAMES} frames whose margins drift; a variant changes them by the margin of the frame, "
        "or of the clip. Frames tell what is lost by frames, with errors over clips or their groups. They do "
        "not tell what is lost by clips, whose answer is the mean of their frames: where changes go by the "
        "clip, the mean of what they tell is another, so the gate takes clips alone.",
        "",
        "| changed by | clips | in groups | lost by clips: true, mean told, held, width "
        "| lost by frames: true, mean told, held, width | of clips, held by frames |",
        "|---|---|---|---|---|---|",
    ]
    for row in found.get("frames", ()):
        cells = [
            f"{row['lost_' + name]:.2f}, {row[name + '_mean']:.2f}, {100 * row[name + '_coverage']:.0f} %, "
            f"{row[name + '_width']:.2f}"
            for name in ("clip", "frame")
        ]
        lines.append(
            f"| {'clip' if row['by_clip'] else 'frame'} | {row['clips']} | {row['groups'] or 'no'} "
            f"| {cells[0]} | {cells[1]} | {100 * row['clip_by_frames_coverage']:.0f} % |"
        )
    return lines if found.get("frames") else []


def runner_up(rows: list[dict[str, Any]]) -> str:
    """How often the best other label changes near the border, where there is more than one."""
    shares = {(row["law"], row["db"]): row.get("runner_up_changed", 0.0) for row in rows}
    if not any(shares.values()):
        return ""
    (law, db), share = max(shares.items(), key=lambda one: one[1])
    return f"Near the border another label runs up in up to {100 * share:.0f} % of clips ({law}, {db} dB). "


def shipped(real: dict[str, Any]) -> list[str]:
    """The table of the built-in classifiers, and half of their groups against the other half."""
    cpus = "; ".join(sorted({machine(one["measured_at"]["device"]) for one in real.values()}))
    lines = [
        "",
        "## Real clips",
        "",
        f"Every INT8 variant of {len(real)} of the built-in classifiers on its held-out clips, at most 1 "
        f"point allowed. CPU: {cpus}.",
        "",
        "| model | variant | clips | lost / won | expected points lost | counted | verdict | by counting |",
        "|---|---|---|---|---|---|---|---|",
    ]
    halves: list[tuple[PairedDrop, PairedDrop]] = []
    for name, result in sorted(real.items()):
        before, groups = np.array(result["before"]), result["groups"]
        for variant, margins_after in result["variants"].items():
            after = np.array(margins_after)
            drop, count = both(before, after, groups)
            points, low, high = drop.figures()
            lines.append(
                f"| {name} | {variant} | {counted(drop.n, drop.groups)} | {drop.lost} / {drop.won} "
                f"| {points} ({low} to {high}) | {count.figures()[0]} ({count.interval()}) "
                f"| {drop.verdict} | {count.verdict} |"
            )
            halves += halved(before, after, groups)
    inside = sum(theirs.low <= ours.points <= theirs.high for ours, theirs in halves)
    ours, theirs = (float(np.mean([pair[k].points for pair in halves])) for k in (0, 1))
    return [
        *lines,
        "",
        "Foretold from every second group and counted on the others, and the other way round: the points "
        f"expected lie in the counted interval of the other half in {inside} of {len(halves)} cases; on "
        f"average {ours:.2f} points were expected and {theirs:.2f} counted.",
    ]


def both(before: np.ndarray, after: np.ndarray, groups: list[str]) -> tuple[PairedDrop, PairedDrop]:
    """What margins and what counting say of the same clips."""
    right = [(side > 0).tolist() for side in (before, after)]
    count = paired_drop(right[0], right[1], max_drop=1.0, groups=groups)
    return margin_drop(before, after, max_drop=1.0, groups=groups), count


def summary(real: dict[str, Any]) -> dict[str, int]:
    """How many variants there are, and how many of them margins and counting decide."""
    found = [
        both(np.array(result["before"]), np.array(after), result["groups"])
        for result in real.values()
        for after in result["variants"].values()
    ]
    decided = [[drop.verdict != "inconclusive" for drop in pair] for pair in found]
    return {
        "variants": len(found),
        "decided": sum(by_margins for by_margins, _ in decided),
        "decided_by_counting": sum(by_count for _, by_count in decided),
    }


def halved(before: np.ndarray, after: np.ndarray, groups: list[str]) -> list[tuple[PairedDrop, PairedDrop]]:
    """(expected on one half of the groups, counted on the other), both ways; where margins may tell."""
    names = sorted(set(groups))
    second = np.array([names.index(g) % 2 == 1 for g in groups])
    found = []
    for one in (second, ~second):
        ours, _ = both(before[one], after[one], np.array(groups)[one].tolist())
        _, theirs = both(before[~one], after[~one], np.array(groups)[~one].tolist())
        if ours.counted:
            found.append((ours, theirs))
    return found


def main() -> int:
    """Simulate where asked to, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--data", type=Path)
    a = parser.parse_args()
    found = read_json(OUT) if OUT.is_file() else {"real": {}}
    if a.simulate:
        found |= {"measured_at": now(), "repeats": REPEATS}
        found |= {"rows": list(simulate()), "frames": list(simulate_frames())}
        write_json(OUT, found)
    for name, entry in read_json(INDEX).items() if a.data else ():
        if entry["spec"]["labels"] and name not in found["real"]:
            found["real"][name] = real(name, a.data)
            write_json(OUT, found)
            print(name, flush=True)
    write_json(OUT, found | {"summary": summary(found["real"])})
    write_text(PAGE, page(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
