"""Which variant of a bundle runs on this machine: what was chosen where it was made, or the fastest here.

What a laptop chose is a guess for a camera's CPU. On a CPU that the bundle was not timed on, every variant
that passed its gates and gives its golden answers here is timed for a few seconds, once; what was chosen is
remembered in the cache, for this bundle, machine, engines and thread count.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgepv.base import cache
from edgepv.base.engines import ENGINES
from edgepv.base.files import digest, read_json, write_json
from edgepv.base.machine import device_facts, machine, proof
from edgepv.bundle.manifest import Bundle
from edgepv.bundle.proof import Proven, proven, report_of
from edgepv.errors import TargetUnavailableError, UsageError
from edgepv.measure import latency
from edgepv.metrics.choice import choose
from edgepv.metrics.gate import doubtful_loss, within_gate
from edgepv.runtimes.engine import Engine, on_this_device, open_engine
from edgepv.types import DeviceFacts, Measurement, Variant, decode, encode

BUDGET_S = 3.0
"""Seconds of timed calls, all variants together: a camera that starts anew is not kept waiting longer."""


@dataclass(frozen=True)
class Choice:
    """What runs here. rows: the candidates with their times here; none where it was remembered or fixed."""

    variant: str
    why: str
    rows: tuple[Measurement, ...] = ()


def fitting(bundle: Bundle, wanted: Sequence[Variant], *, fixed: bool, threads: int = 1) -> Proven:
    """What of the ``wanted`` may run here (``bundle.proof.proven``), the variant chosen anew on a new CPU.

    fixed: the user named it. Of a ladder, a bundle that was not chosen by speed, and one whose target is not
    timed where it was made, everything stays as it is. Raises like ``proven``.
    """
    notes: tuple[str, ...] = ()
    if not fixed and len(wanted) == 1 and _guessed(bundle):
        with contextlib.suppress(TargetUnavailableError):  # proven says which engines are missing
            choice = chosen(bundle, threads)
            if choice.variant != wanted[0].name:
                wanted, notes = (bundle.variant(choice.variant),), (f"{choice.why}.",)
    fit = proven(bundle, wanted, fixed=fixed)
    return replace(fit, notes=(*notes, *fit.notes))


def _guessed(bundle: Bundle) -> bool:
    """Whether what runs was chosen by its speed on a CPU of another kind than this one."""
    if bundle.measured.prefer not in (None, "speed"):
        return False
    here = device_facts()
    kind = (here.cpu, here.arch, here.flags)
    return any((there.cpu, there.arch, there.flags) != kind for there in _timed_on(bundle))


def _timed_on(bundle: Bundle) -> Sequence[DeviceFacts]:
    """The machine whose times chose what runs, if times did.

    A start reads no more than the manifest, but for bundles of before it was noted there.
    """
    if bundle.measured.timed_on is not None:
        return bundle.measured.timed_on
    row = next((r for r in report_of(bundle).rows if r.variant == bundle.measured.run), None)
    return (row.device,) if row and row.device and row.latency else ()


def chosen(bundle: Bundle, threads: int = 1, *, again: bool = False) -> Choice:
    """The variant that is surely the fastest here, by the rule of an export (``metrics.choice``).

    again: time it although the answer is remembered. Raises TargetUnavailableError if no variant that may be
    chosen by itself has its engine here and gives its golden answers.
    """
    place = cache.root() / "choices" / f"{digest([bundle.digest, machine(), _engines(bundle), threads])}.json"
    if not again and (known := _remembered(place, bundle)):
        return known
    rows = _timed(bundle, threads)
    if not rows:
        raise TargetUnavailableError(f"{bundle.folder}: no variant that may be chosen by itself runs here")
    if busy := next(filter(None, (row.latency[0].inconclusive for row in rows)), None):
        why = f"{bundle.measured.run} runs as where it was made: times here are inconclusive, {busy}"
        return Choice(bundle.measured.run, why, tuple(rows))  # not remembered: the next start asks again
    best, why = choose(rows, latency_ms=None)
    found = Choice(best.variant, f"{why}; timed on this machine")
    with contextlib.suppress(OSError):
        write_json(place, encode(found))
    return replace(found, rows=tuple(rows))


def _remembered(place: Path, bundle: Bundle) -> Choice | None:
    with contextlib.suppress(OSError, UsageError):
        known = decode(Choice, read_json(place), where=str(place))
        if known.variant in {v.name for v in bundle.content.variants}:
            return known
    return None


def _engines(bundle: Bundle) -> list[str]:
    """The engines of the variants, with their versions here."""
    names = sorted({v.engine for v in bundle.content.variants})
    return [proof(name).engine for name in names if name in ENGINES.names()]


def _timed(bundle: Bundle, threads: int) -> list[Measurement]:
    """The rows of the candidates with their times here, interleaved; those that do not run here left out."""
    rows = {row.variant: row for row in report_of(bundle).rows}
    opened: dict[str, tuple[Engine, Variant]] = {}
    for variant in _candidates(bundle, rows):
        with contextlib.suppress(TargetUnavailableError, UsageError):
            opened[variant.name] = (open_engine(variant, bundle.checked, threads=threads), variant)
    with latency.alone():
        times = latency.on_noise(opened, threads=threads, budget_s=BUDGET_S, at_least=latency.TURN)
    here = device_facts()
    return [replace(rows[name], latency=(time,), device=here) for name, time in times.items()]


def _candidates(bundle: Bundle, rows: dict[str, Measurement]) -> Iterator[Variant]:
    """The variants that may run by themselves, and that give their golden answers here."""
    for variant in bundle.content.variants:
        row = rows.get(variant.name)
        known = variant.engine in ENGINES.names()
        timed = known and on_this_device(variant) is variant  # a stand-in's speed tells nothing
        if row is None or not within_gate(row) or doubtful_loss(row) or not timed:
            continue
        with contextlib.suppress(TargetUnavailableError):
            yield from proven(bundle, (variant,), fixed=True).variants
