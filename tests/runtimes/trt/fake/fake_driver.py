"""A LABELLED FAKE of CUDA's driver library: "device" memory is host memory, a stream works at once.

It is no GPU and proves nothing about one. It lets tests walk what edgepv asks of the driver: which functions,
in which order, with graphs that are recorded and replayed, and copies whose effect can be read.
"""
# ruff: noqa: N802  its names are those of cuda.h

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any


class FakeDriver:
    """What ``ctypes.CDLL("libcuda.so.1")`` gives, in Python. ``calls`` has the name of every function "
    "called."""

    def __init__(
        self,
        devices: int = 1,
        sm: str = "8.7",
        free: int = 4 << 30,
        total: int = 8 << 30,
        integrated: int = 0,
    ) -> None:
        self.devices, self.sm, self.free, self.total = devices, sm, free, total
        self.integrated = integrated
        self.calls: list[str] = []
        self.memory: dict[int, Any] = {}
        self.recording: list[Callable[[], None]] | None = None
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.refuse_graphs = False

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("cu"):
            object.__getattribute__(self, "calls").append(name)
        return object.__getattribute__(self, name)

    def put(self, work: Callable[[], None]) -> int:
        """Do some work of the stream, or record it."""
        if self.recording is None:
            work()
        else:
            self.recording.append(work)
        return 0

    def _allocate(self, out: Any, size: int) -> int:
        buffer = ctypes.create_string_buffer(b"\xa5" * size, size)  # what was never written shows
        address = ctypes.addressof(buffer)
        self.memory[address] = buffer
        out._obj.value = address
        return 0

    def cuInit(self, flags: int) -> int:
        return 0 if self.devices else 100

    def cuDeviceGetCount(self, out: Any) -> int:
        out._obj.value = self.devices
        return 0

    def cuDeviceGet(self, out: Any, which: Any) -> int:
        return 0

    def cuDevicePrimaryCtxRetain(self, out: Any, device: Any) -> int:
        out._obj.value = 1
        return 0

    def cuCtxSetCurrent(self, context: Any) -> int:
        return 0

    def cuCtxGetStreamPriorityRange(self, least: Any, greatest: Any) -> int:
        least._obj.value, greatest._obj.value = 0, -5
        return 0

    def cuStreamCreateWithPriority(self, out: Any, flags: Any, priority: Any) -> int:
        assert (flags.value, priority.value) == (1, -5)
        out._obj.value = 7
        return 0

    def cuStreamDestroy_v2(self, stream: Any) -> int:
        return 0

    def cuDeviceGetAttribute(self, out: Any, which: Any, device: Any) -> int:
        major, minor = map(int, self.sm.split("."))
        out._obj.value = {75: major, 76: minor, 18: self.integrated}[which.value]
        return 0

    def cuMemGetInfo_v2(self, free: Any, total: Any) -> int:
        free._obj.value, total._obj.value = self.free, self.total
        return 0

    def cuMemAlloc_v2(self, out: Any, size: Any) -> int:
        return self._allocate(out, size.value)

    def cuMemHostAlloc(self, out: Any, size: Any, flags: Any) -> int:
        return self._allocate(out, size.value)

    def cuMemFree_v2(self, pointer: Any) -> int:
        del self.memory[pointer.value]
        return 0

    def cuMemFreeHost(self, pointer: Any) -> int:
        del self.memory[pointer.value]
        return 0

    def _copy(self, to: int, source: int, size: int) -> int:
        assert to + size <= source or source + size <= to, "a copy whose ends overlap"
        return self.put(lambda: void(ctypes.memmove(to, source, size)))

    def cuMemcpyHtoDAsync_v2(self, to: Any, source: Any, size: Any, stream: Any) -> int:
        return self._copy(to.value, source.value, size.value)

    def cuMemcpyDtoHAsync_v2(self, to: Any, source: Any, size: Any, stream: Any) -> int:
        return self._copy(to.value, source.value, size.value)

    def cuMemcpyDtoDAsync_v2(self, to: Any, source: Any, size: Any, stream: Any) -> int:
        return self._copy(to.value, source.value, size.value)

    def cuStreamSynchronize(self, stream: Any) -> int:
        return 0

    def cuStreamBeginCapture_v2(self, stream: Any, mode: Any) -> int:
        assert mode.value == 1
        self.recording = []
        return 0

    def cuStreamEndCapture(self, stream: Any, out: Any) -> int:
        work, self.recording = self.recording, None
        out._obj.value = len(self.graphs) + 1
        self.graphs[len(self.graphs) + 1] = work or []
        return 901 if self.refuse_graphs else 0  # CUDA_ERROR_STREAM_CAPTURE_INVALIDATED

    def cuGraphInstantiateWithFlags(self, out: Any, graph: Any, flags: Any) -> int:
        out._obj.value = graph.value
        return 0

    def cuGraphDestroy(self, graph: Any) -> int:
        return 0

    def cuGraphExecDestroy(self, graph: Any) -> int:
        return 0

    def cuGraphLaunch(self, graph: Any, stream: Any) -> int:
        assert stream.value == 7
        for work in self.graphs[graph.value]:
            work()
        return 0


def void(anything: Any) -> None:
    """Nothing, of whatever was done."""


DRIVER = FakeDriver(devices=int(os.environ.get("FAKE_GPUS", "1")), sm=os.environ.get("FAKE_SM", "8.7"))


def install() -> FakeDriver:
    """Have ``ctypes.CDLL`` give the fake for libcuda, and the real library for everything else."""
    real = ctypes.CDLL

    def cdll(name: Any, *arguments: Any, **more: Any) -> Any:
        return DRIVER if name == "libcuda.so.1" else real(name, *arguments, **more)

    ctypes.CDLL = cdll  # type: ignore[assignment, misc]
    return DRIVER
