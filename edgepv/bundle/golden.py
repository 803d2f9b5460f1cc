"""Golden vectors: recorded frames and answers that a copy of the bundle must reproduce."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgepv.base.isolated import TIMEOUT_S, call
from edgepv.base.machine import proof
from edgepv.base.vet import vouch, vouched
from edgepv.bundle.manifest import GOLDEN, Bundle, read
from edgepv.data.before import bare
from edgepv.data.frames import preprocess
from edgepv.errors import EdgepvError, ParityError, TargetUnavailableError, UsageError
from edgepv.model.spec import MOST_FRAMES, MOST_SIDE
from edgepv.runtimes.engine import Engine, on_this_device, open_engine
from edgepv.runtimes.engines.ort import first_line
from edgepv.stream import Stepper
from edgepv.types import Proof, Variant, decode, encode

VALUES = 4096
"""Values that are kept of one answer: all of any logits, a spread sample of a picture."""
FLOAT_TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 1e-2, "int8": 5e-2}
"""Share of the answers' own size (RMS) by which a replay may differ on another machine, for each precision:
roundings of float32 add up; fp16 keeps 11 bits, bf16 8 and INT8 8, and other kernels round elsewhere."""

NUMBER_SLACK = 4.0
"""Of a further number in INT8, against an answer: one value of one frame moves more than several over a
window. Then it may move by twice what quantization changed."""


@dataclass(frozen=True)
class Replay:
    """One variant replayed. error: rmse against the recorded answer; limit: what is allowed.

    Both are None with ``skipped`` saying why it was not replayed here.
    """

    variant: str
    error: float | None
    limit: float | None
    skipped: str | None = None


def golden_answers(engine: Engine, variant: Variant, frames: np.ndarray) -> np.ndarray:
    """Answers (N, values) after each of N frames (N, H, W, 3) uint8, as ``write_golden`` has them.

    They are of the model's size and have been through its chain. Closes the engine.

    Of a large answer, a picture, ``VALUES`` values spread over it.
    """
    return all_golden_answers(engine, variant, frames)[variant.spec.answer.name]


def all_golden_answers(engine: Engine, variant: Variant, frames: np.ndarray) -> dict[str, np.ndarray]:
    """The same of the answer and of each further number, such as a surprise, by their names."""
    stepper, spec = Stepper(engine.infer, variant.spec, variant.stream), variant.spec
    rows: dict[str, list[np.ndarray]] = {name: [] for name in (spec.answer.name, *spec.numbers)}
    try:
        seen = bare(variant.spec)
        for frame in frames:
            said = stepper.step(preprocess(frame, seen))
            for name, kept in rows.items():
                row = said[name].reshape(1, -1)
                kept.append(row[:, :: -(-row.shape[1] // VALUES)].copy())
        return {name: np.concatenate(kept) for name, kept in rows.items()}
    finally:
        engine.close()


def place_of(variant: str, number: str) -> str:
    """Where a further number's golden answers lie. variant: its name, or "torch"."""
    return f"{variant}/numbers/{number}"


def replay(bundle: Bundle) -> list[Replay]:
    """Replay the golden frames through every variant whose engine is here.

    Raises ParityError for the first variant that does not reproduce its recorded answers, UsageError like
    ``load`` and ``of_variant``.
    """
    everything = load(bundle)
    results = []
    for variant in bundle.content.variants:
        try:
            results.append(replay_one(bundle, variant, everything))
        except TargetUnavailableError as e:
            results.append(Replay(variant.name, None, None, str(e)))
    return results


def replay_one(bundle: Bundle, variant: Variant, everything: dict[str, np.ndarray]) -> Replay:
    """Replay one variant; everything: the tensors that ``load`` gives.

    Raises like ``replay``, and TargetUnavailableError if its engine is not on this machine.
    """
    runnable = on_this_device(variant)
    engine = open_engine(runnable, bundle.checked)
    computes = getattr(engine, "computes", variant.precision)  # TensorRT may run a float32 file in float16
    recorded = of_variant(everything, variant.name)
    got = all_golden_answers(engine, runnable, recorded["frames"])
    why = difference(bundle, runnable)
    for number in variant.spec.numbers:
        mine, original = (everything.get(place_of(who, number)) for who in (variant.name, "torch"))
        if mine is not None and original is not None:  # older bundles have none
            _compare(variant, got[number], {variant.name: mine, "torch": original}, computes, why, number)
    return _compare(variant, got[variant.spec.answer.name], recorded, computes, why)


def difference(bundle: Bundle, variant: Variant) -> str:
    """What is another here than where the variant was proven, as a sentence."""
    was, here = bundle.measured.proven.get(variant.name), proof(variant.engine)
    if was is None:
        return "the bundle does not say on which CPU it was proven"
    if (was.arch, was.flags) != (here.arch, here.flags):
        return f"it was proven on another CPU ({cpu(was)}) than this one ({cpu(here)})"
    if was.engine != here.engine:
        return f"it was proven with {was.engine}, and {here.engine} is here"
    return "it was proven on such a CPU with this engine, so the bundle or the machine is damaged"


def cpu(proof: Proof) -> str:
    """ "x86_64 with avx2 avx512_vnni"."""
    return f"{proof.arch} with {' '.join(proof.flags) or 'no vector extension we know'}"


def replay_apart(bundle: Bundle, timeout_s: float = TIMEOUT_S) -> list[Replay]:
    """Like ``replay``, in a process of its own: an engine that a file makes crash ends that alone.

    Raises UsageError then, and after ``timeout_s`` seconds.
    """
    rows = call(
        "edgepv.bundle.golden:replayed",
        timeout_s=timeout_s,
        folder=str(bundle.folder),
        digest=bundle.digest,
        trusted=vouched(),
    )
    return [decode(Replay, row) for row in rows]


def replayed(folder: str, digest: str, trusted: list[str]) -> Any:
    """Subprocess side of ``replay_apart``. Raises ParityError for what an engine raises of its own."""
    vouch(trusted)
    with broken_as_parity():
        return encode(replay(same(Path(folder), digest)))


def same(folder: Path, digest: str) -> Bundle:
    """The bundle of this digest. Raises UsageError if the folder holds another one by now."""
    bundle = read(folder)
    if bundle.digest != digest:
        raise UsageError(f"{folder} holds another bundle than a moment ago. Copy it again")
    return bundle


@contextlib.contextmanager
def broken_as_parity() -> Iterator[None]:
    """Raise ParityError for what an engine raises of its own: each has types of its own."""
    try:
        yield
    except (EdgepvError, OSError):
        raise
    except Exception as e:
        raise ParityError(
            f"the engine broke at the golden frames: {type(e).__name__}: {first_line(e)}. "
            "Export the bundle again"
        ) from e


def load(bundle: Bundle) -> dict[str, np.ndarray]:
    """Everything that was recorded, by name. Raises UsageError if the bundle has no readable recording."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as parse

    if GOLDEN not in bundle.content.files:
        raise UsageError(
            f"{bundle.folder} holds no {GOLDEN}: nothing says what it should answer. Copy or export it again"
        )
    path, data = bundle.folder / GOLDEN, bundle.checked(GOLDEN)
    try:
        return parse(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as e:
        raise UsageError(f"{path} holds no golden answers ({e}). Copy or export the bundle again") from e


def of_variant(everything: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """What was recorded for one variant: "frames", the answers of "torch", and its own under ``name``.

    Variants of one model share frames and original; in a ladder each has its own, under "name/frames".
    Raises UsageError if one of them is missing, or the frames are no pictures (N, H, W, 3) uint8.
    """
    own = {key: f"{name}/{key}" for key in ("frames", "torch")}
    places = {name: name} | {key: place if place in everything else key for key, place in own.items()}
    missing = [place for place in places.values() if place not in everything]
    if missing:
        raise UsageError(
            f"{GOLDEN} holds no '{missing[0]}', which variant {name} needs. Export the bundle again"
        )
    recorded = {key: everything[place] for key, place in places.items()}
    frames = recorded["frames"]
    kind = frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[-1] == 3 and frames.size
    if not kind or len(frames) > MOST_FRAMES or max(frames.shape) > MOST_SIDE:
        raise UsageError(
            f"{GOLDEN}: '{places['frames']}' is {frames.dtype} {frames.shape}, not pictures (N, H, W, 3) of "
            "uint8. Export the bundle again"
        )
    return recorded


def _compare(
    variant: Variant,
    got: np.ndarray,
    recorded: dict[str, np.ndarray],
    computes: str,
    difference: str,
    number: str | None = None,
) -> Replay:
    """Raise ParityError if what is answered here is too far from what was recorded.

    number: the name of a further number, None for the answer.
    """
    wanted, original = recorded[variant.name], recorded["torch"]
    if not got.shape == wanted.shape == original.shape:
        raise UsageError(
            f"{GOLDEN}: {variant.name} answers {got.shape} here; recorded are {wanted.shape} of its own and "
            f"{original.shape} of the original. Export the bundle again"
        )
    error, limit = rmse(got, wanted), tolerance(computes, wanted, original)
    if number is not None and computes == "int8":
        limit *= NUMBER_SLACK
    told = "" if number is None else f"'{number}' "
    if not error <= limit < math.inf:  # a NaN error is not within any limit
        raise ParityError(
            f"{variant.name} answers {told}otherwise here than where the bundle was made: rmse {error:.3g}, "
            f"allowed {limit:.3g}; {difference}. Export the bundle on a machine like this one"
        )
    return Replay(variant.name, error, limit)


def tolerance(precision: str, recorded: np.ndarray, original: np.ndarray) -> float:
    """Largest rmse a replay may have against the recorded answer, in the unit of the answer.

    INT8: half of what quantization itself changed. A plain 2 % tolerance is wider than the whole INT8
    error, so a float engine would pass for an INT8 one. Other precisions: a share of the answer's size.
    """
    share = FLOAT_TOLERANCE[precision] * rmse(original, 0.0)
    if precision != "int8":
        return share
    return 0.5 * rmse(recorded, original) or share


def rmse(a: np.ndarray, b: np.ndarray | float) -> float:
    """Root mean square difference."""
    return float(np.sqrt(((np.asarray(a, np.float64) - b) ** 2).mean()))
