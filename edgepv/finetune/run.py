"""Adapt a trained classifier to a user's own labels: clips in, weights and a spec for ``edgepv export`` out.

The last layer of the network is made anew for the new labels. What trains besides: low-rank adapters and the
norms (``how`` "adapter", see edgepv.finetune.lora), everything ("full"), or nothing ("head"). Adapters are
merged, so what comes out is the same network with other weights.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgepv.base.console import Console
from edgepv.base.files import read_json, refuse_out, sha256, whole_folder, write_json, write_text
from edgepv.base.tasks import task_of
from edgepv.data.clips import Clip, survey, unheld_told, unlabelled_told
from edgepv.data.split import refuse_shared
from edgepv.errors import UsageError
from edgepv.export.probes import probe
from edgepv.finetune.card import UNJUDGED, card, relabelled
from edgepv.finetune.data import labels_of, listed, shots, sides
from edgepv.finetune.head import new_head
from edgepv.finetune.kept import Kept, kept_clips
from edgepv.finetune.request import FinetuneRequest, FinetuneResult
from edgepv.finetune.train import merged, rated, trained
from edgepv.model.checkpoint import build, load_notes
from edgepv.model.spec import as_toml
from edgepv.model.weights import save
from edgepv.pipeline.options import Options
from edgepv.pipeline.source import load
from edgepv.types import Checkpoint, ModelSpec, decode

RESULT = "adapt.json"
MANIFEST = "manifest.csv"
FILES = {RESULT, MANIFEST, "weights.safetensors", "spec.toml", "adapter.safetensors", "card.md"}
"""All that finetune writes into its folder."""


def finetune(request: FinetuneRequest, console: Console) -> FinetuneResult:
    """Adapt the model and write the folder ``request.out``; it appears whole or not at all.

    Raises UsageError for a model that cannot be trained, for too few clips, and if the loss diverges.
    """
    out = Path(request.out)
    _refuse(request, out)
    base = _source(request)
    labels = _labels(request, base.spec)
    kept = kept_clips(Path(request.kept), labels) if request.kept else Kept()
    if kept.told:
        console.say(kept.told)
    clips = _clips(request, labels, console)
    _refuse_twins(clips, kept.clips)
    parts = sides([*clips, *kept.clips], labels, seed=request.seed)
    refuse_shared(parts[0], (*parts[1], *parts[2]))
    origin = Path(request.data or request.kept or "").resolve().name
    spec = relabelled(base.spec, labels, f"{base.spec.name}-{origin}")
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
    head = new_head(model, base.spec, labels, seed=request.seed)
    learning, judging = (shots(part, spec, console, kept.parts_s) for part in parts[:2])
    start = time.perf_counter()
    model, log, best = trained(model, head, learning, judging, spec, request, console)
    seconds = time.perf_counter() - start
    whole = merged(model)
    result = FinetuneResult(
        builder=base.builder,
        spec=spec,
        how=request.how,
        rank=request.rank if request.how == "adapter" else None,
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        total=sum(p.numel() for p in whole.parameters()),
        clips=(train, validation, test),
        best=best,
        validation=rated(whole, judging, spec),
        test=rated(whole, shots(parts[2], spec, console), spec),
        seconds=seconds,
        base=base.sha256,
        epochs=tuple(log),
        kept=kept.told,
    )
    _write(result, model, whole, head, listed(parts[0], parts[2]), request, out)
    return result


def _labels(request: FinetuneRequest, spec: ModelSpec) -> tuple[str, ...]:
    """The labels to learn. Raises UsageError like ``labels_of``; clips that were kept may show new ones."""
    if request.kept is None:
        return labels_of(Path(request.data or ""), request.labels)
    if request.labels:
        return tuple(sorted(set(request.labels)))
    return labels_of(Path(request.data)) if request.data else spec.labels


def _clips(request: FinetuneRequest, labels: Sequence[str], console: Console) -> Sequence[Clip]:
    """The clips of ``--data``, and what is to say of them; none without."""
    if request.data is None:
        return ()
    there = survey(Path(request.data), tuple(labels))
    if there.left_out:
        console.say(f"left out of {request.data}: {there.left_out}")
    if bare := unlabelled_told(there.clips):
        console.say(f"{bare}: they are left out")
    return there.clips


def _refuse_twins(clips: Sequence[Clip], kept: Sequence[Clip]) -> None:
    """Raise UsageError if a clip of ``--data`` is one that a camera kept: it would count twice."""
    known = {sha256(c.path): c.path for c in clips} if kept else {}
    for clip in kept:
        if twin := known.get(sha256(clip.path)):
            raise UsageError(
                f"{clip.path} of --from-kept is the same video as {twin} of --data. Take one of them out"
            )


def _refuse(request: FinetuneRequest, out: Path) -> None:
    """Raise UsageError for options that cannot be met, before anything is decoded."""
    if request.data is None and request.kept is None:
        raise UsageError("there is nothing to learn from: give --data DIR, --from-kept DIR, or both")
    if request.data is not None and request.kept is not None:
        _refuse_twice(Path(request.data), Path(request.kept))
    if out.exists() and not request.force:
        raise UsageError(f"{out} already exists. Choose another --out, or replace it with --force")
    if out.exists() and not (out / RESULT).is_file():
        raise UsageError(f"{out} exists and is no earlier finetune; --force replaces those only")
    if out.exists() and (foreign := sorted({p.name for p in out.iterdir()} - FILES)):
        raise UsageError(f"{out} also holds {foreign[0]}, which finetune did not write. Move it elsewhere")
    refuse_out(out)
    if request.model.lower().endswith(".onnx"):
        raise UsageError(
            f"{request.model}: an ONNX file cannot be trained. Give the builder it came from, file.py:builder"
        )
    if min(request.epochs, request.batch, request.rank) < 1:
        raise UsageError("--epochs, --batch and --rank must be at least 1")
    if request.learning_rate is not None and not request.learning_rate > 0:
        raise UsageError(f"--learning-rate {request.learning_rate}: must be above 0")


def _refuse_twice(data: Path, kept: Path) -> None:
    """Raise UsageError for a folder inside the other: a clip would train and choose the epoch, or judge."""
    one, other = data.resolve(), kept.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise UsageError(
            f"--data {data} and --from-kept {kept} hold the same clips, which would stand on two sides. Give "
            "folders apart from each other"
        )


def _source(request: FinetuneRequest) -> Checkpoint:
    source = load(
        Options(request.model, weights=request.weights, spec=request.spec, trust_pickle=request.trust_pickle)
    ).checkpoint
    if source is None:
        raise UsageError(f"{request.model} cannot be trained; finetune is for classifiers")
    if not task_of(source.spec).classifies:
        raise UsageError(f"{request.model} is for {source.spec.task}; finetune is for classifiers")
    probed = probe(build(source), source.spec)
    return replace(source, spec=replace(source.spec, scores=probed.scores))


def _write(
    result: FinetuneResult,
    model: Any,
    whole: Any,
    head: str,
    manifest: str,
    request: FinetuneRequest,
    out: Path,
) -> None:
    from edgepv.finetune import lora

    with whole_folder(out, replace=request.force) as tmp:
        save(whole, tmp / "weights.safetensors")
        write_text(tmp / "spec.toml", as_toml(result.spec))
        if result.rank is not None:
            lora.save(model, tmp / "adapter.safetensors", rank=result.rank, head=head)
        write_json(tmp / RESULT, result)
        write_text(tmp / MANIFEST, manifest)
        write_text(tmp / "card.md", card(result, request))


def read(folder: Path) -> FinetuneResult:
    """What an earlier finetune left in ``folder``."""
    return decode(FinetuneResult, read_json(folder / RESULT))
