"""Measured results found on disk, and joined under names that do not clash."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, TypeVar

from edgepv.base.files import parse_json
from edgepv.bundle.archive import unpacked
from edgepv.bundle.manifest import MANIFEST, manifest_bytes, parse
from edgepv.errors import UsageError, unknown
from edgepv.types import Latency, Measurement, Report, decode

MEASURED = "measured.json"
MOST_REPORT = 64 << 20  # bytes; the largest of ours has 0.4 MiB

T = TypeVar("T")
Rename: TypeAlias = Callable[[str, str], str]
OPENING = 1 << 20  # characters; the first table of a page comes long before
OPENINGS = (r"# [^\n]*\n\n\d+ rows?, [^\n]* The original is [^\n]*\.\n\n", r'\{"baseline":"[^\n]*"rows":\[')
"""How our Markdown and JSON begin."""


def load(paths: Sequence[Path]) -> Report:
    """The reports of bundles (folders or zips), folders of bundles, or .json files, as one.

    Equal rows are kept once; names that clash are prefixed with their bundle's folder.
    Raises UsageError for a path without a report, or one that does not decode.
    """
    if not paths:
        raise UsageError("no path to report on. Give a bundle, a folder of bundles, or a .json file")
    sources = {file.resolve(): file for path in paths for file in _sources(path)}
    labels = _tails([_labelled(file) for file in sources])
    return join(list(zip(labels, map(_read, sources.values()), strict=True)))


def _sources(path: Path) -> list[Path]:
    """The report files a path stands for; half-written (hidden) folders are passed over."""
    if path.is_file():
        return [path]
    if (path / MEASURED).is_file():
        return [path / MEASURED]
    files = [
        file
        for file in sorted(path.rglob(MEASURED))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not files:
        state = f"holds no {MEASURED}" if path.exists() else "does not exist"
        raise UsageError(f"{path} {state}. Give a bundle that edgepv export has measured")
    return files


def _labelled(file: Path) -> tuple[str, ...]:
    """The words that may name a report: its bundle's path, or the file's own without its suffix."""
    return file.parent.parts if file.name == MEASURED else file.with_suffix("").parts


def _tails(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """The last part of each path, with as many parents as tell all of them apart."""
    for depth in range(1, max(map(len, paths), default=0) + 1):
        names = ["/".join(parts[-depth:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{parts[-1]}-{i + 1}" for i, parts in enumerate(paths)]


def _read(file: Path) -> Report:
    """One report. Raises UsageError if the file holds something else, or not what its bundle measured."""
    if file.suffix != ".zip":
        return _read_in(file, str(file), file.parent)
    with unpacked(file) as folder:
        if not (folder / MEASURED).is_file():
            raise UsageError(f"{file} holds no readable {MEASURED}. Export the bundle again")
        return _read_in(folder / MEASURED, f"{file} {MEASURED}", file)


def _read_in(file: Path, where: str, place: Path) -> Report:
    """The report in a file. where, place: what the file and its bundle are called in errors."""
    data, manifest = _bytes(file), None
    if file.name == MEASURED and file.with_name(MANIFEST).is_file():
        manifest = manifest_bytes(file.parent)
    noted = parse(place, manifest).measured.files.get(MEASURED) if manifest is not None else None
    if manifest is not None and noted != hashlib.sha256(data).hexdigest():
        raise UsageError(
            f"{where} is not what the bundle was written with: its SHA-256 differs from the manifest's. "
            f"Its figures are not shown; see: edgepv verify {place}"
        )
    return _sound(decode(Report, parse_json(data, Path(where)), where=where), where)


def _bytes(file: Path) -> bytes:
    with file.open("rb") as f:
        data = f.read(MOST_REPORT + 1)
    if len(data) > MOST_REPORT:
        raise UsageError(f"{file} has over {MOST_REPORT >> 20} MiB; no report of edgepv has")
    return data


def _sound(report: Report, where: str) -> Report:
    """The same report. Raises UsageError naming the field if no row, no baseline or no time makes sense."""
    names = [row.variant for row in report.rows]
    if not names:
        raise UsageError(f"{where}: rows is empty, so nothing was measured. Export the bundle again")
    if report.baseline not in names:
        raise UsageError(f"{where}: baseline: {unknown('row', report.baseline, names)}")
    for name in report.runs:
        if name not in names:
            raise UsageError(f"{where}: runs: {unknown('row', name, names)}")
    for i, row in enumerate(report.rows):
        for j, latency in enumerate(row.latency):
            for name in ("p50_ms", "p95_ms", "p99_ms"):
                value = getattr(latency, name)
                if value is not None and not 0 < value < math.inf:
                    raise UsageError(
                        f"{where}: rows[{i}].latency[{j}].{name} of {row.variant} is {value:g}; a time is "
                        "above 0 ms and finite. Measure again"
                    )
    return report


def join(reports: Sequence[tuple[str, Report]]) -> Report:
    """Several named reports as one; the first one's baseline is the baseline.

    A row keeps its ties: names in ``interleaved_with`` and ``ratios`` are renamed with the rows they mean.
    How the model was made to step is kept if it is the same in all; else a reason says that it is not shown.
    """
    unique = [r for i, r in enumerate(reports) if r[1] not in [other for _, other in reports[:i]]]
    if len(unique) == 1:
        return unique[0][1]
    rename = _renamer(unique)
    rows: dict[str, Measurement] = {}
    for label, report in unique:
        for row in report.rows:
            new = rename(label, row.variant)
            rows.setdefault(new, _renamed(row, new, label, rename))
    first_label, first = unique[0]
    steps = [step for _, report in unique for step in report.steps]
    how = [(report.stream, report.frames) for _, report in unique]
    stream, frames = how[0] if all(one == how[0] for one in how) else (None, 1)
    told = stream is not None or not any(one and one.exactness for one, _ in how)
    return Report(
        title=_title([report.title for _, report in unique]),
        rows=tuple(rows.values()),
        baseline=rename(first_label, first.baseline),
        steps=tuple(s for i, s in enumerate(steps) if s not in steps[:i]),
        reasons=(
            *(f"{label}: {why}" for label, report in unique for why in report.reasons),
            *(() if told else ("the bundles step differently: how is in the report of each",)),
        ),
        stream=stream,
        frames=frames,
        thumbnails=dict(sorted(pair for _, report in unique for pair in report.thumbnails.items())),
        runs=tuple(dict.fromkeys(rename(label, row) for label, report in unique for row in report.runs)),
        sensitivity=_alike([report.sensitivity for _, report in unique]),
        robustness=tuple(
            replace(one, variant=rename(label, one.variant)) for label, r in unique for one in r.robustness
        ),
        baselines=_alike([report.baselines for _, report in unique]),
        live=tuple(run for _, report in unique for run in report.live),
        commands=tuple(dict.fromkeys(command for _, report in unique for command in report.commands)),
        digests=_digests(unique),
    )


def _alike(values: Sequence[tuple[T, ...]]) -> tuple[T, ...]:
    """What all reports that have it agree on; () where they are of different models."""
    there = [value for value in values if value]
    return there[0] if there and all(value == there[0] for value in there) else ()


def _digests(reports: Sequence[tuple[str, Report]]) -> dict[str, str]:
    """All digests; where two reports mean different things by one name, each by its report's name."""
    named: dict[str, dict[str, str]] = {}
    for label, report in reports:
        for what, value in report.digests.items():
            named.setdefault(what, {})[label] = value
    found: dict[str, str] = {}
    for what, values in named.items():
        alike = len(set(values.values())) == 1
        found |= {what if alike else f"{what} of {label}": value for label, value in values.items()}
    return found


def _title(titles: Sequence[str]) -> str:
    """One title of several: a model that is packed for more than one target is named once."""
    targets: dict[str, list[str]] = {}
    for title in dict.fromkeys(titles):
        model, _, target = title.rpartition(" for ")
        targets.setdefault(model or title, []).extend([target] if model else [])
    return ", ".join(
        f"{model} for {', '.join(names)}" if names else model for model, names in targets.items()
    )


def _renamer(reports: Sequence[tuple[str, Report]]) -> Rename:
    """(report label, row name) -> the row's name in the joined report."""
    kept: list[tuple[str, Measurement]] = []
    owner: dict[tuple[str, str], str] = {}
    for label, report in reports:
        for row in report.rows:
            twin = next((where for where, other in kept if other == row), None)
            owner[label, row.variant] = twin or label
            if twin is None:
                kept.append((label, row))
    clash = max(Counter(row.variant for _, row in kept).values(), default=1) > 1

    def rename(label: str, name: str) -> str:
        return f"{owner.get((label, name), label)}/{name}" if clash else name

    return rename


def _renamed(row: Measurement, new: str, label: str, rename: Rename) -> Measurement:
    def tied(latency: Latency) -> Latency:
        names = tuple(rename(label, name) for name in latency.interleaved_with)
        ratios = tuple(replace(pair, to=rename(label, pair.to)) for pair in latency.ratios)
        return replace(latency, interleaved_with=names, ratios=ratios)

    return replace(row, variant=new, latency=tuple(tied(latency) for latency in row.latency))


def is_report(path: Path) -> bool:
    """Whether a file is a report as ``to_html``, ``to_markdown`` or ``to_json`` writes it, or empty."""
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as f:
        text = f.read(OPENING)
    if text.startswith("<!doctype html>"):
        return 'data-table="overview"' in text or 'data-table="glance"' in text  # 0.1.0's name of it
    return not text or any(re.match(opening, text) for opening in OPENINGS)
