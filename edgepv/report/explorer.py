"""The sensitivity of layers as per-node data that Model Explorer shows over an ONNX graph.

Format: node data of google-ai-edge/model-explorer, as its ``node_data_builder`` writes one graph:
``results`` by node, each with a ``value``, and a ``gradient`` of colours from the least to the largest. Seen
in Model Explorer 0.1.34 with model-explorer-onnx 0.4.2, whose nodes go by their names in the file.
"""

from __future__ import annotations

import json
from pathlib import Path

from edgepv.base.files import write_text
from edgepv.errors import UsageError
from edgepv.types import Report

GRADIENT = (
    {"stop": 0, "bgColor": "#d73027"},
    {"stop": 0.5, "bgColor": "#fee08b"},
    {"stop": 1, "bgColor": "#1a9850"},
)
"""From the layer that loses most, red, to the one that loses least."""
DIGITS = 4
"""Decimals of a value: Model Explorer shows as many as there are."""
FILES = {"sqnr_db": "SQNR with this layer in INT8 (dB)", "changed": "share of answers it changes"}
"""Figure of a layer -> what Model Explorer calls it; each is a file, for a node has one value of each."""


def write_overlay(report: Report, folder: Path) -> list[Path]:
    """Write a file for each figure into ``folder``; a node goes by its name in the ONNX file.

    Raises UsageError if the report has no sensitivity.
    """
    if not report.sensitivity:
        raise UsageError(
            "the report has no sensitivity of layers: the model is not quantized or too large, or the bundle "
            "is older. Export it again, or see: edgepv sensitivity"
        )
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, title in FILES.items():
        known = {one.layer: getattr(one, name) for one in report.sensitivity}
        values = {layer: round(value, DIGITS) for layer, value in known.items() if value is not None}
        if values:
            colours = GRADIENT if name == "sqnr_db" else _from_least(GRADIENT)
            # between equal ends Model Explorer draws no gradient: no layer is worse than another
            alike = {"bgColor": GRADIENT[-1]["bgColor"]} if len(set(values.values())) == 1 else {}
            results = {layer: {"value": value} | alike for layer, value in values.items()}
            path = folder / f"sensitivity_{name}.json"
            write_text(path, json.dumps({"name": title, "results": results, "gradient": colours}, indent=1))
            written.append(path)
    return written


def _from_least(gradient: tuple[dict[str, object], ...]) -> list[dict[str, object]]:
    """The same colours for a figure of which less is better."""
    colours = [stop["bgColor"] for stop in reversed(gradient)]
    return [{"stop": stop["stop"], "bgColor": colour} for stop, colour in zip(gradient, colours, strict=True)]
