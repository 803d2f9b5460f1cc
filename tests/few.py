"""Few of the clips that edgepv ships with: tests look at what is done with them, not at accuracy."""

from __future__ import annotations

from edgepv.data.clips import Clip
from edgepv.pipeline import source
from edgepv.types import ModelSpec

FEW = 4
"""Clips of each label and split that stay: the least from which channels are folded."""

every = source._shipped


def few(spec: ModelSpec) -> list[Clip]:
    """The first of each label and split."""
    clips = every(spec)
    kinds = [(clip.split, clip.label) for clip in clips]
    return [clip for i, clip in enumerate(clips) if kinds[:i].count(kinds[i]) < FEW]
