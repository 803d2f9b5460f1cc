"""Several bundles of one task as one: a ladder of variants from which a deadline chooses."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from edgepv import bundle, report
from edgepv.base.console import Console
from edgepv.base.files import inside, whole_folder, write_json, write_text
from edgepv.base.tasks import task_of
from edgepv.bundle import golden
from edgepv.bundle.manifest import GOLDEN, Bundle, Measured
from edgepv.bundle.proof import MEASURED, report_of, taken
from edgepv.errors import UsageError
from edgepv.measure import latency
from edgepv.runtimes.engine import open_engine
from edgepv.types import Accuracy, Latency, Measurement, Rung, Variant

MIN_CLIPS = 30  # top-1 on fewer orders no rungs


@dataclass(frozen=True)
class Part:
    """One bundle's chosen variant, and the same under the name it gets in the ladder."""

    source: Bundle
    chosen: Variant
    variant: Variant
    row: Measurement | None


def combine(folders: Sequence[Path], out: Path, console: Console, *, force: bool = False) -> Bundle:
    """Pack the chosen variant of each bundle into one at ``out``, timed here side by side.

    On a device that found another variant to run best (``edgepv build``), that one is taken. The largest rung
    is the slowest. A rung that is slower than another and not more accurate is left out, and so are the
    further rungs of a bundle that is a ladder itself, with a reason in the manifest; what ``comparable``
    leaves out counts as not known. Raises UsageError if there are fewer than two bundles, they differ in
    labels, frame rate or target, or two run the same model.
    """
    parts = [part_of(folder) for folder in folders]
    _check_alike(parts)
    with whole_folder(out, replace=force) as tmp:
        models = tmp / "models"
        models.mkdir()
        for part in parts:
            for old, new in _files(part):
                inside(tmp, new).write_bytes(part.source.checked(old))
        console.say(f"timing {len(parts)} variants, taking turns")
        times = _times(parts, tmp)
        rungs, reasons = _rungs(parts, times)
        reasons += _other_rungs(parts)
        kept = [p for r in rungs for p in parts if p.variant.name == r.variant]
        for part in parts:
            for _, new in _files(part) if part not in kept else ():
                inside(tmp, new).unlink()
        _write_golden(kept, tmp)
        _write(kept, rungs, reasons, tmp)
    return bundle.read(out)


def part_of(folder: Path) -> Part:
    """What a ladder takes of a bundle on this device. Raises UsageError for a damaged bundle."""
    source = bundle.read(folder)
    bundle.check(source)
    chosen = taken(source)
    size = "x".join(str(n) for n in chosen.spec.input.shape[-2:])
    name = f"{source.content.name.removesuffix('-' + size.split('x')[0])}-{size}-{chosen.name}"
    path = f"models/{name}{Path(chosen.path).suffix}"
    row = next((r for r in report_of(source).rows if r.variant == chosen.name), None)
    return Part(source, chosen, replace(chosen, name=name, path=path), row)


def _files(part: Part) -> list[tuple[str, str]]:
    """Its file in its own bundle and in the ladder, and so for the weights beside an OpenVINO .xml."""
    old, new = PurePosixPath(part.chosen.path), PurePosixPath(part.variant.path)
    names = [(str(old), str(new))]
    if str(old.with_suffix(".bin")) in part.source.content.files:
        names.append((str(old.with_suffix(".bin")), str(new.with_suffix(".bin"))))
    return names


def _check_alike(parts: Sequence[Part]) -> None:
    if len(parts) < 2:
        raise UsageError("a ladder needs two bundles or more: edgepv ladder LARGE SMALL --out DIR")
    first = parts[0]
    if not task_of(spec := first.source.content.spec).classifies:
        raise UsageError(f"{first.source.folder} is for {spec.task}; the variants of a ladder classify")
    for part in parts[1:]:
        mine, theirs = part.source.content, first.source.content
        for what, a, b in (
            ("labels", mine.spec.labels, theirs.spec.labels),
            ("frame rate", mine.spec.fps, theirs.spec.fps),
            ("target", mine.target, theirs.target),
        ):
            if a != b:
                raise UsageError(
                    f"{part.source.folder} has another {what} than {first.source.folder}: {a}, {b}"
                )
    names = [p.variant.name for p in parts]
    if len(set(names)) < len(names):
        twice = next(i for i, name in enumerate(names) if name in names[:i])
        one, other = (parts[i].source.folder for i in (names.index(names[twice]), twice))
        raise UsageError(
            f"{one} and {other} both hold {names[twice]}. Leave one out, or give the models other names "
            "in their specs"
        )
    for i, part in enumerate(parts):
        twin = next((other for other in parts[:i] if _runs(other) == _runs(part)), None)
        if twin:
            raise UsageError(
                f"{twin.source.folder} and {part.source.folder} run the same model file, "
                f"{part.chosen.path}. Give each model once"
            )


def _runs(part: Part) -> tuple[Any, ...]:
    """What makes a rung: its engine and options, the digests of its files, and how it sees the video."""
    one, files = part.variant, part.source.content.files
    digests = tuple(files[old] for old, _ in _files(part))
    return one.engine, one.options, digests, replace(one.spec, name="")


def _other_rungs(parts: Sequence[Part]) -> tuple[str, ...]:
    """For each bundle that is a ladder itself: which of its rungs are left out."""
    found = ((p.source, [v.name for v in p.source.ladder() if v != p.chosen]) for p in parts)
    return tuple(
        f"{', '.join(names)} of {source.content.name}: left out, since of a bundle only what it runs is taken"
        for source, names in found
        if names
    )


def _times(parts: Sequence[Part], folder: Path) -> dict[str, Latency]:
    """Time of one call of each with what comes before its model, one thread, interleaved."""
    variants = {p.variant.name: p.variant for p in parts}
    openers = {name: functools.partial(open_engine, v, folder) for name, v in variants.items()}
    opened = {name: (engine, variants[name]) for name, engine in latency.open_all(openers).items()}
    return latency.on_noise(opened, threads=1, chain=True)


def _rungs(parts: Sequence[Part], times: dict[str, Latency]) -> tuple[tuple[Rung, ...], tuple[str, ...]]:
    """The rungs that are worth their time, and why others, or their top-1, are left out."""
    found = [p.row.accuracy if p.row else None for p in parts]
    top1 = comparable(found)
    names = [p.variant.name for p in parts]
    rungs, reasons = worth_it([Rung(name, times[name].p50_ms, value) for name, value in zip(names, top1)])
    if any(a and a.n >= MIN_CLIPS and value is None for a, value in zip(found, top1)):
        reasons += ("top-1 is left out: the bundles do not say that they were judged on the same clips",)
    if busy := next((one.inconclusive for one in times.values() if one.inconclusive), None):
        reasons += (f"the order is inconclusive: {busy}. Make the ladder again on an idle machine",)
    return rungs, reasons


def comparable(accuracies: Sequence[Accuracy | None]) -> list[float | None]:
    """Top-1 of each where it can order rungs: on 30 clips or more, and all on the same clips."""
    enough = [a if a and a.n >= MIN_CLIPS else None for a in accuracies]
    clips = {a.clips for a in enough if a}
    same = len(clips) == 1 and None not in clips
    return [a.value if a and same else None for a in enough]


def worth_it(rungs: Sequence[Rung]) -> tuple[tuple[Rung, ...], tuple[str, ...]]:
    """The rungs that are worth their time, the slowest first, and why the others are not."""
    kept, reasons = [], []
    for rung in sorted(rungs, key=lambda r: -(r.p50_ms or 0)):
        better = next((o for o in rungs if o is not rung and _dominates(o, rung)), None)
        if better:
            reasons.append(f"{rung.variant} is left out: {better.variant} is faster and not less accurate")
        else:
            kept.append(rung)
    return tuple(kept), tuple(reasons)


def _dominates(a: Rung, b: Rung) -> bool:
    """Whether ``a`` is faster than ``b`` and known to be at least as accurate."""
    if a.p50_ms is None or b.p50_ms is None or a.accuracy is None or b.accuracy is None:
        return False
    return a.p50_ms < b.p50_ms and a.accuracy >= b.accuracy


def _write_golden(parts: Sequence[Part], folder: Path) -> None:
    from safetensors.numpy import save

    tensors: dict[str, np.ndarray] = {}
    for part in parts:
        old = part.chosen.name
        recorded = golden.of_variant(golden.load(part.source), old)
        name = part.variant.name
        tensors |= {
            name: recorded[old],
            f"{name}/frames": recorded["frames"],
            f"{name}/torch": recorded["torch"],
        }
    (folder / GOLDEN).write_bytes(save(tensors))


def _write(parts: Sequence[Part], rungs: tuple[Rung, ...], reasons: tuple[str, ...], folder: Path) -> None:
    largest = parts[0].source.content
    measurements = report.load(*(p.source.folder for p in parts)).report
    files = [GOLDEN, *(new for part in parts for _, new in _files(part))]
    content = replace(
        largest,
        name=f"{largest.name}-ladder",
        steps=measurements.steps,
        variants=tuple(p.variant for p in parts),
        golden={"file": GOLDEN, "frames": largest.golden.get("frames")},
        files=bundle.digests(folder, files),
    )
    write_json(folder / MEASURED, measurements)
    write_text(folder / "report.md", report.to_markdown(measurements))
    write_text(folder / "report.html", report.to_html(measurements))
    measured = Measured(
        run=rungs[0].variant,
        status=parts[0].source.measured.status,
        verdict=parts[0].source.measured.verdict,
        reasons=reasons,
        files=bundle.digests(folder, [MEASURED, "report.md", "report.html"]),
        ladder=rungs,
        proven={
            p.variant.name: p.source.measured.proven[p.chosen.name]
            for p in parts
            if p.chosen.name in p.source.measured.proven
        },
        timed_on=(),  # a deadline chooses among the rungs, by times of its own
    )
    bundle.write(folder, content, measured)
