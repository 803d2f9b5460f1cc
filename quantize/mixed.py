"""INT8 with the fewest layers in float that still meet a target: the most sensitive ones go first."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgepv.base.cache import cached
from edgepv.base.machine import versions
from edgepv.errors import ParityError, UsageError
from edgepv.metrics.stats import sqnr_db
from edgepv.quantize import int8_onnx
from edgepv.quantize.ranges import Method, check_method
from edgepv.quantize.sensitivity import answers_of, per_layer
from edgepv.stream import Tensors, by_file_names
from edgepv.types import Variant

PROBES = 4  # the last of four parts of the feeds compares answers; the others set the ranges meanwhile


@dataclass(frozen=True)
class Step:
    """How much stays in float.

    min_sqnr_db: of the logits against the float model, with the states the float model had; the fewest
    layers that reach it stay in float. keep: at least this many of the most sensitive layers do. ranges: of
    activations (see edgepv.quantize.ranges). weight_bits: see ``int8_onnx.Step``.
    """

    min_sqnr_db: float | None = None
    keep: int = 0
    ranges: Method = "minmax"
    weight_bits: Literal[7, 8] = 8

    def __call__(
        self, base: Variant, folder: Path, feeds: Sequence[Tensors], calibration_digest: str, out: Path
    ) -> Variant:
        """Quantize ``folder / base.path`` to ``out``, keeping as few of its most sensitive layers as will do.

        feeds: graph inputs with rolled states, in the order of ``calibration.rolled_feeds``: the last quarter
        is of the last clips of every label. While layers are chosen it sets no range, and answers are
        compared on it; the file that is kept has its ranges from all feeds, and reaches ``min_sqnr_db`` there
        too. How many layers is found by halving, on the assumption that more float is never worse.
        Raises UsageError for fewer than ``PROBES`` feeds, ParityError if one layer in INT8 is one too many.
        """
        check_method(self.ranges)
        cut = len(feeds) - len(feeds) // PROBES
        ranging, probes = feeds[:cut], feeds[cut:]
        if not probes:
            raise UsageError(f"{len(feeds)} calibration inputs are too few to compare on. Give more clips")
        order = sensitive_first(base, folder, ranging, probes, calibration_digest, self.ranges)

        def made(kept: int, feeds: Sequence[Tensors]) -> Variant:
            step = int8_onnx.Step(tuple(order[:kept]), self.ranges, self.weight_bits)
            return step(base, folder, feeds, calibration_digest, out)

        fewest = min(self.keep, len(order) - 1)
        if self.min_sqnr_db is None:
            return made(fewest, feeds)
        theirs, limit = by_file_names(base, probes), self.min_sqnr_db
        wanted = answers_of(folder / base.path, base, theirs)

        def enough(variant: Variant) -> bool:
            return sqnr_db(wanted, answers_of(out, variant, theirs)) >= limit

        counts = range(len(order))
        fewest = bisect.bisect_left(counts, True, lo=fewest, key=lambda kept: enough(made(kept, ranging)))
        for kept in counts[fewest:]:
            variant = made(kept, feeds)
            if enough(variant):
                return variant
        out.unlink(missing_ok=True)
        raise ParityError(
            f"{base.spec.name}: with any layer in INT8 the logits stay below {limit:g} dB. "
            "Keep it in float: --precision fp32"
        )


def sensitive_first(
    base: Variant,
    folder: Path,
    ranging: Sequence[Tensors],
    probes: Sequence[Tensors],
    calibration_digest: str,
    ranges: Method = "minmax",
) -> list[str]:
    """Names of the convolutions, the most sensitive to INT8 first; from the cache if they are known.

    ranging: feeds that set the ranges, by the method ``ranges``; probes: feeds on which answers are compared.
    """
    key = {
        "step": "sensitive first",
        "model": base.sha256,
        "calibration": calibration_digest,
        "feeds": [len(ranging), len(probes)],
        "ranges": ranges,
        "tools": versions(("edgepv", "onnx", "onnxruntime")),
    }

    def ranked(_: Path) -> list[str]:
        return [found.layer for found in per_layer(base, folder, ranging, probes, ranges=ranges)]

    order: list[str] = cached(key, ranked)[1]
    return order
