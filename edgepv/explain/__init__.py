"""What a bundle's answer to a clip rests on: places of the picture, and particles.

Deletion says how far to believe it.
"""

from __future__ import annotations

from edgepv.explain.clip import explain, explain_clip, first_frames, rows, verdicts
from edgepv.explain.picture import Explanation

__all__ = ["Explanation", "explain", "explain_clip", "first_frames", "rows", "verdicts"]
