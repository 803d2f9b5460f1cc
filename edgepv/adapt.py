"""Adapt a trained classifier to a user's own labels: clips in, weights and a spec for ``edgepv export`` out.

The last layer of the network is made anew for the new labels. What trains besides: low-rank adapters and the
norms (``how`` "adapter", see edgepv.zoo.lora), everything ("full"), or nothing ("head"). Adapters are merged,
so what comes out is the same network with other weights.
"""

from __future__ import annotations

import copy
import functools
import math
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgepv.base.console import Console
from edgepv.base.files import read_json, refuse_out, whole_folder, write_json, write_text
from edgepv.base.optional import need
from edgepv.data.clips import (
    SPLITS,
    Clip,
    as_manifest,
    label_finder,
    manifest_rows,
    spelling,
    survey,
    unheld_told,
    unlabelled_told,
    videos_below,
)
from edgepv.data.frames import clean_frames, hold_last, preprocess
from edgepv.errors import UsageError
from edgepv.export.probes import probe
from edgepv.metrics.stats import accuracy, counted
from edgepv.model.checkpoint import build, load_notes
from edgepv.model.spec import as_toml, check_spec
from edgepv.model.surgery import put
from edgepv.model.weights import save
from edgepv.pipeline.options import Options
from edgepv.pipeline.source import load
from edgepv.quantize.finetune import as_logits, views
from edgepv.types import Accuracy, Checkpoint, ModelSpec, decode, encode

How = Literal["adapter", "full", "head"]
LEARNING_RATE: dict[How, float] = {"adapter": 5e-3, "full": 2e-3, "head": 1e-2}
LEAST = 4
"""Fewest training clips of a label."""
SHARE = 0.2
"""Share of the training clips that choose the epoch, by whole groups."""
KEEP = 0.6
"""Least share of a label's clips that stays for training; else none of them validates."""
SMOOTHING = 0.1
SPEED = 1.25
WINDOWS = 4
RESULT = "adapt.json"
MANIFEST = "manifest.csv"
FILES = {RESULT, MANIFEST, "weights.safetensors", "spec.toml", "adapter.safetensors", "card.md"}
"""All that finetune writes into its folder."""
UNJUDGED = (
    "no clip is left to judge on: all of them train or choose the epoch, so `edgepv export` gets none. For "
    "an accuracy on your clips, and for INT8, put some into a folder test/ or give them the split test"
)
"""What is said where no clip is of a split test."""
DIVERGED = 1e3
"""Cross entropy in nats from which on a training is lost; guessing costs the logarithm of the labels."""


@dataclass(frozen=True)
class Job:
    """What ``edgepv finetune`` was asked for.

    model, weights, spec: as in ``edgepv export``. data: folder of clips. labels: which of its labels, empty
    for all. rank: of the adapters. learning_rate: None for what fits ``how``. mirror: whether labels stay
    true in a mirror, so that half of the training views may be flipped.
    """

    model: str
    data: str
    out: str = "adapted"
    how: How = "full"
    weights: str | None = None
    spec: str | None = None
    labels: tuple[str, ...] = ()
    rank: int = 8
    epochs: int = 20
    batch: int = 4
    learning_rate: float | None = None
    mirror: bool = False
    seed: int = 0
    force: bool = False
    trust_pickle: bool = False


@dataclass(frozen=True)
class Epoch:
    """One pass over the training clips. validation_loss: None without validation clips."""

    epoch: int
    train_loss: float
    validation_loss: float | None
    validation_top1: float | None
    seconds: float


@dataclass(frozen=True)
class Adapted:
    """What came out. trained, total: numbers in the network. best: the epoch that was kept, from 0.

    clips: of training, validation and test. validation, test: None where there were no clips for it. base:
    SHA-256 of the weights it began with. seconds: of training, without decoding.
    """

    builder: str
    spec: ModelSpec
    how: How
    rank: int | None
    trained: int
    total: int
    clips: tuple[int, int, int]
    best: int
    validation: Accuracy | None
    test: Accuracy | None
    seconds: float
    base: str
    epochs: tuple[Epoch, ...]


@dataclass(frozen=True)
class Shot:
    """One labelled clip: frames (T, H, W, 3) uint8 BGR, at the size and rate of the model, and its group."""

    frames: np.ndarray
    label: int
    group: str


def finetune(job: Job, console: Console) -> Adapted:
    """Adapt the model and write the folder ``job.out``; it appears whole or not at all.

    Raises UsageError for a model that cannot be trained, for too few clips, and if the loss diverges.
    """
    out, data = Path(job.out), Path(job.data)
    _refuse(job, out)
    base = _source(job)
    labels = labels_of(data, job.labels)
    there = survey(data, labels)
    if there.left_out:
        console.say(f"left out of {data}: {there.left_out}")
    if bare := unlabelled_told(there.clips):
        console.say(f"{bare}: they are left out")
    parts = sides(there.clips, labels, seed=job.seed)
    spec = relabelled(base.spec, labels, f"{base.spec.name}-{data.resolve().name}")
    train, validation, test = (len(part) for part in parts)
    tested = f", {test} test" if test else ""
    console.say(
        f"{spec.name}: {len(labels)} labels, {train} clips train, {validation} choose the epoch{tested}"
    )
    for side, what in zip(parts[1:], ("validation", "test")):
        if told := unheld_told(side, labels, what):
            console.say(f"{told}: its top-1 says nothing of them")
    if not test:
        console.say(UNJUDGED)
    for note in load_notes(base):
        console.say(note)
    model = build(base)
    head = new_head(model, base.spec, labels, seed=job.seed)
    learning, judging = shots(parts[0], spec, console), shots(parts[1], spec, console)
    start = time.perf_counter()
    model, log, best = _train(model, head, learning, judging, spec, job, console)
    seconds = time.perf_counter() - start
    whole = _merged(model)
    made = Adapted(
        builder=base.builder,
        spec=spec,
        how=job.how,
        rank=job.rank if job.how == "adapter" else None,
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        total=sum(p.numel() for p in whole.parameters()),
        clips=(train, validation, test),
        best=best,
        validation=score(whole, judging, spec),
        test=score(whole, shots(parts[2], spec, console), spec),
        seconds=seconds,
        base=base.sha256,
        epochs=tuple(log),
    )
    _write(made, model, whole, head, listed(parts[0], parts[2]), job, out)
    return made


def _refuse(job: Job, out: Path) -> None:
    """Raise UsageError for options that cannot be met, before anything is decoded."""
    if out.exists() and not job.force:
        raise UsageError(f"{out} already exists. Choose another --out, or replace it with --force")
    if out.exists() and not (out / RESULT).is_file():
        raise UsageError(f"{out} exists and is no earlier finetune; --force replaces those only")
    if out.exists() and (foreign := sorted({p.name for p in out.iterdir()} - FILES)):
        raise UsageError(f"{out} also holds {foreign[0]}, which finetune did not write. Move it elsewhere")
    refuse_out(out)
    if job.model.lower().endswith(".onnx"):
        raise UsageError(
            f"{job.model}: an ONNX file cannot be trained. Give the builder it came from, file.py:builder"
        )
    if min(job.epochs, job.batch, job.rank) < 1:
        raise UsageError("--epochs, --batch and --rank must be at least 1")
    if job.learning_rate is not None and not job.learning_rate > 0:
        raise UsageError(f"--learning-rate {job.learning_rate}: must be above 0")


def _source(job: Job) -> Checkpoint:
    source = load(
        Options(job.model, weights=job.weights, spec=job.spec, trust_pickle=job.trust_pickle)
    ).checkpoint
    if source is None or source.spec.task != "classification":
        raise UsageError(f"{job.model} gives no labels; finetune is for classifiers")
    found = probe(build(source), source.spec)
    return replace(source, spec=replace(source.spec, scores=found.scores))


def labels_of(folder: Path, wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """The labels of a folder of clips, sorted: of its manifest.csv, else the folders that hold videos.

    Raises UsageError if one of ``wanted`` is not there, if there are fewer than two, if one begins or ends
    with a blank, which no manifest.csv could name, and, with nothing ``wanted``, if no folder above a video
    or more than one might be its label.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder. --data wants one with a sub-folder of clips per label")
    manifest = folder / "manifest.csv"
    if manifest.is_file():
        found = {row["label"] for row in manifest_rows(manifest)} - {""}
    else:
        found = _labels_of_folders(folder, wanted)
    if not found:
        raise UsageError(
            f"{folder} holds no labelled clip. Put clips into one sub-folder per label, or list them in "
            "manifest.csv with the columns path, label, split, group"
        )
    if missing := sorted(set(wanted) - found):
        raise UsageError(f"{folder} has no label '{missing[0]}'. It has: {', '.join(sorted(found))}")
    labels = tuple(sorted(wanted or found))
    if blank := [label for label in labels if label != label.strip()]:
        raise UsageError(f"{folder}: the label '{blank[0]}' begins or ends with a blank. Rename its folder")
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise UsageError(
            f"{folder}: {', '.join(labels)} is one label only. A classifier needs two; add a folder of clips "
            "that show something else"
        )
    return labels


def _labels_of_folders(folder: Path, wanted: Sequence[str]) -> set[str]:
    """The labels that folders name; of two spelt alike but for case the first. With labels ``wanted``, those
    of them that some folder above a video is called like."""
    paths = [path.relative_to(folder) for path in videos_below(folder)[0]]
    if wanted:
        known = label_finder(wanted)
        return {label for path in paths for part in path.parts[:-1] if (label := known(part)) is not None}
    found: dict[str, str] = {}
    for path in paths:
        names = [part for part in path.parts[:-1] if part.lower() not in SPLITS]
        if len(names) > 1 or (not names and len(path.parts) > 1):
            what = " or ".join(f"'{part}'" for part in dict.fromkeys(path.parts[:-1]))
            raise UsageError(
                f"{folder / path}: its label might be {what}. Say which folders are labels: --labels A,B, or "
                "list the clips in manifest.csv"
            )
        found |= {spelling(name): min(name, found.get(spelling(name), name)) for name in names}
    return set(found.values())


def sides(
    clips: Sequence[Clip], labels: Sequence[str], *, seed: int = 0
) -> tuple[list[Clip], list[Clip], list[Clip]]:
    """(training, validation, test) clips; no group stands on two sides.

    Clips of a split evaluation or test are scored once at the end. Validation is the split of that name;
    without one, about ``SHARE`` of the rest, by whole groups. Raises UsageError for a label with too few
    training clips, and for a group in two splits.
    """
    held = ("evaluation", "test")
    known = [c for c in clips if c.label in labels]
    test = [c for c in known if c.split in held]
    validation = [c for c in known if c.split == "validation"]
    train = [c for c in known if c.split not in (*held, "validation")]
    for label in labels:
        count = sum(c.label == label for c in train)
        if count < LEAST:
            raise UsageError(
                f"label '{label}' has {count} training clips; at least {LEAST} are needed, and some dozens "
                "are better. Add clips, or leave it out with --labels"
            )
    if not validation:
        train, validation = _carved(train, labels, seed)
    for one, other in ((train, validation), (train, test), (validation, test)):
        if shared := {c.group for c in one} & {c.group for c in other}:
            raise UsageError(
                f"group '{min(shared)}' stands in two splits; the scores would flatter. Put it into one"
            )
    return train, validation, test


def _carved(clips: list[Clip], labels: Sequence[str], seed: int) -> tuple[list[Clip], list[Clip]]:
    """(training, validation) clips: a fold of whole groups, without groups a label cannot spare."""
    from edgepv.data.split import Sample, folds

    samples = [Sample(c.path, "", labels.index(str(c.label)), "train", c.group) for c in clips]
    parts = folds(samples, round(1 / SHARE))
    ordered = sorted(parts, key=lambda part: abs(len(part) - SHARE * len(clips)))
    fitting = [part for part in ordered if abs(len(part) - len(ordered[0])) <= 1]
    chosen = fitting[seed % len(fitting)]
    held = [c for c in clips if c.path in chosen]
    for label in labels:
        total = sum(c.label == label for c in clips)
        if sum(c.label == label for c in held) > (1 - KEEP) * total:
            back = {c.group for c in held if c.label == label}
            held = [c for c in held if c.group not in back]
    apart = set(held)
    return [c for c in clips if c not in apart], held


def listed(train: Sequence[Clip], test: Sequence[Clip]) -> str:
    """The manifest.csv for ``edgepv export --clips``: it calibrates on training clips and judges test clips.

    Validation clips chose the epoch, so they are not in it.
    """
    return as_manifest([replace(c, split=s) for s, side in (("train", train), ("test", test)) for c in side])


def relabelled(spec: ModelSpec, labels: Sequence[str], name: str) -> ModelSpec:
    """The same model for other labels; outputs that spell out their logits follow."""
    data = encode(spec) | {"labels": list(labels), "name": re.sub(r"[^\w.-]+", "-", name)}
    for output in data.get("outputs", ()):
        if output["name"] == "logits":
            output["shape"][-1] = len(labels)
    made = decode(ModelSpec, data)
    check_spec(made, made.name)
    return made


def shots(clips: Sequence[Clip], spec: ModelSpec, console: Console) -> list[Shot]:
    """The clips decoded at the model's size and frame rate, as ``edgepv.data.frames.model_frames`` has them."""
    return [
        Shot(np.stack(clean_frames(c.path, spec)), spec.labels.index(str(c.label)), c.group)
        for c in console.track(clips, "decoding clips")
    ]


def tensor(frames: np.ndarray, spec: ModelSpec) -> Any:
    """(C, T, H, W) float32 as the model wants it, of frames (T, H, W, 3) uint8 BGR."""
    torch = need("torch", extra="compress")
    planes = np.concatenate([preprocess(frame, spec) for frame in frames])
    return torch.from_numpy(np.ascontiguousarray(planes.transpose(1, 0, 2, 3)))


def logits(model: Any, x: Any, spec: ModelSpec) -> Any:
    """(N, classes) for windows (N, C, T, H, W): the forward of the network, or its steps if it has no other.

    Steps are taken one by one, each window from a fresh state; valid answers are averaged.
    """
    torch = need("torch", extra="compress")
    if type(model).forward is not torch.nn.Module.forward:
        found = model(x)
        return as_logits(found[0] if isinstance(found, tuple) else found, spec)
    return as_logits(torch.stack([_stepped(model, clip, spec) for clip in x.transpose(1, 2)]), spec)


def _stepped(model: Any, frames: Any, spec: ModelSpec) -> Any:
    """(classes,) of one clip (T, C, H, W): the mean of what a step model says after each valid frame."""
    states = tuple(model.init_state().values())
    said = []
    for frame in frames:
        answer, *rest = model.step(frame[None], *states)
        states = tuple(rest[len(rest) - len(states) :])
        said.append(answer[0])
    valid = said[int(getattr(model, "warmup", spec.frames)) - 1 :] or said[-1:]
    return sum(valid[1:], valid[0]) / len(valid)


def new_head(model: Any, spec: ModelSpec, labels: Sequence[str], *, seed: int = 0) -> str:
    """Give the network a fresh last layer for ``labels``; returns its name. Rows of labels it knew are kept.

    Raises UsageError if no linear layer gives the logits.
    """
    torch = need("torch", extra="compress")
    name = find_head(model, spec)
    old = model.get_submodule(name)
    torch.manual_seed(seed)
    fresh = torch.nn.Linear(old.in_features, len(labels), bias=old.bias is not None)
    with torch.no_grad():
        for row, label in enumerate(labels):
            if label in spec.labels:
                known = spec.labels.index(label)
                fresh.weight[row] = old.weight[known]
                if old.bias is not None:
                    fresh.bias[row] = old.bias[known]
    put(model, name, fresh)
    return name


def find_head(model: Any, spec: ModelSpec) -> str:
    """Name of the linear layer whose answer the logits are; else of the last one of their width."""
    torch = need("torch", extra="compress")
    called: list[tuple[str, Any]] = []

    def note(name: str, layer: Any, inputs: Any, output: Any) -> None:
        called.append((name, output.detach()))

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    fitting = [(n, m) for n, m in layers if m.out_features == len(spec.labels)]
    hooks = [m.register_forward_hook(functools.partial(note, n)) for n, m in fitting]
    _, channels, *_, height, width = spec.input.shape
    noise = torch.randn(1, channels, spec.frames, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answer = logits(model.eval(), noise, spec)
    for hook in hooks:
        hook.remove()
    flat = answer.flatten()
    equal = [n for n, out in called if out.numel() == len(flat) and torch.equal(out.flatten(), flat)]
    if not called:
        raise UsageError(
            f"{spec.name}: no linear layer gives its {len(spec.labels)} logits. finetune replaces the last "
            "nn.Linear; let the model end in one"
        )
    return (equal or [n for n, _ in called])[-1]


def _prepared(model: Any, head: str, job: Job) -> None:
    """Decide what trains."""
    from edgepv.zoo import lora

    if job.how == "adapter":
        lora.inject(model, job.rank, head=head)
    else:
        model.requires_grad_(job.how == "full")
        model.get_submodule(head).requires_grad_(True)


def _merged(model: Any) -> Any:
    from edgepv.zoo import lora

    return lora.merged(model).eval()


def _train(
    model: Any,
    head: str,
    train: Sequence[Shot],
    validation: Sequence[Shot],
    spec: ModelSpec,
    job: Job,
    console: Console,
) -> tuple[Any, list[Epoch], int]:
    """Train in place. Returns (model, log, epoch kept): the lowest validation loss, else the last."""
    torch = need("torch", extra="compress")
    torch.manual_seed(job.seed)
    _prepared(model, head, job)
    rng = np.random.default_rng(job.seed)
    rate = job.learning_rate or LEARNING_RATE[job.how]
    steps = job.epochs * -(-len(train) // job.batch)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, functools.partial(_rate, steps=steps))
    log: list[Epoch] = []
    best, kept = job.epochs - 1, None
    for epoch in range(job.epochs):
        start = time.perf_counter()
        loss = _epoch(model, train, spec, job, rng, optimizer, schedule)
        judged = _judged(model, validation, spec)
        _refuse_diverged(loss if judged[0] is None else judged[0])
        log.append(Epoch(epoch, loss, *judged, seconds=time.perf_counter() - start))
        console.say(_told(log[-1], job.epochs))
        if judged[0] is not None and judged[0] <= min(e.validation_loss or math.inf for e in log):
            best, kept = epoch, copy.deepcopy(model.state_dict())
    if kept is not None:
        model.load_state_dict(kept)
    return model.eval(), log, best


def _rate(step: int, *, steps: int) -> float:
    """Share of the full learning rate: a short rise, then a cosine to zero."""
    rise = 0.1 * steps
    return min((step + 1) / (rise + 1), 0.5 * (1 + math.cos(math.pi * step / steps)))


def _told(row: Epoch, epochs: int) -> str:
    line = f"epoch {row.epoch + 1}/{epochs}: loss {row.train_loss:.3f}"
    if row.validation_loss is not None:
        line += f", validation {row.validation_loss:.3f}, top-1 {100 * (row.validation_top1 or 0):.1f} %"
    return f"{line}, {row.seconds:.0f} s"


def _epoch(
    model: Any,
    train: Sequence[Shot],
    spec: ModelSpec,
    job: Job,
    rng: np.random.Generator,
    optimizer: Any,
    schedule: Any,
) -> float:
    """One pass over the training clips; returns its mean loss. Raises UsageError if it is not finite."""
    import torch
    from torch.nn import functional as F

    _training_mode(model, job)
    batches = np.array_split(rng.permutation(len(train)), -(-len(train) // job.batch))
    total = 0.0
    for rows in batches:
        x = torch.stack([tensor(window(train[i].frames, spec.frames, rng), spec) for i in rows])
        x = views(x, rng)
        if job.mirror:
            x = torch.stack([clip.flip(-1) if rng.random() < 0.5 else clip for clip in x])
        y = torch.tensor([train[i].label for i in rows])
        loss = F.cross_entropy(logits(model, x, spec), y, label_smoothing=SMOOTHING)
        _refuse_diverged(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        schedule.step()
        total += float(loss.detach()) * len(rows)
    return total / len(train)


def _refuse_diverged(loss: float) -> None:
    if not loss < DIVERGED:
        raise UsageError(f"training diverged (a loss of {loss:.3g}). Lower --learning-rate")


def _training_mode(model: Any, job: Job) -> None:
    """Norms count anew, unless nothing but the head trains, or frames come one by one."""
    import torch

    one_by_one = type(model).forward is torch.nn.Module.forward
    model.train(not (job.how == "head" or one_by_one))


def window(frames: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` frames of a clip from a random start, at a random speed; the last one repeats if it ends."""
    speed = rng.uniform(1 / SPEED, SPEED)
    start = rng.uniform(0, max(0.0, len(frames) - speed * count))
    return frames[np.minimum((start + speed * np.arange(count)).astype(int), len(frames) - 1)]


def _judged(model: Any, validation: Sequence[Shot], spec: ModelSpec) -> tuple[float | None, float | None]:
    """(cross entropy, top-1) on the validation clips; (None, None) without."""
    from edgepv.metrics.stats import cross_entropy

    if not validation:
        return None, None
    rows = scores(model.eval(), validation, spec)
    truth = [s.label for s in validation]
    return cross_entropy(rows, truth), float((rows.argmax(1) == truth).mean())


def scores(model: Any, clips: Sequence[Shot], spec: ModelSpec) -> np.ndarray:
    """(clips, classes) logits of whole clips.

    A model with ``frame_logits`` (N, C, T, H, W) -> (N, T, classes) is asked for every frame and its valid
    answers are averaged, as ``edgepv export`` judges it; others see up to ``WINDOWS`` windows spread evenly.
    """
    torch = need("torch", extra="compress")
    every_frame = spec.input.layout == "NCHW" and callable(getattr(model, "frame_logits", None))
    rows = []
    with torch.no_grad():
        for clip in clips:
            frames = hold_last(clip.frames, spec.frames)
            if every_frame:
                said = model.frame_logits(tensor(frames, spec)[None])[0, spec.frames - 1 :]
            else:
                last = len(frames) - spec.frames
                starts = sorted({round(s) for s in np.linspace(0, last, WINDOWS)})
                parts = [tensor(frames[s : s + spec.frames], spec) for s in starts]
                said = torch.cat([logits(model, part[None], spec) for part in parts])
            rows.append(said.mean(0).numpy())
    return np.stack(rows)


def score(model: Any, clips: Sequence[Shot], spec: ModelSpec) -> Accuracy | None:
    """Top-1 with its interval over the clips' groups; None without clips."""
    if not clips:
        return None
    groups = [c.group for c in clips]
    return accuracy([c.label for c in clips], scores(model, clips, spec), spec.labels, groups)


def _write(made: Adapted, model: Any, whole: Any, head: str, manifest: str, job: Job, out: Path) -> None:
    from edgepv.zoo import lora

    with whole_folder(out, replace=job.force) as tmp:
        save(whole, tmp / "weights.safetensors")
        write_text(tmp / "spec.toml", as_toml(made.spec))
        if made.rank is not None:
            lora.save(model, tmp / "adapter.safetensors", rank=made.rank, head=head)
        write_json(tmp / RESULT, made)
        write_text(tmp / MANIFEST, manifest)
        write_text(tmp / "card.md", card(made, job))


def read(folder: Path) -> Adapted:
    """What an earlier finetune left in ``folder``."""
    return decode(Adapted, read_json(folder / RESULT))


def export_command(made: Adapted, job: Job) -> str:
    """What to run next: it judges the test clips. Without those it is given no clips, and tells no accuracy
    on any that the model has seen."""
    out = Path(job.out)
    files = ["--weights", str(out / "weights.safetensors"), "--spec", str(out / "spec.toml")]
    clips = ["--clips", str(out)] if made.clips[2] else []
    return shlex.join(["edgepv", "export", made.builder, *files, *clips])


def told(value: Accuracy | None) -> str:
    """Top-1 in percent with its 95 % interval and the number of clips."""
    if value is None:
        return "not measured"
    spread = "no interval" if value.groups == 1 else f"{100 * value.low:.1f} to {100 * value.high:.1f}"
    return f"{100 * value.value:.1f} % ({spread}, {counted(value.n, value.groups, 'clips')})"


def rows(made: Adapted) -> list[tuple[str, str]]:
    """What a person wants to know, as (what, value)."""
    what = {
        "adapter": f"adapters of rank {made.rank}, norms and head",
        "full": "everything",
        "head": "the head",
    }[made.how]
    share = f"{made.trained:,} numbers, {100 * made.trained / made.total:.0f} % of the model's {made.total:,}"
    return [
        ("labels", ", ".join(made.spec.labels)),
        ("trained", f"{what}: {share}"),
        ("clips", "{} training, {} validation, {} test".format(*made.clips)),
        ("epoch kept", f"{made.best + 1} of {len(made.epochs)}"),
        ("validation top-1", told(made.validation)),
        ("test top-1", told(made.test)),
        ("training time", f"{made.seconds / 60:.1f} min"),
    ]


def card(made: Adapted, job: Job) -> str:
    """The model card, Markdown."""
    table = "\n".join(f"| {what} | {value} |" for what, value in rows(made))
    if made.validation:
        note = "Validation clips chose the epoch, so their score flatters a little; test clips chose nothing."
    else:
        note = "No clip could be spared for validation, so the last epoch was kept."
    unjudged = "" if made.test else f"{UNJUDGED[0].upper()}{UNJUDGED[1:]}.\n\n"
    return (
        f"# {made.spec.name}\n\n"
        f"Adapted from `{job.model}` (weights {made.base[:16]}) on `{Path(job.data).name}`.\n\n"
        f"| | |\n|---|---|\n{table}\n\n"
        f"{note} Intervals are 95 % Wilson intervals, over groups of clips where a manifest names them.\n\n"
        f"{unjudged}```sh\n{export_command(made, job)}\n```\n"
    )
