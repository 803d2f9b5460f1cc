"""``edgepv`` for tests that run many commands: forks of one process that has imported what exports do.

    python tests/warm.py SOCKET        waits there for commands

A command of its own imports torch and the converters, which takes longer than most commands do. ``SHIM`` is
the ``edgepv`` that a shell finds: it hands over its arguments, folder, environment, input and outputs, and
ends with the command's exit code.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

HEAVY = (
    "torch",
    "torch.export",
    "torch.onnx",
    "torch_pruning",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
    "cv2",
)
START_S = 300
"""Seconds that the imports may take on a busy machine."""

SHIM = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as there:
    there.connect({address!r})
    asked = dict(argv=sys.argv[1:], cwd=os.getcwd(), env=dict(os.environ))
    socket.send_fds(there, [json.dumps(asked).encode()], [0, 1, 2])
    sys.exit((there.recv(1) or b"\\1")[0])
"""
MOST_BYTES = 1 << 20  # of one request: arguments and environment


@contextlib.contextmanager
def commands(folder: Path) -> Iterator[str]:
    """The text of an ``edgepv`` whose commands are forks. folder: for its socket, of a short name."""
    address = folder / "warm"
    order = [sys.executable, __file__, str(address)]
    with subprocess.Popen(order, start_new_session=True) as server:
        try:
            _await(address, server)
            yield SHIM.format(python=sys.executable, address=str(address))
        finally:
            os.killpg(server.pid, signal.SIGKILL)


def _await(address: Path, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_S
    while not address.exists():
        assert server.poll() is None and time.monotonic() < until, "tests/warm.py did not start"
        time.sleep(0.05)


def serve(address: str) -> None:
    """Import, then fork for every connection, for ever."""
    import edgepv.pipeline.run  # noqa: F401  silences what comes next

    for name in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with contextlib.suppress(ImportError):
        import quick

        quick.one_registry()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address + ".new")
        door.listen()
        Path(address + ".new").rename(address)
        while True:
            there, _ = door.accept()
            if os.fork() == 0:
                door.close()
                _answer(there)
            there.close()


def _answer(there: socket.socket) -> None:
    """Run one command in this fork, and end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, outputs, _, _ = socket.recv_fds(there, MOST_BYTES, 3)
    asked, code = json.loads(message), 1
    for number, output in enumerate(outputs):
        os.dup2(output, number)
    try:
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["env"])
        code = command(asked["argv"])
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        there.sendall(bytes([code & 255]))
        os._exit(code)


def command(argv: list[str]) -> int:
    """``edgepv`` with quick exports: clips are spoilt in one way, and the shortest video proves a stream.

    Fine-tuning takes one epoch, and memory is looked at in this process.
    """
    from edgepv.cli import main

    if argv[:1] and argv[0] in ("export", "stream", "sensitivity", "explain", "search"):
        from quick import quicken

        from edgepv.data.degrade import CORRUPTIONS
        from edgepv.explain import deletion
        from edgepv.measure import memory
        from edgepv.pipeline import spoilt
        from edgepv.stream import verify

        quicken(pytest.MonkeyPatch())
        verify.VIDEO, deletion.STAGES = 0, 4
        spoilt.CORRUPTIONS = {"JPEG": CORRUPTIONS["JPEG"]}  # type: ignore[attr-defined]
        memory.call = lambda function, **given: memory.rss_of(**given)  # type: ignore[attr-defined]
    return main(argv + ["--tune-epochs", "1"] * (argv[:1] == ["search"]))


if __name__ == "__main__":
    serve(sys.argv[1])
