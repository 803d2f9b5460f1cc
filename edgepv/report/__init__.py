"""Every variant of one or more bundles side by side, as HTML, Markdown or JSON.

The page is drawn from measured.json alone.
"""

from __future__ import annotations

from edgepv.report.page import picture_of_scatter, to_html, to_json, to_markdown
from edgepv.report.results import is_report, join, load

__all__ = ["is_report", "join", "load", "picture_of_scatter", "to_html", "to_json", "to_markdown"]
