"""Every variant of one or more bundles side by side, as HTML, Markdown or JSON.

The page is drawn from measured.json alone.
"""

from __future__ import annotations

from edgepv.report.explorer import write_overlay
from edgepv.report.frame import Loaded, load, log_to_mlflow
from edgepv.report.page import picture_of_scatter, to_html, to_json, to_markdown
from edgepv.report.replays import with_live
from edgepv.report.results import is_report, join

__all__ = [
    "Loaded",
    "is_report",
    "join",
    "load",
    "log_to_mlflow",
    "picture_of_scatter",
    "to_html",
    "to_json",
    "to_markdown",
    "with_live",
    "write_overlay",
]
