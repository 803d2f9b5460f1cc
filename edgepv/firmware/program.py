"""What a step becomes before it is text: layers of C that read and write buffers, and constants."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from edgepv.firmware.views import Border, Buffer, View, plain

ALIGN_FLOATS = 16
"""Constants and buffers begin at multiples of this: 64 bytes, EDGEPV_ALIGN, the widest vector."""


@dataclass(frozen=True)
class Layer:
    """One C function. kind, node: what it is, and of which node.

    inputs, outputs: its parameters x0, x1 and so on, and y0 and so on. body: the lines of it.
    """

    kind: str
    node: str
    inputs: tuple[View, ...]
    outputs: tuple[View, ...]
    body: tuple[str, ...]


@dataclass
class Weights:
    """All constants of a model, one behind the other. Equal ones lie once."""

    arrays: list[np.ndarray] = field(default_factory=list)
    floats: int = 0
    known: dict[bytes, View] = field(default_factory=dict)

    def add(self, name: str, array: np.ndarray) -> View:
        """A constant, row by row, at a place of its own."""
        values = np.ascontiguousarray(array, np.float32)
        key = values.tobytes() + repr(values.shape).encode()
        if key not in self.known:
            buffer = Buffer(name, "weights", values.size, offset=self.floats)
            room = -(-values.size // ALIGN_FLOATS) * ALIGN_FLOATS
            self.arrays.append(np.pad(values.reshape(-1), (0, room - values.size)))
            self.floats += room
            self.known[key] = plain(buffer, values.shape)
        return self.known[key]

    @property
    def array(self) -> np.ndarray:
        """All of them, (floats,) float32."""
        return np.concatenate(self.arrays) if self.arrays else np.zeros(ALIGN_FLOATS, np.float32)


def zero_border(view: View, border: Border) -> tuple[str, ...]:
    """C that zeroes the border around an image (N, C, H, W)."""
    n, _, h, w = view.shape
    plane, _, row, pixel = view.strides
    sizes = f"{h}, {w}, {row}, {pixel}, {border.top}, {border.left}, {border.bottom}, {border.right}"
    return tuple(f"edgepv_border(y0 + {i * plane}, {sizes});" for i in range(n))


def values_of(view: View) -> int:
    """How many values a tensor has."""
    return math.prod(view.shape)
