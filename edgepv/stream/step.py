"""Stepping a model over frames: explicit states for a streamed model, a ring of frames otherwise."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import numpy as np

from edgepv.types import ModelSpec, StateSpec, StreamSpec, Variant

Tensors: TypeAlias = dict[str, np.ndarray]
Infer: TypeAlias = Callable[[Tensors], Tensors]


class Memory:
    """One state as the host keeps it. What the engine is fed is a view; nothing is rotated.

    "shift": rows are written one behind the other into a buffer twice as long as needed and the view
    moves along; only when the end is reached are the rows still needed copied to the front. A state
    with a period is that many such buffers, used in turn.
    """

    def __init__(self, spec: StateSpec) -> None:
        self.spec = spec
        self._step = 0
        self._lanes = [np.full(spec.shape, spec.init, spec.dtype) for _ in range(spec.period)]
        self._at = [0] * spec.period

    def view(self) -> np.ndarray:
        """The state for this step; valid until the step after the next."""
        lane = self._step % self.spec.period
        at, depth = self._at[lane], self.spec.shape[0]
        held = self._lanes[lane]
        return held if len(held) == depth else held[at : at + depth]

    def push(self, fresh: np.ndarray) -> None:
        """Take what this step emitted. It must not change afterwards."""
        lane, depth = self._step % self.spec.period, self.spec.shape[0]
        if self._step >= self.spec.first:
            if self.spec.update == "replace" or len(fresh) == depth:
                self._lanes[lane] = fresh
            elif len(fresh) > depth:
                self._lanes[lane] = fresh[-depth:]
            else:
                self._append(lane, fresh)
        self._step += 1

    def _append(self, lane: int, fresh: np.ndarray) -> None:
        depth, count = self.spec.shape[0], len(fresh)
        at, held = self._at[lane], self._lanes[lane]
        if at + depth + count > len(held):
            longer = (
                np.empty((2 * depth + count, *held.shape[1:]), held.dtype) if len(held) == depth else held
            )
            longer[:depth] = held[at : at + depth].copy() if longer is held else held[at : at + depth]
            self._lanes[lane], at, held = longer, 0, longer
        held[at + depth : at + depth + count] = fresh
        self._at[lane] = at + count


class Stepper:
    """Feeds one preprocessed frame at a time to ``infer`` and carries what must be carried.

    With a StreamSpec every state input is fed what its output was. A model with a chunk of several
    frames runs on every chunk-th frame; in between its last answer stands. Without a StreamSpec (the
    window tier) the last T frames are kept here and the clip model sees them as (1, C, T, H, W).
    """

    def __init__(self, infer: Infer, spec: ModelSpec, stream: StreamSpec | None) -> None:
        self._infer, self._spec, self._stream = infer, spec, stream
        self.reset()

    def reset(self) -> None:
        """Forget every frame seen: the next one is the first."""
        self.seen = 0
        self._ring: deque[np.ndarray] = deque(maxlen=self._spec.frames)
        self._states = [Memory(s) for s in (self._stream.states if self._stream else ())]
        self._chunk: list[np.ndarray] = []
        self._last: Tensors = {"logits": np.zeros((1, len(self._spec.labels)), np.float32)}

    @property
    def chunk(self) -> int:
        """New frames per run of the model."""
        return self._stream.chunk if self._stream else 1

    @property
    def warmup(self) -> int:
        """Frames that must be seen before an answer is valid."""
        return self._stream.warmup if self._stream else self._spec.frames

    @property
    def valid(self) -> bool:
        """Whether the latest answer rests on a full window."""
        return self.seen - self.seen % self.chunk >= self.warmup

    def feeds(self, frame: np.ndarray) -> Tensors | None:
        """Graph inputs after this frame: (chunk, C, H, W) float32 and the states as they are now.

        None while a chunk is not full. The states are views, valid until the step after the next.
        """
        if self._stream:
            self._chunk.append(frame)
            if len(self._chunk) < self.chunk:
                return None
            frames = np.concatenate(self._chunk) if self.chunk > 1 else frame
            self._chunk.clear()
            return {self._spec.input.name: frames, **{m.spec.name: m.view() for m in self._states}}
        self._ring.append(frame)
        missing = self._spec.frames - len(self._ring)
        window = [self._ring[0]] * missing + list(self._ring)
        return {self._spec.input.name: np.stack(window, axis=2)}

    def step(self, frame: np.ndarray) -> Tensors:
        """Answer to one more frame, by output name, and the new states kept for the next."""
        return self.run(self.feeds(frame))

    def run(self, feeds: Tensors | None) -> Tensors:
        """Like ``step`` for feeds already made by ``feeds``."""
        self.seen += 1
        if feeds is None:
            return self._last
        self._last = outputs = self._infer(feeds)
        for memory in self._states:
            name = memory.spec.output
            memory.push(outputs[name] if name in outputs else feeds[name])
        return outputs


def roll(stepper: Stepper, frames: Iterable[np.ndarray]) -> Iterator[tuple[Tensors | None, Tensors]]:
    """(feeds, outputs) of every frame of one clip, from a fresh state. frames: (C, H, W) each.

    Feeds are views into the states (see ``Stepper.feeds``): copy what is to be kept.
    """
    stepper.reset()
    for frame in frames:
        feeds = stepper.feeds(frame[None])
        yield feeds, stepper.run(feeds)


def copied(feeds: Tensors) -> Tensors:
    """Feeds that stay as they are."""
    return {name: value.copy() for name, value in feeds.items()}


def by_file_names(variant: Variant, feeds: Iterable[Tensors]) -> list[Tensors]:
    """The same feeds under the names inside the variant's file."""
    return [{variant.inputs[name]: value for name, value in feed.items()} for feed in feeds]
