"""What a step becomes before it is text: layers of C that read and write buffers, and constants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from edgepv.firmware.views import ALIGN_BYTES, ITEM_BYTES, Buffer, View, plain

CONSTANTS: Mapping[str, str] = MappingProxyType(
    {"float": "W", "int32_t": "W32", "int8_t": "W8", "uint8_t": "T8"}
)
"""C type of constants -> name of the array that holds those of a model."""
DTYPES: Mapping[str, str] = MappingProxyType(
    {"float": "<f4", "int32_t": "<i4", "int8_t": "|i1", "uint8_t": "|u1"}
)
"""C type -> numpy's."""


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
    """All constants of a model by C type, those of one type one behind the other. Equal ones lie once."""

    arrays: dict[str, list[np.ndarray]] = field(default_factory=dict)
    known: dict[bytes, View] = field(default_factory=dict)

    def add(self, name: str, array: np.ndarray) -> View:
        """A constant, row by row, at a place of its own. Its type is that of the array, or else float."""
        ctype = next((c for c, dtype in DTYPES.items() if array.dtype == dtype), "float")
        values = np.ascontiguousarray(array, DTYPES[ctype])
        key = values.tobytes() + repr((ctype, values.shape)).encode()
        if key not in self.known:
            lying = self.arrays.setdefault(ctype, [])
            buffer = Buffer(name, "weights", values.size, offset=sum(map(len, lying)), ctype=ctype)
            step = ALIGN_BYTES // ITEM_BYTES[ctype]
            room = -(-values.size // step) * step
            lying.append(np.pad(values.reshape(-1), (0, room - values.size)))
            self.known[key] = plain(buffer, values.shape)
        return self.known[key]

    def all(self) -> dict[str, np.ndarray]:
        """C type -> all constants of it, (values,), each beginning at a multiple of the widest vector."""
        return {ctype: np.concatenate(self.arrays[ctype]) for ctype in CONSTANTS if ctype in self.arrays}


def zero_border(view: View) -> tuple[str, ...]:
    """C that fills the border around an image (N, C, H, W) with zeros, or what means zero."""
    n, _, h, w = view.shape
    plane, _, row, pixel = view.strides
    border, item = view.buffer.border, ITEM_BYTES[view.buffer.ctype]
    sizes = f"{h}, {w}, {row * item}, {pixel * item}"
    around = f"{border.top}, {border.left}, {border.bottom}, {border.right}, {view.buffer.zero}"
    return tuple(f"edgepv_border(y0 + {i * plane}, {sizes}, {around});" for i in range(n))


def values_of(view: View) -> int:
    """How many values a tensor has."""
    return math.prod(view.shape)
