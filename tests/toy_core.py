"""The core of the firmware through ctypes, around a toy model, and that model in NumPy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import POINTER, Structure, byref, c_char_p, c_float, c_int, c_int32, c_size_t, c_uint32, c_uint64
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edgepv.errors import EngineError
from edgepv.runtimes.ladder import Ladder
from edgepv.runtimes.lane import Lane
from edgepv.runtimes.session import Session
from edgepv.stream import Tensors
from edgepv.types import ModelSpec, StateSpec, StreamSpec, TensorSpec, Variant

STATUSES = OK, INTERNAL, INPUT, PARITY, ENGINE, SIGNATURE, MEMORY, VERSION, NOT_FINITE, CANCELLED = (
    *(0, 1, 2, 5, 7, 9),
    *(20, 21, 22, 23),
)
BGR24, RGB24, NV12, GRAY8 = 1, 2, 3, 4
FORMATS = {"bgr": BGR24, "rgb": RGB24, "nv12": NV12, "grey": GRAY8}
WELL, NAN, INFINITY, BROKEN, UNTIL_CANCELLED = range(5)
LABELS = ("left", "right", "none")
DEPTH = 3


class Camera(Structure):
    _fields_ = [("size", c_uint32), ("width", c_uint32), ("height", c_uint32), ("format", c_int)]


class Frame(Structure):
    _fields_ = [
        *(("size", c_uint32), ("plane", POINTER(ctypes.c_uint8) * 2), ("stride", c_uint32 * 2)),
        *(("pts_ns", c_uint64), ("missed", c_uint32)),
    ]


class CAnswer(Structure):
    _fields_ = [
        *(("size", c_uint32), ("label", c_int32), ("score", c_float), ("valid", c_uint32)),
        *(("restarted", c_uint32), ("missed", c_uint32), ("index", c_uint64), ("pts_ns", c_uint64)),
    ]


class Info(Structure):
    _fields_ = [
        *(("size", c_uint32), ("abi", c_uint32), ("name", c_char_p), ("digest", c_char_p)),
        *(("task", c_char_p), ("labels", c_uint32), ("outputs", c_uint32), ("states", c_uint32)),
        *(("warmup", c_uint32), ("chunk", c_uint32), ("delay", c_uint32), ("width", c_uint32)),
        *(("height", c_uint32), ("channels", c_uint32), ("fps_num", c_uint32), ("fps_den", c_uint32)),
    ]


class _Options(Structure):
    _fields_ = [
        *((name, c_uint32) for name in ("width", "height", "channels", "rgb", "chunk", "warmup", "labels")),
        *(("probabilities", c_uint32), ("scale", c_float * 3), ("shift", c_float * 3)),
    ]


@dataclass(frozen=True)
class Toy:
    """The toy model of one size; ``variant`` is what a bundle would say of it."""

    width: int = 5
    height: int = 4
    colour: str = "rgb"
    chunk: int = 1
    warmup: int = 4
    classifier: bool = True
    probabilities: bool = False
    mean: tuple[float, ...] = (0.45, 0.4, 0.35)
    std: tuple[float, ...] = (0.225, 0.25, 0.3)

    @property
    def channels(self) -> int:
        return 1 if self.colour == "grey" else 3

    @property
    def spec(self) -> ModelSpec:
        shape = (1, self.channels, self.height, self.width)
        return ModelSpec(
            "toy",
            TensorSpec("frame", shape),
            LABELS if self.classifier else (),
            colour=self.colour,  # type: ignore[arg-type]
            mean=self.mean[: self.channels],
            std=self.std[: self.channels],
            task="classification" if self.classifier else "restoration",
            outputs=(TensorSpec("logits", (1, len(LABELS)), "NC"), TensorSpec("seen", shape)),
            scores="probabilities" if self.probabilities else "logits",
        )

    @property
    def variant(self) -> Variant:
        states = (
            StateSpec("history", "history_out", (DEPTH, len(LABELS)), update="shift"),
            StateSpec("runs", "runs_out", (1, 1)),
        )
        stream = StreamSpec(states, self.warmup, chunk=self.chunk)
        names = {name: name for name in ("frame", "history", "runs")}
        return Variant("toy", "toy", "fp32", "step", "toy", "", self.spec, stream, names, {})

    def options(self) -> _Options:
        scale = np.float32(1 / 255) / np.asarray(self.spec.std, np.float32)
        shift = np.asarray(self.spec.mean, np.float32) / np.asarray(self.spec.std, np.float32)
        three = c_float * 3
        return _Options(
            *(self.width, self.height, self.channels, self.colour == "rgb", self.chunk, self.warmup),
            *(len(LABELS) if self.classifier else 0, self.probabilities, three(*scale), three(*shift)),
        )

    def make(self, library: ctypes.CDLL) -> ctypes.Array[ctypes.c_char]:
        """The edgepv_model, in memory of its own."""
        made, options = ctypes.create_string_buffer(library.toy_size()), self.options()
        library.toy_make(made, byref(options))
        return made

    def c_options(self) -> str:
        """The values of a toy_options, to stand between braces in C."""
        options = self.options()
        numbers = [str(getattr(options, one[0])) for one in options._fields_[:8]]
        floats = [",".join(f"{float(v).hex()}f" for v in three) for three in (options.scale, options.shift)]
        return ",".join([*numbers, *(f"{{{three}}}" for three in floats)])


class ToyEngine:
    """toy.c in NumPy, an engine as every other, which fails while it is ``broken``."""

    broken = False

    def __init__(self, toy: Toy) -> None:
        self._toy = toy

    def infer(self, inputs: Tensors) -> Tensors:
        if self.broken:
            raise EngineError("broken")
        frames, history, runs = inputs["frame"], inputs["history"], inputs["runs"]
        probes = (np.arange(len(LABELS)) * 7 + 3) % frames[0].size
        last = frames[-1].ravel()[probes]
        logits = frames[0].ravel()[probes] + last
        logits += history[0] / 2
        logits += history[2] / 4
        logits += runs[0] / 8
        return {
            "logits": logits[None],
            "seen": frames[-1:].copy(),
            "history_out": last[None],
            "runs_out": runs + 1,
        }

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Tracker:
    """toy_tracker.c of one size."""

    width: int = 24
    height: int = 18
    particles: int = 12

    @property
    def variant(self) -> Variant:
        spec = ModelSpec(
            "tracker",
            TensorSpec("frame", (1, 3, self.height, self.width)),
            task="tracking",
            outputs=(TensorSpec("tracks", (1, self.particles, 3), "NKC"),),
            particles=self.particles,
        )
        states = tuple(
            StateSpec(name, f"{name}_out", (1, self.particles, size))
            for name, size in (("position", 2), ("life", 1))
        )
        names = {name: name for name in ("frame", "position", "life")}
        return Variant("tracker", "toy", "fp32", "step", "toy", "", spec, StreamSpec(states, 1), names, {})

    def make(self, library: ctypes.CDLL) -> ctypes.Array[ctypes.c_char]:
        made = ctypes.create_string_buffer(library.toy_tracker_size())
        library.toy_tracker_make(made, *map(c_uint32, (self.width, self.height, self.particles)))
        return made


class TrackerEngine:
    """toy_tracker.c in NumPy."""

    broken = False

    def __init__(self, tracker: Tracker) -> None:
        self._places = np.arange(tracker.particles)

    def infer(self, inputs: Tensors) -> Tensors:
        values = inputs["frame"][0].transpose(1, 2, 0).ravel()[3 * self._places]
        alive = inputs["life"][0, :, 0] > 0
        at = inputs["position"][0] + self._drift()
        at[:, 0] += np.where(values > 0.6, np.float32(0.25), np.float32(0))
        at = np.where(alive[:, None], at, np.float32(0))
        seen = np.where(alive & (values > 0.4), np.float32(1), np.float32(0.25))
        return {
            "tracks": np.concatenate([at, seen[:, None]], 1)[None],
            "position_out": at[None],
            "life_out": np.where(alive, 1, -1).astype(np.float32)[None, :, None],
        }

    def _drift(self) -> np.ndarray:
        sides = [self._places * 7 % of - of // 2 for of in (11, 5)]
        return (np.stack(sides, 1) / 512).astype(np.float32)

    def close(self) -> None:
        pass


def twin(toy: Toy | Tracker) -> ToyEngine | TrackerEngine:
    """What answers as the toy does in C."""
    return TrackerEngine(toy) if isinstance(toy, Tracker) else ToyEngine(toy)


def python_session(toy: Toy | Tracker, engine: ToyEngine | None = None) -> Session:
    """The session that edgepv itself makes of a toy model."""
    return session_of(engine or twin(toy), toy.variant)


def session_of(engine: ToyEngine | TrackerEngine, variant: Variant) -> Session:
    return Session(Ladder([Lane(engine, variant)]))


class RefusedError(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class CSession:
    """edgepv.h over one camera. Memory is exactly what edgepv_need says, at an aligned place of its own."""

    def __init__(self, library: ctypes.CDLL, toy: Toy | Tracker, camera: Camera | None) -> None:
        self._c = library
        self._made = toy.make(library)
        self.camera = camera
        self.bytes, align = self.need()
        self._memory = ctypes.create_string_buffer(self.bytes + align)
        self.address = -(-ctypes.addressof(self._memory) // align) * align
        self.handle = ctypes.c_void_p()
        self._check(self.begin(self.address, self.bytes))

    @property
    def model(self) -> ctypes.Array[ctypes.c_char]:
        return self._made

    def need(self) -> tuple[int, int]:
        size, align = c_size_t(), c_size_t()
        camera = byref(self.camera) if self.camera else None
        self._check(self._c.edgepv_need(self._made, camera, byref(size), byref(align)))
        return size.value, align.value

    def begin(self, address: int, size: int) -> int:
        camera = byref(self.camera) if self.camera else None
        return self._c.edgepv_begin(
            self._made, camera, ctypes.c_void_p(address), c_size_t(size), byref(self.handle)
        )

    def _check(self, status: int) -> None:
        if status:
            raise RefusedError(status, self._c.edgepv_text(status).decode())

    def step(self, planes: list[np.ndarray], *, missed: int = 0, pts_ns: int = 0) -> CAnswer:
        """Answer to a frame. planes: (H, bytes) uint8 views; their strides are handed over as they are."""
        return self.step_frame(frame_of(planes, missed=missed, pts_ns=pts_ns))

    def step_frame(self, frame: Frame) -> CAnswer:
        answer = CAnswer(size=ctypes.sizeof(CAnswer))
        self._check(self._c.edgepv_step(self.handle, byref(frame), byref(answer)))
        return answer

    def step_tensor(self, tensor: np.ndarray, *, missed: int = 0) -> CAnswer:
        answer = CAnswer(size=ctypes.sizeof(CAnswer))
        values = np.ascontiguousarray(tensor, np.float32)
        self._check(
            self._c.edgepv_step_tensor(
                *(self.handle, values.ctypes.data_as(POINTER(c_float)), c_size_t(values.size)),
                *(c_uint32(missed), byref(answer)),
            )
        )
        return answer

    def output(self, which: int) -> np.ndarray:
        return self._read(lambda *to: self._c.edgepv_output(self.handle, c_uint32(which), *to))

    def scores(self) -> np.ndarray:
        return self._read(lambda *to: self._c.edgepv_scores(self.handle, *to))

    def ids(self) -> list[int]:
        data, count = POINTER(c_int32)(), c_size_t()
        self._check(self._c.edgepv_ids(self.handle, byref(data), byref(count)))
        return data[: count.value]

    def _read(self, ask: Callable[..., int]) -> np.ndarray:
        data, values = POINTER(c_float)(), c_size_t()
        self._check(ask(byref(data), byref(values)))
        return np.ctypeslib.as_array(data, (values.value,)).copy()

    def reset(self) -> None:
        self._c.edgepv_reset(self.handle)

    def cancel(self) -> None:
        self._c.edgepv_cancel(self.handle)

    def end(self) -> None:
        self._c.edgepv_end(self.handle)


def frame_of(planes: list[np.ndarray], *, missed: int = 0, pts_ns: int = 0) -> Frame:
    """A frame over the planes' own memory, which must outlive it."""
    frame = Frame(size=ctypes.sizeof(Frame), pts_ns=pts_ns, missed=missed)
    for k, plane in enumerate(planes):
        frame.plane[k] = plane.ctypes.data_as(POINTER(ctypes.c_uint8))
        frame.stride[k] = plane.strides[0]
    return frame


def camera(width: int, height: int, kind: str = "bgr") -> Camera:
    return Camera(ctypes.sizeof(Camera), width, height, FORMATS[kind])


@contextmanager
def c_session(library: ctypes.CDLL, toy: Toy | Tracker, of: Camera | None) -> Iterator[CSession]:
    session = CSession(library, toy, of)
    try:
        yield session
    finally:
        session.end()


def load(path: Path) -> ctypes.CDLL:
    """A shared object with the core and the toy model."""
    library = ctypes.CDLL(str(path))
    library.edgepv_text.restype = c_char_p
    library.edgepv_label.restype = c_char_p
    library.toy_size.restype = c_size_t
    library.toy_tracker_size.restype = c_size_t
    library.toy_make.restype = library.toy_tracker_make.restype = None
    for name in ("edgepv_reset", "edgepv_cancel", "edgepv_end"):
        getattr(library, name).restype = None
    return library


def picture(
    rng: np.random.Generator, width: int, height: int, kind: str, *, padded: bool = True
) -> tuple[list[np.ndarray], np.ndarray]:
    """(planes as a camera gives them, the picture (H, W, 3) in BGR that OpenCV makes of them)."""

    def plane(rows: int, length: int) -> np.ndarray:  # rows with something behind them
        more = int(rng.integers(0, 9)) if padded else 0
        return rng.integers(0, 256, (rows, length + more), np.uint8)[:, :length]

    if kind == "grey":
        grey = plane(height, width)
        return [grey], cv2.cvtColor(np.ascontiguousarray(grey), cv2.COLOR_GRAY2BGR)
    if kind == "nv12":
        planes = [plane(height, width), plane(height // 2, width)]
        return planes, cv2.cvtColor(np.concatenate(planes), cv2.COLOR_YUV2BGR_NV12)
    pixels = plane(height, 3 * width)
    colour = np.ascontiguousarray(pixels).reshape(height, width, 3)
    return [pixels], colour if kind == "bgr" else np.ascontiguousarray(colour[..., ::-1])
