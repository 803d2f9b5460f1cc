"""From a model to bundles: the line, the exam of every variant, and what is written."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from edgepv import bundle
from edgepv.base.console import Console
from edgepv.base.files import whole_file, whole_folder
from edgepv.errors import (
    EdgepvError,
    IncompleteError,
    InconclusiveError,
    LatencyGateError,
    retold,
    told,
)
from edgepv.model.checkpoint import load_notes
from edgepv.pipeline.before import Chained, with_chain
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.layers import of_export
from edgepv.pipeline.options import Options, bundle_folder, check_options, refuse_chain, zip_of
from edgepv.pipeline.pack import ExportedBundle, pack
from edgepv.pipeline.prepare import PreparedModel, prepare
from edgepv.pipeline.source import Clips, Source, gather, load
from edgepv.targets import target as find_target
from edgepv.types import LayerSensitivity, Target

LATE = (LatencyGateError, InconclusiveError)
"""What a target ends with that is not, or not surely, within ``--latency-ms``."""


@dataclass(frozen=True)
class NotMade:
    """A target that has no bundle: why, in one line, and what exit code that alone would have."""

    target: str
    why: str
    exit_code: int


@dataclass(frozen=True)
class ExportResult:
    """What an export came to: the bundles that are there, and the targets that have none."""

    made: tuple[ExportedBundle, ...]
    not_made: tuple[NotMade, ...] = ()


def export(options: Options, console: Console) -> ExportResult:
    """Make one bundle per target below ``options.out``.

    Each is built under a temporary name and renamed into place as soon as it is complete; a target that
    cannot be made leaves the others, and one that is late with the chain that ``auto`` kept is made without.
    Raises what went wrong with the first, of its kind, if none can be made; then nothing new is left behind.
    """
    targets = [find_target(name) for name in options.targets]
    check_options(options, targets)
    source = load(options)
    clips = gather(options, source.spec)
    console.say(f"model {source.spec.name} ({source.sha256[:12]}), clips: {clips.origin}")
    for note in (*load_notes(source.checkpoint), *clips.notes):
        console.say(note)
    context = RunContext(options, console)
    for target in targets:
        refuse_chain(source.spec.before, target)
    chain = with_chain(context, source, clips)
    made: dict[str, ExportedBundle] = {}
    failed: dict[str, Exception] = {}
    try:
        _pack_each(context, chain, clips, targets, made, failed)
        late = [t for t in targets if chain.by_itself and isinstance(failed.get(t.name), LATE)]
        if late:
            _pack_each(context, chain.without([t.name for t in late]), clips, late, made, failed)
    except KeyboardInterrupt as e:
        raise KeyboardInterrupt(_left(options, list(made.values()))) from e
    if not made:
        _raise_all(failed)
    bundles = tuple(made[t.name] for t in targets if t.name in made)
    return ExportResult(bundles, tuple(NotMade(name, *told(e)) for name, e in failed.items()))


def _pack_each(
    context: RunContext,
    chain: Chained,
    clips: Clips,
    targets: Sequence[Target],
    made: dict[str, ExportedBundle],
    failed: dict[str, Exception],
) -> None:
    """Bundles of a model that has its chain before it go to ``made``, those that cannot be to ``failed``."""
    options, console, source = context.options, context.console, chain.source
    prepared = prepare(context, source, clips)
    notes = (*chain.notes, *prepared.notes)
    prepared = replace(prepared, notes=notes, chain_ms=chain.p99_ms)
    if any("int8" in _precisions(options, target) for target in targets):
        prepared = replace(prepared, sensitivity=_sensitivity(context, source, clips))
    context.modules.clear()  # what the targets still run, ``prepared`` holds itself
    for target in targets:
        try:
            made[target.name] = _bundled(context, prepared, target)
            failed.pop(target.name, None)
        except Exception as e:
            failed[target.name] = e
            if chain.by_itself and isinstance(e, LATE):
                console.say(f"{target.name}: made without {', '.join(source.spec.before)}: {told(e)[0]}")
            elif len(options.targets) > 1:
                console.say(f"{target.name}: not made: {told(e)[0]}")


def _precisions(options: Options, target: Target) -> tuple[str, ...]:
    return target.precisions if options.precision == "auto" else (options.precision,)


def _sensitivity(context: RunContext, source: Source, clips: Clips) -> tuple[LayerSensitivity, ...]:
    """For the report alone: a model whose layers cannot be looked at one by one is exported all the same."""
    try:
        return of_export(context, source, clips)
    except EdgepvError as e:
        context.console.say(f"what INT8 of each layer costs is not measured: {e}")
        return ()


def _bundled(context: RunContext, prepared: PreparedModel, target: Target) -> ExportedBundle:
    """One target's bundle and its zip; both appear when they are whole, or neither does."""
    folder = bundle_folder(context.options, target.name)
    with (
        whole_file(zip_of(folder)) as archive,
        whole_folder(folder, replace=context.options.force) as tmp,
    ):
        exported = replace(pack(context, prepared, target, tmp), folder=folder)
        bundle.zip_bundle(tmp, archive)
    context.console.say(f"{target.name}: {exported.chosen.variant} ({exported.digest[:12]})")
    return exported


def _left(options: Options, bundles: Sequence[ExportedBundle]) -> str:
    """What a stopped export left, and what makes the rest; nothing where it left nothing."""
    rest = [name for name in options.targets if name not in {one.target for one in bundles}]
    if not bundles or not rest:
        return ""
    whole = ", ".join(str(one.folder) for one in bundles)
    out = options.out if len(rest) > 1 else str(bundle_folder(options, rest[0]))
    again = shlex.join(["--target", ",".join(rest), "--out", out])
    return f"Whole and kept: {whole}. For the rest run it again with {again}"


def _raise_all(failed: Mapping[str, Exception]) -> NoReturn:
    """Raise the first of the errors; where there are more, one of its kind that says them all."""
    first = next(iter(failed.values()))
    if len(failed) == 1 or not isinstance(first, EdgepvError):
        raise first
    raise retold(first, "; ".join(f"{name}: {told(e)[0]}" for name, e in failed.items())) from first


def exit_code(options: Options, found: ExportResult) -> int:
    """The code of an export that ended: 10, 6 or 0.

    10 if a target was not made; 6 if the user asked for an accuracy gate and a chosen variant has too few
    clips to tell, or a label none; else 0.
    """
    if found.not_made:
        return IncompleteError.exit_code
    drops = [m.chosen.drop for m in found.made]
    undecided = any(d is None or d.verdict in ("inconclusive", "not applied") for d in drops)
    return InconclusiveError.exit_code if options.gate and undecided else 0
