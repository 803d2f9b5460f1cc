"""Stepping a model over frames: explicit states for a streamed model, a ring of frames otherwise."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import numpy as np

from edgepv.types import ModelSpec, StreamSpec, Variant

Tensors: TypeAlias = dict[str, np.ndarray]
Infer: TypeAlias = Callable[[Tensors], Tensors]


class Stepper:
    """Feeds one preprocessed frame at a time to ``infer`` and carries what must be carried.

    With a StreamSpec every state input is fed the last value of its output. Without one (the window
    tier) the last T frames are kept here and the clip model sees them as (1, C, T, H, W).
    """

    def __init__(self, infer: Infer, spec: ModelSpec, stream: StreamSpec | None) -> None:
        self._infer, self._spec, self._stream = infer, spec, stream
        self.reset()

    def reset(self) -> None:
        """Forget every frame seen: the next one is the first."""
        self.seen = 0
        self._ring: deque[np.ndarray] = deque(maxlen=self._spec.frames)
        self._states: Tensors = {
            s.name: np.full(s.shape, s.init, s.dtype) for s in (self._stream.states if self._stream else ())
        }

    @property
    def warmup(self) -> int:
        """Frames that must be seen before an answer is valid."""
        return self._stream.warmup if self._stream else self._spec.frames

    @property
    def valid(self) -> bool:
        """Whether the latest answer rests on a full window."""
        return self.seen >= self.warmup

    def feeds(self, frame: np.ndarray) -> Tensors:
        """Graph inputs for this frame: (1, C, H, W) float32 and the states as they are now."""
        if self._stream:
            return {self._spec.input.name: frame, **self._states}
        self._ring.append(frame)
        missing = self._spec.frames - len(self._ring)
        window = [self._ring[0]] * missing + list(self._ring)
        return {self._spec.input.name: np.stack(window, axis=2)}

    def step(self, frame: np.ndarray) -> Tensors:
        """Answer to one more frame, by output name, and the new states kept for the next."""
        return self.run(self.feeds(frame))

    def run(self, feeds: Tensors) -> Tensors:
        """Like ``step`` for feeds already made by ``feeds``."""
        outputs = self._infer(feeds)
        self.seen += 1
        for state in self._stream.states if self._stream else ():
            self._states[state.name] = outputs[state.output]
        return outputs


def roll(stepper: Stepper, frames: Iterable[np.ndarray]) -> Iterator[tuple[Tensors, Tensors]]:
    """(feeds, outputs) of every frame of one clip, from a fresh state. frames: (C, H, W) each."""
    stepper.reset()
    for frame in frames:
        feeds = stepper.feeds(frame[None])
        yield feeds, stepper.run(feeds)


def by_file_names(variant: Variant, feeds: Iterable[Tensors]) -> list[Tensors]:
    """The same feeds under the names inside the variant's file."""
    return [{variant.inputs[name]: value for name, value in feed.items()} for feed in feeds]
