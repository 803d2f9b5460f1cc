"""INT8 with the fewest layers in float that still meet a target: the most sensitive ones go first."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from edgepv.base.cache import cached
from edgepv.base.machine import versions
from edgepv.base.options import option
from edgepv.errors import ParityError, UsageError
from edgepv.metrics.stats import sqnr_db
from edgepv.quantize import int8_onnx
from edgepv.quantize.ranges import RANGES, Method, check_method
from edgepv.quantize.sensitivity import answers_of, per_layer
from edgepv.quantize.step import Calibration, VariantStep
from edgepv.stream import Tensors, by_file_names
from edgepv.types import Variant

PROBES = 4  # the last of four parts of the feeds compares answers; the others set the ranges meanwhile


@dataclass(frozen=True)
class Step(VariantStep):
    """As much in INT8 as will do; all of it if nothing is asked. weight_bits: see ``int8_onnx.Step``."""

    name = "mixed"
    tools = ("onnx", "onnxruntime")

    min_sqnr_db: float | None = option(
        None,
        "on cpu: keep the most sensitive layers of an INT8 ONNX in float until its logits are this "
        "close to the original's (default: all in INT8; see: edgepv sensitivity)",
        key="min_sqnr",
        metavar="DB",
        check=lambda db: 0 < db < math.inf,
        hint="give decibels above 0, like 30",
    )
    keep: int = option(
        0,
        "on cpu: keep the N most sensitive layers of an INT8 ONNX in float (default: 0)",
        key="keep_float",
        metavar="N",
        check=lambda n: n >= 0,
        hint="give a number of layers, 0 or more",
        searched=(0, 2, 4),
        called=lambda kept: f"{kept[0]} float",
    )
    ranges: Method = field(default="minmax", metadata=RANGES)
    weight_bits: Literal[7, 8] = 8

    def requires(self, given: Variant, aid: Calibration) -> None:
        """Raise UsageError for fewer than ``PROBES`` feeds, if layers are to be compared."""
        check_method(self.ranges)
        if self._choosing and len(aid.feeds) < PROBES:
            raise UsageError(
                f"{len(aid.feeds)} calibration inputs are too few to compare on. Give more clips"
            )

    @property
    def _choosing(self) -> bool:
        return self.keep > 0 or self.min_sqnr_db is not None

    def work(self, given: Variant, out: Path, aid: Calibration) -> Variant:
        """Quantize the file of ``given``, keeping as few of its most sensitive layers in float as will do.

        The last quarter of the feeds is of the last clips of every label. While layers are chosen it sets no
        range, and answers are compared on it; the file that is kept has its ranges from all feeds, and
        reaches the limit there too. How many layers is found by halving, on the assumption that more float is
        never worse. Raises ParityError if one layer in INT8 is one too many.
        """
        if not self._choosing:
            return int8_onnx.Step((), self.ranges, self.weight_bits)(given, out, aid)
        folder, feeds = aid.folder, aid.feeds
        cut = len(feeds) - len(feeds) // PROBES
        ranging, probes = feeds[:cut], feeds[cut:]
        order = sensitive_first(given, folder, ranging, probes, aid.digest, self.ranges)

        def quantized(kept: int, feeds: Sequence[Tensors]) -> Variant:
            step = int8_onnx.Step(tuple(order[:kept]), self.ranges, self.weight_bits)
            return step(given, out, replace(aid, feeds=feeds))

        fewest = min(self.keep, len(order) - 1)
        if self.min_sqnr_db is None:
            return quantized(fewest, feeds)
        theirs, limit = by_file_names(given, probes), self.min_sqnr_db
        wanted = answers_of(folder / given.path, given, theirs)

        def enough(variant: Variant) -> bool:
            return sqnr_db(wanted, answers_of(out, variant, theirs)) >= limit

        counts = range(len(order))
        fewest = bisect.bisect_left(
            counts, True, lo=fewest, key=lambda kept: enough(quantized(kept, ranging))
        )
        for kept in counts[fewest:]:
            variant = quantized(kept, feeds)
            if enough(variant):
                return variant
        out.unlink(missing_ok=True)
        raise ParityError(
            f"{given.spec.name}: with any layer in INT8 the logits stay below {limit:g} dB. "
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
        return [row.layer for row in per_layer(base, folder, ranging, probes, ranges=ranges)]

    order: list[str] = cached(key, ranked)[1]
    return order
