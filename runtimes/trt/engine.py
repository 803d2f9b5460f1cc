"""A TensorRT engine opened on this device, which keeps its model's states in the GPU's memory.

Each state has two buffers a lane: one is read, the other written, and they change places after the step. What
a step puts into the stream is recorded once for each arrangement of buffers, as a CUDA graph, and launched.
"""

from __future__ import annotations

import contextlib
from typing import Any, Dict, Tuple

import numpy as np

from edgepv.errors import EdgepvError, EngineError, UsageError
from edgepv.runtimes.trt.bundle import Model, State
from edgepv.runtimes.trt.cuda import Cuda

MOST_GRAPHS = 16
"""Arrangements of buffers that are recorded: a state of period p makes 2 p of them, and ours have periods of
up to 8. Beyond it, steps are put into the stream one by one."""
KINDS = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
"""TensorRT's names of types in numpy: its own table, ``nptype``, is for the numpy of its day."""
Tensors = Dict[str, np.ndarray]
Position = Tuple[Tuple[int, int, bool], ...]
"""Of each state: its lane, which of the lane's buffers is read, and whether what the step makes of it
counts."""


class DeviceState:
    """One state in the GPU's memory: a buffer that is read and a spare one for each of its lanes."""

    def __init__(self, cuda: Cuda, spec: State, kind: np.dtype[Any]) -> None:
        self.spec, self.kind = spec, kind
        self.bytes = int(np.prod(spec.shape)) * kind.itemsize
        self.lanes = [[cuda.allocate(self.bytes) for _ in range(2)] for _ in range(spec.period)]
        self.read = [0] * spec.period
        self.steps = 0

    def position(self) -> tuple[int, int, bool]:
        """See ``Position``."""
        lane = self.steps % self.spec.period
        return lane, self.read[lane], self.steps >= self.spec.first

    def buffers(self) -> tuple[int, int]:
        """Addresses of the buffer that this step reads, and of the one that it writes."""
        lane, read, _ = self.position()
        return self.lanes[lane][read], self.lanes[lane][1 - read]

    @property
    def whole(self) -> bool:
        """Whether a step makes all of it anew, just as it is read."""
        return self.spec.update == "replace" or self.spec.fresh == self.spec.shape[0]

    def move_on(self) -> None:
        """The step is done: let the lane's buffers change places, if it counts."""
        lane, read, counts = self.position()
        if counts:
            self.read[lane] = 1 - read
        self.steps += 1

    def update(self, cuda: Cuda, made: int) -> None:
        """Put the oldest rows that stay and the fresh ones, which lie at ``made``, into the spare buffer."""
        now, spare = self.buffers()
        depth = self.spec.shape[0]
        fresh = depth if self.spec.update == "replace" else self.spec.fresh
        row = self.bytes // depth
        stay = max(0, depth - fresh)
        if stay:
            cuda.within(spare, now + fresh * row, stay * row)
        cuda.within(spare + stay * row, made + max(0, fresh - depth) * row, (depth - stay) * row)


class TrtEngine:
    """One deserialized engine with its model's states, stepped by ``advance``.

    trt: the tensorrt module. plan: the bytes of the engine, built on this device: the caller has made sure
    that there is a GPU (``cuda.device_count``) and that they are of it. graphs: whether to record CUDA
    graphs. Raises EngineError if TensorRT does not take the plan, or its tensors are not those of the model.
    """

    def __init__(self, trt: Any, plan: bytes, model: Model, *, graphs: bool = True) -> None:
        self.model, self._trt = model, trt
        self.why_no_graphs = "" if graphs else "not asked for"
        self._cuda = Cuda()
        self._memory: list[int] = []
        self._pinned: list[int] = []
        self._graphs: dict[Position, int] = {}
        self._met: set[Position] = set()
        with contextlib.ExitStack() as broken:
            broken.callback(self.close)
            self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise EngineError(
                    f"TensorRT does not take the engine of {model.name}. Build it again: edgepv build"
                )
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise EngineError(f"TensorRT has no memory to run {model.name}. Close other programs")
            self._check_names()
            self._lay_out()
            self.forget()
            broken.pop_all()

    def _check_names(self) -> None:
        there = {self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)}
        ours = {*self.model.inputs.values(), *self.model.outputs.values()}
        if there != ours:
            raise EngineError(
                f"the engine of {self.model.name} has other tensors ({', '.join(sorted(there ^ ours))}) "
                f"than its "
                "bundle says. Build it again: edgepv build"
            )

    def _lay_out(self) -> None:
        """Buffers for everything that goes in or out."""
        model = self.model
        name, shape = model.frame
        self._frame = self._buffer(model.inputs[name], shape)
        states = [DeviceState(self._cuda, s, self._kind(model.inputs[s.name])) for s in model.states]
        self._states = states
        self._memory += [address for s in states for lane in s.lanes for address in lane]
        self._direct: dict[str, DeviceState] = {}
        for state in states:
            output = state.spec.output
            if state.whole and output in model.outputs and self._kind(model.outputs[output]) == state.kind:
                self._direct.setdefault(output, state)
        self._made: dict[str, Buffer] = {}
        for name, theirs in model.outputs.items():
            if name not in self._direct:
                self._made[name] = self._buffer(theirs, tuple(self._engine.get_tensor_shape(theirs)))
        self._host: dict[str, Buffer] = {}
        for name, wanted in model.answers.items():
            self._host[name] = self._made.get(name) or self._buffer(model.outputs[name], wanted)
        for state in states:
            made = (
                self._kind(model.outputs[state.spec.output])
                if state.spec.output in model.outputs
                else self._frame.kind
            )
            if made != state.kind:
                raise EngineError(
                    f"state '{state.spec.name}' is {state.kind} and is made as {made}. Export again"
                )

    def _kind(self, theirs: str) -> np.dtype[Any]:
        got, known = self._engine.get_tensor_dtype(theirs), self._trt.DataType
        for name, kind in KINDS.items():
            if hasattr(known, name) and getattr(known, name) == got:
                return np.dtype(kind)
        raise EngineError(f"the engine's tensor '{theirs}' is {got}, which numpy has not. Export again")

    def _buffer(self, theirs: str, shape: tuple[int, ...]) -> Buffer:
        got = tuple(self._engine.get_tensor_shape(theirs))
        if got != tuple(shape):
            raise EngineError(
                f"the engine's tensor '{theirs}' is {got}, and the bundle says {tuple(shape)}. Build it again"
            )
        kind = self._kind(theirs)
        size = int(np.prod(shape)) * kind.itemsize
        device, host = self._cuda.allocate(size), self._cuda.pin(size)
        self._memory.append(device)
        self._pinned.append(host)
        return Buffer(theirs, shape, kind, device, host, size)

    def forget(self) -> None:
        """Let every state be as before the first frame."""
        self._cuda.enter()
        for state in self._states:
            start = np.full(state.spec.shape, state.spec.init, state.kind)
            for lane in state.lanes:
                self._upload(lane[0], start)
            state.read, state.steps = [0] * state.spec.period, 0

    def write(self, name: str, value: np.ndarray) -> None:
        """Set a state before the next step. Raises UsageError for a state or a shape the model has not."""
        states = {s.spec.name: s for s in self._states}
        if name not in states:
            raise UsageError(f"unknown state '{name}'. Known: {', '.join(states) or 'none'}")
        if value.shape != states[name].spec.shape:
            raise UsageError(f"state '{name}': expected {states[name].spec.shape}, got {value.shape}")
        self._cuda.enter()
        self._upload(states[name].buffers()[0], value.astype(states[name].kind))

    def _upload(self, device: int, value: np.ndarray) -> None:
        value = np.ascontiguousarray(value)
        self._cuda.to_device(device, value.ctypes.data, value.nbytes)
        self._cuda.wait()

    def advance(self, inputs: Tensors) -> Tensors:
        """Answers by our names to the frame, the only input; the states go on. If it raises, they do not."""
        self._cuda.enter()
        self._frame.put(inputs[self.model.frame[0]])
        self._step()
        self._cuda.wait()
        for state in self._states:
            state.move_on()
        return {name: buffer.get() for name, buffer in self._host.items()}

    def _step(self) -> None:
        """Put a step into the stream: as a recorded graph, if it is one that was met before."""
        position = tuple(state.position() for state in self._states)
        if position in self._graphs:
            self._cuda.launch(self._graphs[position])
        elif self.why_no_graphs or position not in self._met or len(self._graphs) >= MOST_GRAPHS:
            self._enqueue()  # the first time unrecorded: TensorRT sets up what it does once
            self._met.add(position)
        else:
            self._record(position)

    def _record(self, position: Position) -> None:
        """Record this step and launch it; an engine that cannot be recorded is run without, from now on."""
        self._cuda.record()
        graph = 0
        try:
            try:
                self._enqueue()
            finally:
                graph = self._cuda.recorded()
        except EdgepvError as e:
            if graph:
                self._cuda.forget(graph)
            self.why_no_graphs = str(e)
            self._enqueue()
            return
        self._graphs[position] = graph
        self._cuda.launch(graph)

    def _enqueue(self) -> None:
        """The frame to the device, the engine, the states' rows, the answers to the host."""
        self._address()
        self._cuda.to_device(self._frame.device, self._frame.host, self._frame.bytes)
        self._execute()
        for state in self._states:
            output = state.spec.output
            if self._direct.get(output) is not state and state.position()[2]:
                state.update(self._cuda, self._place(output))
        for name, buffer in self._host.items():
            self._cuda.to_host(buffer.host, self._place(name), buffer.bytes)

    def _address(self) -> None:
        """Tell TensorRT where everything lies in this step."""
        places = {self._frame.name: self._frame.device}
        places.update({self.model.inputs[s.spec.name]: s.buffers()[0] for s in self._states})
        places.update({theirs: self._place(ours) for ours, theirs in self.model.outputs.items()})
        for theirs, address in places.items():
            if not self._context.set_tensor_address(theirs, address):
                raise EngineError(f"TensorRT does not take a buffer for '{theirs}' of {self.model.name}")

    def _place(self, output: str) -> int:
        """Where this step writes an output, or has the frame."""
        if output in self._direct:
            return self._direct[output].buffers()[1]
        return self._made[output].device if output in self._made else self._frame.device

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream):
            raise EngineError(f"TensorRT could not run {self.model.name}. Build it again: edgepv build")

    def layers(self) -> str:
        """What the engine says of its layers, as JSON."""
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Give everything back: graphs, the engine, memory, the stream."""
        self._cuda.enter()
        for graph in self._graphs.values():
            self._cuda.forget(graph)
        self._context = self._engine = self._runtime = None
        for address in self._memory:
            self._cuda.free(address)
        for address in self._pinned:
            self._cuda.unpin(address)
        self._graphs, self._memory, self._pinned = {}, [], []
        self._cuda.close()


class Buffer:
    """One tensor on the device and its pinned place on the host. name: in the engine."""

    def __init__(
        self, name: str, shape: tuple[int, ...], kind: np.dtype[Any], device: int, host: int, size: int
    ) -> None:
        import ctypes

        self.name, self.kind, self.device, self.host, self.bytes = name, kind, device, host, size
        raw: Any = (ctypes.c_ubyte * size).from_address(host)
        self._array: np.ndarray = np.frombuffer(raw, kind).reshape(shape)

    def put(self, value: np.ndarray) -> None:
        """Write the host's side. Raises UsageError for another shape."""
        if value.shape != self._array.shape:
            raise UsageError(f"the frame must be {self._array.shape}, got {value.shape}")
        self._array[...] = value

    def get(self) -> np.ndarray:
        """A copy of the host's side; float16 as float32."""
        kind = np.float32 if self.kind == np.float16 else self.kind
        return self._array.astype(kind, copy=True)
