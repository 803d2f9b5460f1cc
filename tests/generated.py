"""Generated C as tests run it: compiled into a shared object, and stepped beside ONNX Runtime."""

from __future__ import annotations

import ctypes
import pickle
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import made_once

from edgepv.base.optional import ort_options, ort_session
from edgepv.export import to_onnx
from edgepv.firmware import FLAGS, Firmware
from edgepv.model.checkpoint import build
from edgepv.stream import Stepper, Tensors, convert
from edgepv.types import Variant
from edgepv.zoo import checkpoint

C = Path(__file__).resolve().parents[1] / "edgepv" / "firmware" / "c"
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wconversion")
ALIGN = 64  # EDGEPV_ALIGN
DRIVER = """
#include "edgepv_model.h"
extern const edgepv_model SYMBOL;
size_t size_of(int what) {
    const size_t sizes[] = {SYMBOL.state_bytes,      SYMBOL.arena_bytes,       SYMBOL.output_values,
                            SYMBOL.input.offset,     SYMBOL.input.row_values,  SYMBOL.input.frame_values};
    return sizes[what];
}
void reset(void *state) { SYMBOL.reset(&SYMBOL, state); }
int run(void *state, void *arena, float *outputs, uint32_t cancelled) {
    volatile uint32_t cancel = cancelled;
    return (int)SYMBOL.run(&SYMBOL, state, arena, outputs, &cancel);
}
void commit(void *state) { SYMBOL.commit(&SYMBOL, state); }
float *state_of(void *state, uint32_t index) { return SYMBOL.state(&SYMBOL, state, index); }
int write_of(void *state, uint32_t index, const float *values, size_t count) {
    return (int)SYMBOL.write(&SYMBOL, state, index, values, count);
}
const char *text_of(int what) { return what ? SYMBOL.name : SYMBOL.digest; }
const edgepv_port *port_of(int which) { return &SYMBOL.outputs[which]; }
"""


def compilers() -> list[Any]:
    """GCC and clang, each skipped where it is not installed."""
    return [
        pytest.param(
            name, marks=pytest.mark.skipif(not shutil.which(name), reason=f"{name} is not installed")
        )
        for name in ("gcc", "clang")
    ]


def any_compiler() -> str:
    """One that is there; the test is skipped if none is."""
    found = next((name for name in ("gcc", "clang") if shutil.which(name)), None)
    if found is None:
        pytest.skip("neither gcc nor clang is installed")
    return found


def aligned(count: int) -> np.ndarray:
    """Bytes at a multiple of ``ALIGN``, each 0xff: as floats they are NaN, so that gaps shows."""
    raw = np.full(count + ALIGN, 0xFF, np.uint8)
    return raw[-raw.ctypes.data % ALIGN :][:count]


def compiled(
    firmware: Firmware, folder: Path, compiler: str, options: Sequence[str] = ("-march=native",)
) -> Path:
    """The shared object of a model and the driver above."""
    for name, data in firmware.sources.items():
        (folder / name).write_bytes(data)
    (folder / "driver.c").write_text(DRIVER.replace("SYMBOL", firmware.symbol))
    built = folder / "model.so"
    command = [compiler, *FLAGS, *WARNINGS, *options, "-fPIC", "-shared", f"-I{C}", f"-Wa,-I{folder}"]
    done = subprocess.run(
        [*command, folder / "model.c", folder / "driver.c", "-o", built, "-lm"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return built


class Generated:
    """One session of a compiled model, without the core: its memory, and what the core would call."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.size_of.restype = ctypes.c_size_t
        self._library.state_of.restype = ctypes.POINTER(ctypes.c_float)
        self._library.text_of.restype = ctypes.c_char_p
        sizes = [self._library.size_of(i) for i in range(6)]
        self.state, self.arena = aligned(sizes[0]), aligned(sizes[1])
        self.outputs = aligned(4 * sizes[2]).view(np.float32)
        self.offset, self.row, self.frame = sizes[3:]
        self.reset()

    def reset(self) -> None:
        """Forget every frame."""
        self._library.reset(_at(self.state))

    def run(self, frames: np.ndarray, cancelled: int = 0) -> int:
        """Compute the answer to (chunk, C, H, W), without keeping the states; an edgepv_status."""
        place = self.arena[self.offset :].view(np.float32)
        for at, frame in enumerate(frames):
            for y, line in enumerate(frame.transpose(1, 2, 0)):
                start = at * self.frame + y * self.row
                place[start : start + line.size] = line.reshape(-1)
        return int(self._library.run(_at(self.state), _at(self.arena), _at(self.outputs), cancelled))

    def commit(self) -> None:
        """Keep the states of the last run."""
        self._library.commit(_at(self.state))

    def step(self, frames: np.ndarray) -> np.ndarray:
        """All answers, one behind the other."""
        assert self.run(frames) == 0
        self.commit()
        return self.outputs.copy()

    def write(self, index: int, value: np.ndarray) -> None:
        """Set a state before the next step."""
        values = np.ascontiguousarray(value, np.float32)
        written = self._library.write_of(_at(self.state), index, _at(values), ctypes.c_size_t(values.size))
        assert written == 0

    def writable(self, index: int) -> bool:
        """Whether a state lies as the host writes it."""
        return bool(self._library.state_of(_at(self.state), index))

    @property
    def texts(self) -> tuple[str, str]:
        """(digest, name) as the model tells them."""
        return self._library.text_of(0).decode(), self._library.text_of(1).decode()


def _at(memory: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(memory.ctypes.data)


def as_it_stands(variant: Variant, onnx_bytes: bytes) -> Callable[[Tensors], Tensors]:
    """One step in ONNX Runtime with the graph as it stands, by the names of the spec."""
    session = ort_session(onnx_bytes, ort_options(rewrites="none"))
    names = list(variant.outputs)
    files = [variant.outputs[name] for name in names]

    def infer(feeds: Tensors) -> Tensors:
        outputs = session.run(files, {variant.inputs[name]: value for name, value in feeds.items()})
        return dict(zip(names, outputs))

    return infer


def reference(variant: Variant, onnx_bytes: bytes) -> Stepper:
    """The same model in ONNX Runtime, its states carried."""
    return Stepper(as_it_stands(variant, onnx_bytes), variant.spec, variant.stream)


def answers(variant: Variant, outputs: Tensors) -> np.ndarray:
    """All answers of a step, one behind the other."""
    return np.concatenate([outputs[a.name].reshape(-1) for a in variant.spec.answers])


def lowered_net(name: str, factory: pytest.TempPathFactory) -> tuple[Variant, Path]:
    """(variant, folder of its file) of a net of the zoo as it steps, lowered once in a run."""

    def lower(folder: Path) -> None:
        folder.mkdir()
        saved = checkpoint(name)
        module, spec = build(saved), saved.spec
        if spec.input.layout == "NCTHW":
            module = convert(module, spec)
            spec = module.spec
        (folder / "variant").write_bytes(pickle.dumps(to_onnx.lower(module, spec, folder / "model.onnx")))

    folder = made_once(factory, f"lowered-{name}", lower)
    return pickle.loads((folder / "variant").read_bytes()), folder
