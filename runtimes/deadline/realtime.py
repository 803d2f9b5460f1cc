"""Asking the operating system for priority; every part is reported, none is silent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable

PRIORITY = 10  # of SCHED_FIFO's 1 to 99: above usual processes, below the kernel's interrupt threads at 50
NICE = -10  # half way from the usual 0 to the -20 that stays free for the system's owner
LOW = 10  # nice of what may wait, half way to the weakest, 19
GRANTED = "granted"
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4  # of sys/mman.h


def prioritise(cpus: tuple[int, ...] = (), *, realtime: bool = True) -> list[str]:
    """Raise the priority of this process and lock its memory; returns one line per part: done, or why not.

    Threads started later inherit it, so call it first. SCHED_FIFO at priority 10, or nice -10 where that is
    not allowed; all pages, now and later, stay in memory (mlockall). Needs root, or CAP_SYS_NICE and
    CAP_IPC_LOCK. Pinned to ``cpus`` if any are given, with or without ``realtime``.
    """
    said = []
    if cpus:
        pinned = ", ".join(map(str, cpus))
        said.append(_tried(f"pinned to CPU {pinned}", lambda: os.sched_setaffinity(0, cpus)))
    if not realtime:
        return said
    param = os.sched_param(PRIORITY)
    fifo = _tried(f"SCHED_FIFO priority {PRIORITY}", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, param))
    said.append(fifo)
    if not fifo.endswith(GRANTED):
        said.append(_tried(f"nice {NICE}", lambda: os.setpriority(os.PRIO_PROCESS, 0, NICE)))
    said.append(_tried("memory locked", _lock_memory))
    return said


def yield_to_others() -> None:
    """Let the calling thread run only where those with a deadline leave time. Source: sched(7)."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOW)


def _tried(what: str, ask: Callable[[], object]) -> str:
    try:
        ask()
    except OSError as e:
        return f"{what}: refused ({e.strerror or e}); run as root, or grant CAP_SYS_NICE and CAP_IPC_LOCK"
    return f"{what}: {GRANTED}"


def _lock_memory() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
