"""Values of a step as they lie in memory: strided views into buffers, and several of them along one axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Literal, TypeAlias

Shape: TypeAlias = tuple[int, ...]

ALIGN_BYTES = 64
"""Constants, buffers and places begin at multiples of this: EDGEPV_ALIGN, the widest vector."""
SLACK_BYTES = 4
"""Behind every buffer of codes: kernels read four at a time, the last ones with weights of zero."""

LEAST_CHANNELS = 8
"""Channels are padded to a multiple of this: the narrowest vector that a wide kernel ends with. Images of
fewer channels lie without padding, as it would be most of them."""


def aligned(count: int) -> int:
    """``count`` bytes with what is left free behind them, so that the next lie aligned."""
    return -(-count // ALIGN_BYTES) * ALIGN_BYTES


def padded(count: int) -> int:
    """``count`` channels with what is added to each pixel so that vectors fit."""
    return count if count < LEAST_CHANNELS else -(-count // LEAST_CHANNELS) * LEAST_CHANNELS


@dataclass(frozen=True)
class Border:
    """Pixels of zeros around an image, that convolutions read."""

    top: int = 0
    left: int = 0
    bottom: int = 0
    right: int = 0

    def __or__(self, other: Border) -> Border:
        """The border that serves both."""
        mine, theirs = (self.top, self.left, self.bottom, self.right), (other.top, other.left, other.bottom)
        return Border(*map(max, mine, (*theirs, other.right)))

    def __bool__(self) -> bool:
        return any((self.top, self.left, self.bottom, self.right))


Kind: TypeAlias = Literal["arena", "input", "slot", "output", "weights"]
ITEM_BYTES: Mapping[str, int] = MappingProxyType({"float": 4, "int32_t": 4, "int8_t": 1, "uint8_t": 1})
"""What memory is made of: C type -> bytes of one value."""


@dataclass(eq=False)
class Buffer:
    """Memory of one value. values: how many of ``ctype`` it holds.

    border: around the image of (height, width) it is; of zeros, which as a code is ``zero``. kind: "arena"
    and "input" are planned; a "slot" is one place of a state, told by the state's number and the place's age;
    "output" and "weights" lie at ``offset``, in values.
    """

    name: str
    kind: Kind
    values: int
    border: Border = field(default_factory=Border)
    image: Shape = ()
    state: int = 0
    place: int = 0
    offset: int = 0
    ctype: str = "float"
    zero: int = 0

    @property
    def bytes(self) -> int:
        """Its size. Bytes that are read as fours end in room for one that is not whole."""
        return self.values * ITEM_BYTES[self.ctype] + (SLACK_BYTES if self.ctype == "uint8_t" else 0)


@dataclass(frozen=True)
class View:
    """A tensor in a buffer. offset and strides in values."""

    buffer: Buffer
    offset: int
    shape: Shape
    strides: Shape

    def transpose(self, order: Sequence[int]) -> View:
        """The same values with the axes in another order."""
        return replace(
            self, shape=tuple(self.shape[i] for i in order), strides=tuple(self.strides[i] for i in order)
        )

    def slice(self, axis: int, start: int, length: int, step: int = 1) -> View:
        """``length`` entries of one axis, from ``start`` on."""
        shape, strides = list(self.shape), list(self.strides)
        offset = self.offset + start * strides[axis]
        shape[axis], strides[axis] = length, strides[axis] * step
        return replace(self, offset=offset, shape=tuple(shape), strides=tuple(strides))

    def reshape(self, shape: Shape) -> View | None:
        """The same values in the same order under another shape; None if that takes a copy."""
        strides = _restrided(self.shape, self.strides, shape)
        return None if strides is None else replace(self, shape=tuple(shape), strides=strides)

    def broadcast(self, shape: Shape) -> View:
        """Repeated along axes where ``shape`` is longer, by ONNX's rules."""
        missing = len(shape) - len(self.shape)
        own, strides = (1,) * missing + self.shape, (0,) * missing + self.strides
        return replace(self, shape=shape, strides=tuple(0 if n == 1 else s for n, s in zip(own, strides)))

    @property
    def dense(self) -> bool:
        """Whether its values lie one behind the other in the order of the axes."""
        return _restrided(self.shape, self.strides, (math.prod(self.shape),)) in ((1,), (0,))


@dataclass(frozen=True)
class Parts:
    """A value that was never put together: views one behind the other along ``axis``."""

    axis: int
    views: tuple[View, ...]

    @property
    def shape(self) -> Shape:
        """Of the whole."""
        shape = list(self.views[0].shape)
        shape[self.axis] = sum(view.shape[self.axis] for view in self.views)
        return tuple(shape)


def whole_channels(view: View) -> bool:
    """Whether vectors may go over all channels of an image, to the last that fill up a pixel."""
    channels, pixel = view.shape[1], view.strides[3]
    fits = channels >= LEAST_CHANNELS and pixel == padded(channels)
    return fits and view.strides[1] == 1 and view.offset % pixel == 0


def rows_of(shape: Shape) -> Shape:
    """Strides of a tensor that lies row by row."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def plain(buffer: Buffer, shape: Shape, offset: int = 0) -> View:
    """A tensor that fills a buffer row by row."""
    return View(buffer, offset, shape, rows_of(shape))


def image_values(shape: Shape, border: Border) -> int:
    """Size of an image (N, C, H, W) with its border."""
    n, c, h, w = shape
    return n * (border.top + h + border.bottom) * (border.left + w + border.right) * padded(c)


def image(buffer: Buffer, shape: Shape, border: Border) -> View:
    """An image (N, C, H, W) with channels innermost, inside its border."""
    _, c, h, w = shape
    pixel = padded(c)
    row = (border.left + w + border.right) * pixel
    plane = (border.top + h + border.bottom) * row
    return View(buffer, border.top * row + border.left * pixel, shape, (plane, 1, row, pixel))


def _restrided(shape: Shape, strides: Shape, wanted: Shape) -> Shape | None:
    """Strides under which the same values have another shape; None if no strides do.

    Both shapes are cut into the shortest runs of axes with equal products; a run must be contiguous.
    """
    if math.prod(shape) != math.prod(wanted):
        return None
    old = [(n, s) for n, s in zip(shape, strides) if n != 1]
    result, i, j = [1] * len(wanted), 0, 0
    while j < len(wanted):
        if wanted[j] == 1:
            j += 1
            continue
        first_i, first_j, mine, theirs = i, j, old[i][0], wanted[j]
        while mine != theirs:
            if mine < theirs:
                i += 1
                mine *= old[i][0]
            else:
                j += 1
                theirs *= wanted[j]
        run = old[first_i : i + 1]
        if any(s != n_next * s_next for (_, s), (n_next, s_next) in pairwise(run)):
            return None
        stride = run[-1][1]
        for axis in range(j, first_j - 1, -1):
            result[axis] = stride
            stride *= wanted[axis]
        i, j = i + 1, j + 1
    return tuple(result)
