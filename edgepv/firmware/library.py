"""A compiled model called from Python through edgepv.h: the same code, states and order as on a camera."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from enum import IntEnum
from typing import Any

import numpy as np

from edgepv.errors import EngineError

ABI = 1
"""EDGEPV_ABI of edgepv.h, which this file speaks."""
ENTRY = "edgepv_compiled"
"""The function that every object we compile has: it answers the one model inside."""
ENTRY_C = """/* The one model of this object. */
#include "edgepv_model.h"
extern const edgepv_model {symbol};
const edgepv_model *edgepv_compiled(void);
const edgepv_model *edgepv_compiled(void) {{ return &{symbol}; }}
"""


class Status(IntEnum):
    """The statuses of edgepv.h that Python tells apart."""

    OK = 0
    NOT_FINITE = 22
    CANCELLED = 23


class StatusError(Exception):
    """A call of edgepv.h that did not end with EDGEPV_OK. status: what it ended with."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Answer(ctypes.Structure):
    _fields_ = (
        ("size", c_uint32),
        ("label", ctypes.c_int32),
        ("score", c_float),
        ("valid", c_uint32),
        ("restarted", c_uint32),
        ("missed", c_uint32),
        ("index", c_uint64),
        ("pts_ns", c_uint64),
    )


class _Info(ctypes.Structure):
    _fields_ = (
        ("size", c_uint32),
        ("abi", c_uint32),
        ("name", c_char_p),
        ("digest", c_char_p),
        ("task", c_char_p),
        *((name, c_uint32) for name in ("labels", "outputs", "states", "warmup", "chunk", "delay")),
        *((name, c_uint32) for name in ("width", "height", "channels", "fps_num", "fps_den")),
    )


FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "edgepv_abi": (c_uint32, ()),
    "edgepv_text": (c_char_p, (c_int,)),
    "edgepv_inform": (c_int, (c_void_p, POINTER(_Info))),
    "edgepv_need": (c_int, (c_void_p, c_void_p, POINTER(c_size_t), POINTER(c_size_t))),
    "edgepv_begin": (c_int, (c_void_p, c_void_p, c_void_p, c_size_t, POINTER(c_void_p))),
    "edgepv_step_tensor": (c_int, (c_void_p, c_void_p, c_size_t, c_uint32, POINTER(_Answer))),
    "edgepv_write": (c_int, (c_void_p, c_uint32, c_void_p, c_size_t)),
    "edgepv_output": (c_int, (c_void_p, c_uint32, POINTER(POINTER(c_float)), POINTER(c_size_t))),
    "edgepv_reset": (None, (c_void_p,)),
    "edgepv_cancel": (None, (c_void_p,)),
    "edgepv_end": (None, (c_void_p,)),
    ENTRY: (c_void_p, ()),
}
"""What is called: name -> (result, arguments), as edgepv.h declares them."""


class Library:
    """A shared object with the core and one model.

    path: of the object. Raises EngineError if it cannot be loaded, lacks a function, or has another ABI.
    """

    def __init__(self, path: str) -> None:
        try:
            self._object = ctypes.CDLL(path)
            for name, (result, arguments) in FUNCTIONS.items():
                function = getattr(self._object, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError) as e:
            raise EngineError(f"the compiled model cannot be loaded: {e}. Export the bundle again") from e
        if (abi := self._object.edgepv_abi()) != ABI:
            raise EngineError(f"the compiled model has ABI {abi}, not {ABI}. Export the bundle again")
        self._model = c_void_p(self._object.edgepv_compiled())
        self.info = _Info(size=ctypes.sizeof(_Info))
        self.call("edgepv_inform", self._model, byref(self.info))

    def call(self, name: str, *arguments: object) -> None:
        """Call a function that returns a status. Raises StatusError for any but EDGEPV_OK."""
        status = getattr(self._object, name)(*arguments)
        if status != Status.OK:
            text = self._object.edgepv_text(status) or b"unknown status"
            raise StatusError(status, text.decode("ascii", "replace"))

    def tell(self, name: str, *arguments: object) -> None:
        """Call a function that returns nothing."""
        getattr(self._object, name)(*arguments)

    def need(self) -> tuple[int, int]:
        """(bytes, alignment) of the memory that a session which is fed tensors is given."""
        amount, align = c_size_t(), c_size_t()
        self.call("edgepv_need", self._model, None, byref(amount), byref(align))
        return amount.value, align.value

    def begin(self) -> Session:
        """A session that is fed tensors."""
        return Session(self, self._model)


class Session:
    """One camera's states in C. Not for several threads, but for ``cancel``.

    Every method raises StatusError like ``Library.call``.
    """

    def __init__(self, library: Library, model: c_void_p) -> None:
        self._library = library
        amount, align = library.need()
        self._memory = np.zeros(amount + align, np.uint8)
        start = self._memory.ctypes.data
        self._session, place = c_void_p(), c_void_p(start + -start % align)
        library.call("edgepv_begin", model, None, place, amount, byref(self._session))
        self._answer = _Answer(size=ctypes.sizeof(_Answer))

    def step(self, frame: np.ndarray) -> None:
        """One frame (C, H, W) float32, contiguous, as the model takes it."""
        self._library.call(
            "edgepv_step_tensor", self._session, frame.ctypes.data, frame.size, 0, byref(self._answer)
        )

    def write(self, state: int, values: np.ndarray) -> None:
        """Set a state before the next step: float32, contiguous, as the spec has it."""
        self._library.call("edgepv_write", self._session, state, values.ctypes.data, values.size)

    def output(self, place: int) -> np.ndarray:
        """What the last step answered, (values,) float32; a view, valid until the next one."""
        data, values = POINTER(c_float)(), c_size_t()
        self._library.call("edgepv_output", self._session, place, byref(data), byref(values))
        return np.ctypeslib.as_array(data, (values.value,))

    def reset(self) -> None:
        """Forget every frame."""
        self._library.tell("edgepv_reset", self._session)

    def cancel(self) -> None:
        """End the step that runs in another thread."""
        self._library.tell("edgepv_cancel", self._session)

    def end(self) -> None:
        """End the session."""
        self._library.tell("edgepv_end", self._session)
