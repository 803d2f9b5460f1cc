"""INT8 with the fewest layers in float that still meet a target: the most sensitive ones go first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgepv.cache import cached
from edgepv.checkpoint import versions
from edgepv.errors import ParityError, UsageError
from edgepv.quantize import int8_onnx
from edgepv.quantize.ranges import Method
from edgepv.quantize.sensitivity import answers_of, per_layer
from edgepv.stats import sqnr_db
from edgepv.stream import Tensors, by_file_names
from edgepv.types import Variant

PROBES = 4  # one in four of the feeds, in order and so of other clips, compares; the rest sets ranges


@dataclass(frozen=True)
class Step:
    """How much stays in float.

    min_sqnr_db: of the logits against the float model, with the states the float model had; the fewest
    layers that reach it stay in float. keep: at least this many of the most sensitive layers do. ranges: of
    activations (see edgepv.quantize.ranges).
    """

    min_sqnr_db: float | None = None
    keep: int = 0
    ranges: Method = "minmax"

    def __call__(
        self, base: Variant, folder: Path, feeds: Sequence[Tensors], calibration_digest: str, out: Path
    ) -> Variant:
        """Quantize ``folder / base.path`` to ``out``, keeping as few of its most sensitive layers as will do.

        feeds: graph inputs with rolled states, clip by clip; the last quarter sets no range, answers are
        compared on it. How many layers is found by halving, on the assumption that more float is never worse.
        Raises ParityError if even one layer in INT8 is one too many.
        """
        cut = len(feeds) - len(feeds) // PROBES
        ranging, probes = feeds[:cut], feeds[cut:]
        if not probes:
            raise UsageError(f"{len(feeds)} calibration inputs are too few to compare on. Give more clips")
        order = sensitive_first(base, folder, ranging, probes, calibration_digest)

        def made(kept: int) -> Variant:
            step = int8_onnx.Step(keep_float=tuple(order[:kept]), ranges=self.ranges)
            return step(base, folder, ranging, calibration_digest, out)

        few, many = min(self.keep, len(order) - 1), len(order)
        if self.min_sqnr_db is None:
            return made(few)
        theirs = by_file_names(base, probes)
        wanted = answers_of(folder / base.path, base, theirs)
        while few < many:
            middle = (few + many) // 2
            variant = made(middle)
            enough = sqnr_db(wanted, answers_of(out, variant, theirs)) >= self.min_sqnr_db
            few, many = (few, middle) if enough else (middle + 1, many)
        if few == len(order):
            out.unlink(missing_ok=True)
            raise ParityError(
                f"{base.spec.name}: with any layer in INT8 the logits stay below {self.min_sqnr_db:g} dB. "
                "Keep it in float: --precision fp32"
            )
        return made(few)


def sensitive_first(
    base: Variant,
    folder: Path,
    ranging: Sequence[Tensors],
    probes: Sequence[Tensors],
    calibration_digest: str,
) -> list[str]:
    """Names of the convolutions, the most sensitive to INT8 first; from the cache if they are known."""
    key = {
        "step": "sensitive first",
        "model": base.sha256,
        "calibration": calibration_digest,
        "feeds": [len(ranging), len(probes)],
        "tools": versions(("edgepv", "onnx", "onnxruntime")),
    }
    order: list[str] = cached(
        key, lambda _: [layer.layer for layer in per_layer(base, folder, ranging, probes)]
    )[1]
    return order
