"""Whether an engine computes in the precision that its bundle planned, by what it says of its layers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from edgepv.base import trt_layers
from edgepv.errors import EngineError

MET = 0.9
"""Least share of the layers planned in INT8 (or float16) that have to run in it: one fused into a wider
neighbour is nothing to refuse an engine for, and an engine that is INT8 by name alone has none."""


@dataclass(frozen=True)
class Share:
    """How many of the planned layers run as planned. untold: those of which the engine tells no precision."""

    planned: int
    met: int
    untold: int
    others: tuple[str, ...]

    def told(self) -> str:
        """ "7 of 8 as planned, 1 not told"."""
        if not self.planned:
            return "nothing planned"
        return f"{self.met} of {self.planned} as planned" + (
            f", {self.untold} not told" if self.untold else ""
        )

    def as_json(self) -> dict[str, object]:
        """All of it as plain JSON data."""
        return {"planned": self.planned, "met": self.met, "untold": self.untold, "others": list(self.others)}


def wanted(plan: list[dict[str, Any]], *, int8: bool, strong: bool) -> dict[str, str]:
    """Node -> the precision it must have: of INT8 nodes, and of float16 ones where types are the file's own.

    plan: the rows of precision_plan.json. int8: whether the engine's file has Q/DQ.
    """
    found = {}
    for row in plan:
        if int8 and row["precision"] == "int8":
            found[row["node"]] = "int8"
        elif strong and row["precision"] in ("fp16", "int8"):
            found[row["node"]] = "fp16"
    return found


def share(information: str, planned: dict[str, str]) -> Share:
    """How much of the plan an engine keeps. information: its own JSON (``TrtEngine.layers``)."""
    try:
        rows = [row for row in json.loads(information)["Layers"] if isinstance(row, dict)]
    except (ValueError, KeyError, TypeError):
        rows = []
    runs: dict[str, str | None] = {node: trt_layers.executed(node, rows) for node in planned}
    untold = sum(kind is None for kind in runs.values())
    others = tuple(f"{node} in {kind}" for node, kind in runs.items() if kind not in (None, planned[node]))
    return Share(len(planned), len(planned) - untold - len(others), untold, others)


def refuse_unmet(found: Share, name: str) -> None:
    """Raise EngineError if less than ``MET`` of the layers whose precision is told run as planned."""
    told = found.planned - found.untold
    if told and found.met < MET * told:
        raise EngineError(
            f"{name} does not run as planned: {found.told()}, such as {found.others[0]}. Do not take "
            f"its speed for "
            "INT8's; report it with layers.json"
        )
