"""A bundle tries itself on this device before a camera sees it, in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgepv.base.isolated import call
from edgepv.bundle.golden import broken_as_parity, load, of_variant, same
from edgepv.bundle.manifest import Bundle
from edgepv.errors import LatencyGateError
from edgepv.measure.here import fitting
from edgepv.metrics.times import highest, supported_ms
from edgepv.runtimes import open_session
from edgepv.types import Variant, decode, encode

WARMUP = 10


@dataclass(frozen=True)
class SelfTest:
    """What a bundle must do before it may be tried.

    p99_ms: limit for one step of the variant that will run, preprocessing and engine, over ``steps`` golden
    frames after a warm-up; None: only measured. Of fewer steps than p99 needs (``metrics.times``), the
    highest percentile that they support is held to it. timeout_s: for all of it, from the first look at the
    bundle.
    """

    p99_ms: float | None = None
    steps: int = 100
    threads: int = 1
    timeout_s: float = 600.0


def self_test(opened: Bundle, test: SelfTest) -> str:
    """Replay the golden frames of the variant that will run here, then step it; returns what came out.

    In a process of its own. As ``edgepv run`` would, another one takes its place if it answers otherwise on
    this machine than where it was proven. Frames have the model's size: a camera's larger ones take longer.
    Raises TargetUnavailableError if none answers as it did, or the engine is not on this machine,
    LatencyGateError above the limit, UsageError if the process crashes.
    """
    return str(
        call(
            "edgepv.device.self_test:self_tested",
            timeout_s=test.timeout_s,
            folder=str(opened.folder),
            digest=opened.digest,
            run=opened.measured.run,
            test=encode(test),
        )
    )


def self_tested(folder: str, digest: str, run: str, test: dict[str, object]) -> str:
    """Subprocess side of ``self_test``."""
    with broken_as_parity():
        bundle = same(Path(folder), digest)
        options = decode(SelfTest, test)
        fit = fitting(bundle, (bundle.variant(run),), fixed=False, threads=options.threads)
        name, ms = _stepped(bundle, fit.variants[0], options)
    return " ".join((f"self-test passed, {name} {ms:.1f} ms.", *fit.notes)).removesuffix(".")


def _stepped(opened: Bundle, variant: Variant, test: SelfTest) -> tuple[str, float]:
    """The highest percentile of a step that so many support, by its name and in ms."""
    frames = of_variant(load(opened), variant.name)["frames"]
    with open_session(variant, opened.checked, threads=test.threads) as session:
        answers = [session.step(frames[i % len(frames)]) for i in range(WARMUP + test.steps)]
    name, ms = highest(*supported_ms([(a.pre_ms + a.infer_ms) / 1e3 for a in answers[WARMUP:]]))
    if test.p99_ms is not None and not ms <= test.p99_ms:
        raise LatencyGateError(
            f"{variant.name} takes {ms:.1f} ms here at {name} of {test.steps} steps, allowed "
            f"{test.p99_ms:g} ms. Export a faster variant, or test while the machine is idle"
        )
    return name, ms
