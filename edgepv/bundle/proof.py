"""Opening a bundle on a machine that it was not proven on: golden answers decide before the first real one.

An INT8 sum, a bfloat16 product or a newer engine may answer otherwise than the file did where it was made.
What was found is remembered in the cache, for this bundle, CPU and engine.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgepv.base import cache
from edgepv.base.engines import ENGINES
from edgepv.base.files import digest, parse_json, write_json
from edgepv.base.machine import proof
from edgepv.base.registry import resolve
from edgepv.bundle import golden
from edgepv.bundle.manifest import Bundle
from edgepv.errors import ParityError, TargetUnavailableError, UsageError
from edgepv.metrics import gate
from edgepv.runtimes.engine import on_this_device
from edgepv.types import Measurement, Report, Variant, decode

MEASURED = "measured.json"


@dataclass(frozen=True)
class Proven:
    """What may answer here. notes: which variants may not, why, and what runs in their place."""

    variants: tuple[Variant, ...]
    notes: tuple[str, ...] = ()


def proven(bundle: Bundle, wanted: Sequence[Variant], *, fixed: bool = False) -> Proven:
    """Those of the ``wanted`` variants that answer here as they did where they were proven.

    If none does, the fastest other one that does takes their place, unless they are ``fixed`` by the user.
    Raises TargetUnavailableError if nothing is left, and UsageError if the bundle's recording is damaged.
    """
    notes: list[str] = []
    wanted = wanted if fixed else _best_here(bundle, wanted, notes)
    kept = tuple(v for v in wanted if _stands(bundle, v, notes))
    if not kept and not fixed:
        kept = tuple(_instead(bundle, wanted, notes))
    if not kept:
        raise TargetUnavailableError(f"{bundle.folder}: nothing may run here. {' '.join(notes)}")
    return Proven(kept, tuple(notes))


def taken(bundle: Bundle) -> Variant:
    """The variant that this device runs of a bundle: what it was found to run best, else the chosen one."""
    return _best_here(bundle, (bundle.variant(),), [])[0]


def _best_here(bundle: Bundle, wanted: Sequence[Variant], notes: list[str]) -> Sequence[Variant]:
    """What this device was found to run best in place of a single variant; of a ladder what it may run."""
    engine = wanted[0].engine
    known = engine in ENGINES.names()  # an unknown one is named where it is opened
    ask = ENGINES.find(engine).kept if known else None
    names: tuple[str, ...] = resolve(ask)(bundle.digest) if ask else ()
    if not names:
        return wanted
    fit = [v for v in wanted if v.name in names] if len(wanted) > 1 else []
    notes += [f"{v.name} was not kept on this device." for v in wanted if fit and v not in fit]
    return fit or (bundle.variant(names[0]),)


def _instead(bundle: Bundle, wanted: Sequence[Variant], notes: list[str]) -> Iterator[Variant]:
    """The fastest variant that stands, if one does."""
    tried = {v.name for v in wanted}
    others = {v.name: v for v in bundle.content.variants if v.name not in tried}
    rows = sorted((row for row in report_of(bundle).rows if row.variant in others), key=_preference)
    ranked = [others.pop(row.variant) for row in rows] + [*others.values()]
    for variant in ranked:
        if _stands(bundle, variant, notes):
            notes.append(f"{variant.name} runs in its place.")
            yield variant
            return


def _preference(row: Measurement) -> tuple[bool, float]:
    """Sort key of rows as a bundle prefers them.

    What kept its accuracy comes first, then the lower p50 in ms measured where the bundle was made.
    """
    return gate.inconclusive_reason(row) is not None, row.latency[0].p50_ms if row.latency else math.inf


def report_of(bundle: Bundle) -> Report:
    """What was measured where the bundle was made; no row where it does not say."""
    if MEASURED not in bundle.measured.files:
        return Report("", (), "")
    return decode(Report, parse_json(bundle.checked(MEASURED), bundle.folder / MEASURED), where=MEASURED)


def _stands(bundle: Bundle, variant: Variant, notes: list[str]) -> bool:
    """Whether a variant was proven here, now or before; a note says why not.

    A file for TensorRT is replayed by ONNX Runtime as where it was made, unless TensorRT is here.
    """
    try:
        here = proof(on_this_device(variant).engine)
    except (TargetUnavailableError, UsageError) as e:  # an engine of a package that is not here, or is broken
        notes.append(f"{e}.")
        return False
    if bundle.measured.proven.get(variant.name) == here:
        return True
    known = cache.root() / "proofs" / f"{digest([bundle.digest, variant, here])}.json"
    if known.is_file():
        return True
    recorded = golden.load(bundle)
    try:
        replayed = golden.replay_one(bundle, variant, recorded)
    except (ParityError, TargetUnavailableError, UsageError) as e:
        notes.append(f"{e}.")
        return False
    with contextlib.suppress(OSError):  # a device that cannot remember replays at every start
        write_json(known, {"variant": variant.name, "error": replayed.error, "limit": replayed.limit})
    return True
