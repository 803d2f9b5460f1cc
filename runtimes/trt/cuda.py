"""CUDA's driver by ctypes: what one engine needs of it, and nothing that a wheel would have to bring.

The driver library has one name on every Jetson and desktop, and its functions keep their meaning from CUDA
11 on; the runtime library's name changes with every release. Names and numbers: cuda.h, CUDA 11.4 and later.
"""

from __future__ import annotations

import ctypes
from typing import Any

from edgepv.errors import DeviceError, EngineError, TargetUnavailableError

LIBRARY = "libcuda.so.1"
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE of cuda.h
MAJOR, MINOR, INTEGRATED = (
    75,
    76,
    18,
)  # CUdevice_attribute: compute capability, and memory shared with the CPU
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream
THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may go on using CUDA while one records
PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE: pinned for every context
OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY of cuda.h


def device_count() -> tuple[int, str]:
    """(CUDA devices of this machine, why there is none). Touches no library of TensorRT's, and never raises.

    Asked before TensorRT is: its runtime ends the process at a machine without a GPU.
    """
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return 0, f"no {LIBRARY}, so no NVIDIA driver"
    status = int(library.cuInit(0))
    if status:
        return 0, "the driver sees no GPU" if status == NO_DEVICE else f"the driver answers error {status}"
    count = ctypes.c_int()
    status = int(library.cuDeviceGetCount(ctypes.byref(count)))
    return (
        (count.value, "" if count.value else "the driver sees no GPU")
        if status == 0
        else (0, f"error {status}")
    )


class Cuda:
    """The first GPU's primary context, which TensorRT uses too, with one stream of the highest priority.

    Raises TargetUnavailableError where there is no GPU. Every call belongs to the thread that made it:
    ``enter`` first, in each thread.
    """

    def __init__(self) -> None:
        count, why = device_count()
        if not count:
            raise TargetUnavailableError(f"no GPU for TensorRT on this machine: {why}. Run it on the device")
        self._lib = ctypes.CDLL(LIBRARY)
        self._device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(self._device), ctypes.c_int(0))
        self._context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self.enter()
        least, greatest = ctypes.c_int(), ctypes.c_int()
        self._call("cuCtxGetStreamPriorityRange", ctypes.byref(least), ctypes.byref(greatest))
        self._stream = ctypes.c_void_p()
        self._call(
            "cuStreamCreateWithPriority", ctypes.byref(self._stream), ctypes.c_uint(NON_BLOCKING), greatest
        )

    def enter(self) -> None:
        """Make the context this thread's."""
        self._call("cuCtxSetCurrent", self._context)

    @property
    def stream(self) -> int:
        """The stream's handle, as TensorRT takes it."""
        return int(self._stream.value or 0)

    def attribute(self, which: int) -> int:
        """A number of the device, by cuda.h's CUdevice_attribute."""
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(which), self._device)
        return value.value

    def memory(self) -> tuple[int, int]:
        """(free, total) bytes of the GPU's memory; on a Jetson it is the machine's."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, size: int) -> int:
        """So many bytes on the device, aligned for anything; their address."""
        pointer = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(1, size)))
        return pointer.value

    def free(self, pointer: int) -> None:
        """Give device memory back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(pointer))

    def pin(self, size: int) -> int:
        """So many bytes of host memory that the device copies to by itself; their address."""
        pointer = ctypes.c_void_p()
        self._call(
            "cuMemHostAlloc", ctypes.byref(pointer), ctypes.c_size_t(max(1, size)), ctypes.c_uint(PORTABLE)
        )
        return int(pointer.value or 0)

    def unpin(self, pointer: int) -> None:
        """Give pinned memory back."""
        self._call("cuMemFreeHost", ctypes.c_void_p(pointer))

    def to_device(self, device: int, host: int, size: int) -> None:
        """Copy from pinned host memory, in the stream."""
        self._call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(device),
            ctypes.c_void_p(host),
            ctypes.c_size_t(size),
            self._stream,
        )

    def to_host(self, host: int, device: int, size: int) -> None:
        """Copy to pinned host memory, in the stream."""
        self._call(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(host),
            ctypes.c_uint64(device),
            ctypes.c_size_t(size),
            self._stream,
        )

    def within(self, to: int, source: int, size: int) -> None:
        """Copy on the device, in the stream. The two places must not overlap."""
        self._call(
            "cuMemcpyDtoDAsync_v2",
            ctypes.c_uint64(to),
            ctypes.c_uint64(source),
            ctypes.c_size_t(size),
            self._stream,
        )

    def wait(self) -> None:
        """Until everything in the stream is done."""
        self._call("cuStreamSynchronize", self._stream)

    def record(self) -> None:
        """Begin to record what is put into the stream, instead of doing it."""
        self._call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(THREAD_LOCAL))

    def recorded(self) -> int:
        """End to record; a graph that ``launch`` runs. Raises EngineError if it cannot be recorded."""
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        finally:
            self._call("cuGraphDestroy", graph)
        return int(executable.value or 0)

    def launch(self, graph: int) -> None:
        """Put a recorded graph into the stream."""
        self._call("cuGraphLaunch", ctypes.c_void_p(graph), self._stream)

    def forget(self, graph: int) -> None:
        """Give a recorded graph back."""
        self._call("cuGraphExecDestroy", ctypes.c_void_p(graph))

    def close(self) -> None:
        """Give the stream back. The context stays until the process ends: TensorRT may be using it."""
        self._call("cuStreamDestroy_v2", self._stream)

    def _call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver. Raises DeviceError for lack of memory, else EngineError."""
        function = getattr(self._lib, name, None)
        if function is None:
            raise EngineError(f"this CUDA driver has no {name}, which comes with CUDA 11.4. Update JetPack")
        status = int(function(*arguments))
        if status == OUT_OF_MEMORY:
            raise DeviceError(
                f"the GPU has no memory left ({name}). Close other programs, or reboot the device"
            )
        if status:
            raise EngineError(
                f"CUDA: {name} failed with error {status} (see CUresult in cuda.h). Reboot the device"
            )
