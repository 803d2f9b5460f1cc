"""What makes exports quick in tests, which look at what is done, not at how good or how fast it is."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from edgepv.data.calibration import rolled_feeds
from edgepv.data.clips import Clip
from edgepv.export import to_onnx
from edgepv.measure import latency, roofline
from edgepv.pipeline import layers, line, pack, source
from edgepv.types import ModelSpec

FEW = 4
"""Clips of each label and split that stay: the least from which channels are folded and ranges are set."""

FEEDS = 32
"""Inputs that set the INT8 ranges, at most; those of a user are 200."""

every, export, timed = source._shipped, to_onnx._export, latency.latencies


def quicken(patch: pytest.MonkeyPatch) -> None:
    """Few timed calls on one thread, few of the shipped clips, small looks at a core's peaks.

    What INT8 of each layer costs is measured of tiny models alone.
    """
    patch.setattr(latency, "BUDGET_S", 0.0)
    patch.setattr(latency, "MIN_CALLS", latency.TURN)
    patch.setattr(latency, "WARMUP", latency.TURN)
    patch.setattr(pack, "latencies", functools.partial(timed, threads=(1,)))
    patch.setattr(layers, "MOST_MIB", 1)
    for place in (layers, line):
        patch.setattr(place, "rolled_feeds", functools.partial(rolled_feeds, limit=FEEDS))
    patch.setattr(roofline, "TURN_S", 1e-4)
    patch.setattr(roofline, "SIZES", (16 << 10, 1 << 20))
    patch.setattr(source, "_shipped", few)
    patch.setattr(to_onnx, "_export", export_with_one_registry)


def few(spec: ModelSpec) -> list[Clip]:
    """The first clips of each label and split."""
    return first(every(spec), FEW)


def fewest(spec: ModelSpec) -> list[Clip]:
    """The first clips of each split, as many of each label."""
    clips = every(spec)
    return first(clips, FEW // len({clip.label for clip in clips}))


def first(clips: list[Clip], most: int) -> list[Clip]:
    """So many of each label and split."""
    kinds = [(clip.split, clip.label) for clip in clips]
    return [clip for i, clip in enumerate(clips) if kinds[:i].count(kinds[i]) < most]


def export_with_one_registry(
    target: Any, example: tuple[Any, ...], out: Path, inputs: list[str], outputs: list[str]
) -> None:
    """``to_onnx._export``; what torch.onnx reads of its operators at every export is read once."""
    one_registry()
    export(target, example, out, inputs, outputs)


@functools.cache
def one_registry() -> None:
    """From now on in this process: torch parses the 500 functions of onnxscript once."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    once = functools.cache(ONNXRegistry.from_torchlib)
    once(opset_version=to_onnx.OPSET)
    ONNXRegistry.from_torchlib = staticmethod(once)  # type: ignore[method-assign]
