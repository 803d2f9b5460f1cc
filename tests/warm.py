"""``edgepv`` for tests that run many commands: forks of one process that has imported what exports do.

    python tests/warm.py SOCKET        waits there for commands

A command of its own imports torch and the converters, which takes longer than most commands do. ``SHIM`` is
the ``edgepv`` that a shell finds: it hands over its arguments, folder, environment, input and outputs, and
ends with the command's exit code.
"""

from __future__ import annotations

import contextlib
import functools
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
from dataclasses import replace
from pathlib import Path

import pytest

HEAVY = (
    "torch",
    "torch._dynamo",
    "torch.export",
    "torch.onnx",
    "torch_pruning",
    "onnx",
    "onnxruntime",
    "onnxruntime.quantization",
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
FRAMES = 32  # of a film that calibrates, and of one whose points are followed
LAYERS = 8  # of a model, of which each is quantized alone


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
    """``edgepv`` with quick exports: of four clips of a split, spoilt in one way, and short proofs.

    Of a built-in model the float variants alone are made, of one with weights of its own all of them.
    Fine-tuning takes one epoch, clips that are replayed live run four times as fast, memory is looked at in
    this process, and firmware is compiled as it is.
    """
    from edgepv.cli import main

    if argv[:1] and argv[0] in ("export", "stream", "sensitivity", "explain", "search", "firmware"):
        quickest(argv[0])
    more = {"search": ["--tune-epochs", "1"], "bench": ["--rate", "4"] * ("--live" in argv)}
    if "--weights" not in argv:
        more["export"] = ["--precision", "fp32"]
    return main(argv + [word for name in argv[:1] for word in more.get(name, [])])


def quickest(command: str) -> None:
    """Quick exports, and what else a command can do with less of."""
    from quick import fewest, quicken

    from edgepv.base.tasks import TASKS
    from edgepv.data import calibration, frames
    from edgepv.data.degrade import CORRUPTIONS
    from edgepv.explain import clip, deletion
    from edgepv.firmware import compiler
    from edgepv.measure import memory
    from edgepv.pipeline import source, spoilt
    from edgepv.quantize import sensitivity
    from edgepv.search import finals
    from edgepv.stream import verify

    patch = pytest.MonkeyPatch()  # for as long as this process lives
    quicken(patch)
    if command != "search":  # which halves its clips
        patch.setattr(source, "_shipped", fewest)
    if command == "sensitivity":
        layers = sensitivity.convolutions
        patch.setattr(sensitivity, "convolutions", lambda file: layers(file)[:LAYERS])
    followed = replace(TASKS.find("tracking"), most_frames=FRAMES)
    patch.setitem(TASKS.own, "tracking", followed)
    patch.setattr(calibration, "clean_frames", functools.partial(frames.clean_frames, most=FRAMES))
    patch.setattr(verify, "VIDEO", 0)
    patch.setattr(finals, "SURE_BUDGET_S", 0.0)
    patch.setattr(deletion, "STAGES", 4)
    patch.setattr(clip, "deletion", functools.partial(deletion.deletion, orders=2))
    patch.setattr(spoilt, "CORRUPTIONS", {"JPEG": CORRUPTIONS["JPEG"]})
    patch.setattr(compiler, "COMPILED", tuple(word for word in compiler.COMPILED if word != "-O3"))
    patch.setattr(memory, "call", lambda function, **given: memory.rss_of(**given))


if __name__ == "__main__":
    serve(sys.argv[1])
