"""What a step did, to which inputs, with which tools: the record that travels in the bundle."""

from __future__ import annotations

from collections.abc import Mapping

from edgepv.base.machine import versions
from edgepv.types import StepRecord


def record(
    name: str,
    options: Mapping[str, object],
    inputs: dict[str, str],
    outputs: dict[str, str],
    tools: tuple[str, ...] = (),
) -> StepRecord:
    """A StepRecord with the versions of edgepv and of the named distributions."""
    return StepRecord(name, dict(options), inputs, outputs, versions(("edgepv", *tools)))
