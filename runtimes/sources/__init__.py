"""Where frames come from: one file per kind of camera, and what they have in common."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Frame:
    """One picture of a camera.

    pixels: (H, W, 3) uint8 BGR. time_s: when it was taken on the source's own clock; it only grows between
    two restarts. arrived_s: when this program had it, ``time.monotonic``. restarted: the first frame after
    the source (re)connected, jumped in time or changed its size, so nothing before it belongs to it; ``why``
    says which.
    """

    pixels: np.ndarray
    time_s: float
    arrived_s: float
    restarted: bool = False
    why: str = ""


class Source(Protocol):
    """A camera, or what stands in for one.

    fps: what the source says its rate is, None if it does not say. live: frames come by its own clock and are
    lost if nobody takes them; False for files, which wait.
    """

    fps: Fraction | None
    live: bool

    def read(self) -> Frame | None:
        """The next frame; None at the end. Waits for it.

        Raises SourceLostError when the source is gone but may come back, UsageError when it never was there.
        """

    def close(self) -> None:
        """Let the device go. A ``read`` that waits in another thread returns soon after."""
