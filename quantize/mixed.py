"""INT8 with the fewest layers in float that still meet a target."""

from __future__ import annotations

import bisect
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from edgepv.base.cache import cached
from edgepv.base.late import np
from edgepv.base.machine import versions
from edgepv.base.options import option
from edgepv.errors import ParityError, UsageError
from edgepv.quantize import int8_onnx
from edgepv.quantize.ranges import RANGES, Method, check_method
from edgepv.quantize.sensitivity import answers_of, convolutions, per_layer, rolled_answers
from edgepv.quantize.step import Calibration, VariantStep
from edgepv.stream import Tensors, by_file_names
from edgepv.types import Variant

PROBES = 4  # the last of four parts of the feeds compares answers; the others set the ranges meanwhile


@dataclass(frozen=True)
class Step(VariantStep):
    """As much in INT8 as will do; all of it if nothing is asked. weight_bits: see ``int8_onnx.Step``."""

    name = "mixed"
    version = 2
    tools = ("onnx", "onnxruntime")

    min_sqnr_db: float | None = option(
        None,
        "on cpu: keep as few layers of an INT8 ONNX in float as bring its logits this close to the "
        "original's (default: all in INT8; see: edgepv sensitivity)",
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
        """Quantize the file of ``given``, keeping as few of its layers in float as will do.

        The last quarter of the feeds is of the last clips of every label. While layers are chosen it sets no
        range, and answers are compared on those clips, each file with its own states: an error that a state
        keeps is met again at every frame. The file that is kept has its ranges from all feeds, and reaches
        the limit there too. Raises ParityError if one layer in INT8 is one too many.
        """
        from edgepv.metrics.stats import sqnr_db

        if not self._choosing:
            return int8_onnx.Step((), self.ranges, self.weight_bits)(given, out, aid)
        folder, feeds = aid.folder, aid.feeds
        cut = len(feeds) - len(feeds) // PROBES
        ranging, probes = feeds[:cut], feeds[cut:]

        def quantized(kept: Sequence[str], feeds: Sequence[Tensors]) -> Variant:
            step = int8_onnx.Step(tuple(kept), self.ranges, self.weight_bits)
            return step(given, out, replace(aid, feeds=feeds))

        def ranked() -> list[str]:
            return sensitive_first(given, folder, ranging, probes, aid.digest, self.ranges)

        if self.min_sqnr_db is None:
            order = ranked()
            return quantized(order[: min(self.keep, len(order) - 1)], feeds)
        limit, wanted = self.min_sqnr_db, _answers(folder / given.path, given, aid, probes)

        def enough(variant: Variant) -> bool:
            return sqnr_db(wanted, _answers(out, variant, aid, probes)) >= limit

        if not self.keep and enough(quantized((), ranging)) and enough(made := quantized((), feeds)):
            return made
        first, fewest = _shortest(
            ranked(), _layers(folder / given.path), self.keep, lambda k: enough(quantized(k, ranging))
        )
        for kept in range(fewest, len(first)):
            if enough(made := quantized(first[:kept], feeds)):
                return made
        out.unlink(missing_ok=True)
        raise ParityError(
            f"{given.spec.name}: with any layer in INT8 the logits stay below {limit:g} dB. "
            "Keep it in float: --precision fp32"
        )


def _answers(path: Path, variant: Variant, aid: Calibration, probes: Sequence[Tensors]) -> np.ndarray:
    """A file's answers to the last clips; to the last feeds, where nobody has the clips."""
    if aid.last:
        return rolled_answers(path, variant, aid.last)
    return answers_of(path, variant, by_file_names(variant, probes))


def _layers(path: Path) -> list[str]:
    """Names of the convolutions in the order they run."""
    with tempfile.TemporaryDirectory() as scratch:
        int8_onnx.preprocess(path, Path(scratch) / "clean.onnx")
        return convolutions(Path(scratch) / "clean.onnx")


def _shortest(
    ranked: Sequence[str], layers: Sequence[str], least: int, enough: Callable[[Sequence[str]], bool]
) -> tuple[Sequence[str], int]:
    """(an order of the layers, how many of its first in float are enough), the one that needs fewest.

    Tried are the most sensitive first, and the first of the model first: where every tensor is rounded alike
    no layer is to blame, and only a stretch in float takes error out. How many is found by halving, on the
    assumption that more float is never worse; all of them where none is enough.
    """
    best: tuple[Sequence[str], int] = (ranked, len(ranked))
    for order in (ranked, layers):
        fewest = bisect.bisect_left(
            range(best[1]), True, lo=min(least, best[1]), key=lambda kept: enough(order[:kept])
        )
        if fewest < best[1]:
            best = order, fewest
    return best


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
