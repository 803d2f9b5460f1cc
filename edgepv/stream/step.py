"""Stepping a model over frames: explicit states for a streamed model, a ring of frames otherwise."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeAlias, runtime_checkable

from edgepv.base.late import np
from edgepv.errors import UsageError, unknown
from edgepv.types import ModelSpec, StateSpec, StreamSpec, Variant

Tensors: TypeAlias = "dict[str, np.ndarray]"
Infer: TypeAlias = "Callable[[Tensors], Tensors]"
InPlace: TypeAlias = "Callable[[Tensors, Tensors], Tensors]"


@runtime_checkable
class KeepsStates(Protocol):
    """An ``infer`` that keeps the states itself: it looks at the frames alone, and may serve one Stepper.

    If a call raises, the states stay as they were.
    """

    def __call__(self, inputs: Tensors) -> Tensors:
        """The answers to one more step, without new states."""

    def write(self, name: str, value: np.ndarray) -> None:
        """Set a state before the next step. Raises UsageError for a state or a shape the model has not."""

    def reset(self) -> None:
        """Forget every frame."""


class Memory:
    """One state as the host keeps it. What the engine is fed is a view; nothing is rotated.

    Rows are written one behind the other into a buffer twice as long as needed and the view moves along;
    only when the end is reached are the rows still needed copied to the front. A state that every step
    replaces has two places, used in turn. A state with a period is that many such buffers. An engine that
    can write where it is told writes into ``slot``.
    """

    def __init__(self, spec: StateSpec) -> None:
        self.spec, self._step = spec, 0
        depth = spec.shape[0]
        self._fresh = depth if spec.update == "replace" else spec.fresh
        self._whole = self._fresh >= depth
        length = 2 * self._fresh if self._whole else 2 * depth + self._fresh
        self._lanes = [np.full((length, *spec.shape[1:]), spec.init, spec.dtype) for _ in range(spec.period)]
        self._at = [self._fresh - depth if self._whole else 0] * spec.period

    def slot(self) -> np.ndarray:
        """Where the rows of this step belong. Ask for it before ``view``: it may move the view."""
        lane, depth = self._step % self.spec.period, self.spec.shape[0]
        at, buffer = self._at[lane], self._lanes[lane]
        if self._whole:
            return buffer[: self._fresh] if at >= self._fresh else buffer[self._fresh :]
        if at + depth + self._fresh > len(buffer):
            buffer[:depth] = buffer[at : at + depth]
            self._at[lane] = at = 0
        return buffer[at + depth :][: self._fresh]

    def view(self) -> np.ndarray:
        """The state for this step. Later steps overwrite it: copy what is to be kept."""
        lane = self._step % self.spec.period
        return self._lanes[lane][self._at[lane] :][: self.spec.shape[0]]

    def copy(self) -> Memory:
        """The same state, in buffers of its own."""
        twin = copy.copy(self)
        twin._lanes, twin._at = [lane.copy() for lane in self._lanes], list(self._at)
        return twin

    def push(self, fresh: np.ndarray) -> None:
        """Take what this step emitted: copied, unless it lies in ``slot`` already."""
        if self._step >= self.spec.first:
            slot = self.slot()
            if fresh.ctypes.data != slot.ctypes.data:
                slot[:] = fresh
            lane = self._step % self.spec.period
            self._at[lane] += self._fresh if not self._whole or self._at[lane] < self._fresh else -self._fresh
        self._step += 1


class Stepper:
    """Feeds one preprocessed frame at a time to ``infer`` and carries what must be carried.

    With a StreamSpec every state input is fed what its output was, unless ``infer`` is one of KeepsStates.
    ``into``: an ``infer`` that writes outputs where it is told, so that new states are not copied. A model
    with a chunk of several frames runs on every chunk-th frame; in between its last answer stands. Without a
    StreamSpec (the window tier) the last T frames are kept here and the clip model sees them as
    (1, C, T, H, W).
    """

    def __init__(
        self, infer: Infer, spec: ModelSpec, stream: StreamSpec | None, *, into: InPlace | None = None
    ) -> None:
        self._infer, self._spec, self._stream = infer, spec, stream
        self._in_place = into
        self._keeper = infer if isinstance(infer, KeepsStates) else None
        self._kept = stream.states if stream and not self._keeper else ()
        self.reset()

    def reset(self) -> None:
        """Forget every frame seen: the next one is the first."""
        self.seen = 0
        self._ring: deque[np.ndarray] = deque(maxlen=self._spec.frames)
        self._states = [Memory(s) for s in self._kept]
        if self._keeper:
            self._keeper.reset()
        self._chunk: list[np.ndarray] = []
        self._slots: Tensors = {}
        self._last: Tensors = {a.name: np.zeros(a.shape, np.float32) for a in self._spec.answers}

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

        None while a chunk is not full. The states are views, valid until the next step.
        """
        if self._stream:
            self._chunk.append(frame)
            if len(self._chunk) < self.chunk:
                return None
            frames = np.concatenate(self._chunk) if self.chunk > 1 else frame
            self._slots = {m.spec.output: m.slot() for m in reversed(self._states)}
            return {self._spec.input.name: frames, **{m.spec.name: m.view() for m in self._states}}
        self._chunk.append(frame)
        seen = [*self._ring, frame][-self._spec.frames :]
        window = [seen[0]] * (self._spec.frames - len(seen)) + seen
        return {self._spec.input.name: np.stack(window, axis=2)}

    def step(self, frame: np.ndarray) -> Tensors:
        """Answer to one more frame, by output name, and the new states kept for the next."""
        return self.run(self.feeds(frame))

    def run(self, feeds: Tensors | None) -> Tensors:
        """Like ``step`` for feeds already made by ``feeds``. If it raises, the states stay as they were."""
        self.seen += 1
        if feeds is None:
            return self._last
        try:
            outputs = self._in_place(feeds, self._slots) if self._in_place else self._infer(feeds)
        except BaseException:
            self.seen -= 1
            del self._chunk[-1:]
            raise
        if not self._stream:
            self._ring.extend(self._chunk)
        self._chunk.clear()
        for memory in self._states:
            name = memory.spec.output
            memory.push(outputs[name] if name in outputs else feeds[name])
        self._last = outputs
        return outputs

    def write(self, name: str, value: np.ndarray) -> None:
        """Set a state before the next step. Raises UsageError for a state or a shape the model has not."""
        if self._keeper:
            self._keeper.write(name, value)
            return
        states = {m.spec.name: m for m in self._states}
        if name not in states:
            raise UsageError(unknown("state", name, states))
        view = states[name].view()
        if view.shape != value.shape:
            raise UsageError(f"state '{name}': expected {view.shape}, got {value.shape}")
        view[:] = value

    def remember(self, frame: np.ndarray) -> None:
        """Take one more frame without wanting an answer; a window costs nothing to fill."""
        if self._stream:
            self.step(frame)
        else:
            self._ring.append(frame)
            self.seen += 1

    def adopt(self, other: Stepper) -> bool:
        """Go on from where ``other`` is, if both keep the same things; else False and nothing changes."""
        if self._keeper or other._keeper:
            return False
        mine, theirs = self._stream, other._stream
        if (self._spec.input, self._spec.frames, mine) != (other._spec.input, other._spec.frames, theirs):
            return False
        self.seen, self._last = other.seen, other._last
        self._ring, self._chunk = other._ring.copy(), list(other._chunk)
        self._states = [memory.copy() for memory in other._states]
        return True


def roll(
    stepper: Stepper, frames: Iterable[np.ndarray], start: Tensors | None = None
) -> Iterator[tuple[Tensors | None, Tensors]]:
    """(feeds, outputs) of every frame of one clip, from a fresh state. frames: (C, H, W) each.

    start: states that begin otherwise than the model's do, by name.
    Feeds are views into the states (see ``Stepper.feeds``): copy what is to be kept.
    """
    stepper.reset()
    for name, value in (start or {}).items():
        stepper.write(name, value)
    for frame in frames:
        feeds = stepper.feeds(frame[None])
        yield feeds, stepper.run(feeds)


def copied(feeds: Tensors) -> Tensors:
    """Feeds that stay as they are."""
    return {name: value.copy() for name, value in feeds.items()}


def by_file_names(variant: Variant, feeds: Iterable[Tensors]) -> list[Tensors]:
    """The same feeds under the names inside the variant's file, in its units."""
    own = in_units_of(variant, feeds)
    return [{variant.inputs[name]: value for name, value in feed.items()} for feed in own]


def in_units_of(variant: Variant, feeds: Iterable[Tensors]) -> list[Tensors]:
    """Feeds of the float model with the states as the variant has them (``Variant.state_scales``)."""

    def scaled(name: str, value: np.ndarray) -> np.ndarray:
        factors = np.array(variant.state_scales.get(name, ()), np.float32)
        return value * factors.reshape(-1, *(1,) * (value.ndim - 2)) if factors.size else value

    return [{name: scaled(name, value) for name, value in feed.items()} for feed in feeds]
