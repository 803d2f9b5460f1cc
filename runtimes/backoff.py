"""How long to wait before trying again what failed."""

from __future__ import annotations

import random


def pause_s(failures: int, *, longest_s: float = 30.0) -> float:
    """Seconds to wait after that many failures in a row: doubling from 0.5, with up to half taken off."""
    return min(longest_s, 0.5 * 2.0 ** min(failures, 20)) * random.uniform(0.5, 1.0)
