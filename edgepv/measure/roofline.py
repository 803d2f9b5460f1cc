"""What one core of this machine can do at most: multiply-adds in float32 and INT8, and bytes per second.

The peaks of ``edgepv.metrics.roofline``. Small kernels in C, made by the compiler that is here for this very
processor; without one numpy's matrix product and copy stand in, and are called so. Each is taken by CPU time,
the best of a few: what else runs on the machine slows a peak less than a clock.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgepv.errors import EdgepvError
from edgepv.firmware import compiler
from edgepv.types import Peaks

TURN_S, TURNS = 0.01, 5
"""CPU seconds of one look at a peak, and looks, of which the best counts."""
SIZES = (16 << 10, 256 << 10, 2 << 20, 16 << 20, 128 << 20)
"""Bytes that are read again and again: about a core's first and second cache, a third one, and beyond."""
SIDE = 512
"""Rows and columns of numpy's matrix product."""
NATIVE = {"x86_64": ("-march=native", "-mprefer-vector-width=512"), "aarch64": ("-mcpu=native",)}
KERNELS = Path(__file__).with_name("roofline.c")


@functools.cache
def peaks() -> Peaks:
    """The peaks of one core, measured once in a process: about half a second."""
    try:
        return compiled(compiler.needed())
    except EdgepvError as e:
        return by_numpy(str(e))


def compiled(found: compiler.Compiler) -> Peaks:
    """By kernels in C. Raises EngineError if the compiler refuses them."""
    options = NATIVE.get(platform.machine(), ())
    # As the layers of a model, of which a product and a sum are one instruction: no other file is built so.
    data = compiler.shared_object(found, {compiler.MODEL: KERNELS.read_bytes()}, options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "roofline.so"
        path.write_bytes(data)
        kernels = ctypes.CDLL(str(path))
    kernels.int8_kind.restype = ctypes.c_char_p
    for name in ("fp32", "int8", "fp32_operations", "int8_operations"):
        getattr(kernels, name).restype = ctypes.c_double
    kernels.read_all.restype = ctypes.c_double
    kernels.read_all.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long)
    kind = kernels.int8_kind().decode()
    kernels.fp32.argtypes = kernels.int8.argtypes = (ctypes.c_long,)
    fp32 = best_rate(kernels.fp32, kernels.fp32_operations())
    int8 = best_rate(kernels.int8, kernels.int8_operations()) if kind else None
    memory = np.ones(SIZES[-1] // 8)
    start = memory.ctypes.data
    reads = {size: functools.partial(kernels.read_all, start, size) for size in SIZES}
    bandwidth = tuple((size, best_rate(read, size)) for size, read in reads.items())
    source = f"kernels in C by {found.version}, INT8 by {kind or 'nothing'}"
    return Peaks(fp32, int8, bandwidth, source)


def by_numpy(why: str) -> Peaks:
    """By numpy's own matrix product and copy: below what a kernel made for it would show."""
    a, b, out = (np.ones((SIDE, SIDE), np.float32) for _ in range(3))
    memory, other = np.ones(SIZES[-1] // 16), np.empty(SIZES[-1] // 16)

    def product(n: int) -> None:
        for _ in range(n):
            np.matmul(a, b, out=out)

    def copy(count: int) -> Callable[[int], None]:
        def copies(n: int) -> None:
            for _ in range(n):
                np.copyto(other[:count], memory[:count])

        return copies

    bandwidth = tuple((size, best_rate(copy(size // 16), size)) for size in SIZES)
    return Peaks(best_rate(product, 2 * SIDE**3), None, bandwidth, f"numpy's matrix product and copy: {why}")


def best_rate(run: Callable[[int], object], each: float) -> float:
    """10^9 of what a kernel does ``each`` of at a time, in a CPU second. run: the kernel, so many times."""
    times, seconds = 1, 0.0
    while seconds < TURN_S:
        times *= 2
        seconds = _cpu_s(run, times)
    fastest = min(_cpu_s(run, times) for _ in range(TURNS))
    return each * times / fastest / 1e9


def _cpu_s(run: Callable[[int], object], times: int) -> float:
    """CPU seconds of the whole process: a matrix product may have threads of its own."""
    start = time.process_time()
    run(times)
    return time.process_time() - start
