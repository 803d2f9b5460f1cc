"""Numbers as C source has them: exact, and the same on every machine."""

from __future__ import annotations

import math

import numpy as np


def literal(value: float) -> str:
    """A float32 as a C99 constant that means exactly it."""
    single = float(np.float32(value))
    if math.isinf(single):
        return "-INFINITY" if single < 0 else "INFINITY"
    if math.isnan(single):
        return "NAN"
    if single == int(single) and abs(single) < 1e6:
        return f"{single:.1f}f"
    mantissa, exponent = single.hex().split("p")
    return f"{mantissa.rstrip('0')}p{exponent}f".replace(".p", "p")
