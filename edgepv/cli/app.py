"""The command line: a table of the commands, and the file of the one that was asked for.

Only argparse is imported before that, so ``edgepv --help`` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import posix
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import NoReturn

from edgepv import __version__
from edgepv.base.console import tell
from edgepv.cli.arguments import EXIT_CODES, refuse_odd_text
from edgepv.errors import EdgepvError, ModelError, UsageError, told

COMMANDS: dict[str, dict[str, str]] = {
    "edgepv.cli.export:add_export": {
        "export": "compress and convert a model, compare it with the original, write a bundle",
    },
    "edgepv.cli.stream:add_stream": {
        "stream": "explain how a clip model becomes a per-frame stream: layers, delay, states, saving",
    },
    "edgepv.cli.stream:add_sensitivity": {
        "sensitivity": "what INT8 (or a cut) of each layer alone does to a model's answers",
    },
    "edgepv.cli.imports:add_import": {
        "import": "make builder, weights and spec of a checkpoint that another library trained",
    },
    "edgepv.cli.models:add_finetune": {
        "finetune": "adapt a trained classifier to your own labels, in minutes",
    },
    "edgepv.cli.models:add_explain": {
        "explain": "show which places and particles a bundle's answer to a clip rests on, and whether "
        "that is true",
    },
    "edgepv.cli.particles:add_particles": {
        "particles": "take a clip apart into particles, draw them, and paint the clip of them again",
    },
    "edgepv.cli.search:add_search": {
        "search": "search engine, graph form, width, size and precision together for a latency and an "
        "accuracy",
    },
    "edgepv.cli.search:add_widths": {
        "widths": "measure how the time of a convolution grows with its channels, and which multiples pay",
    },
    "edgepv.cli.run:add_run": {
        "run": "run a bundle on a video file or on cameras: answers and events out, each before its deadline",
    },
    "edgepv.cli.build:add_build": {
        "build": "on a Jetson: build a bundle's engines, prove them, time them in turns, keep the better",
    },
    "edgepv.cli.bench:add_bench": {
        "bench": "measure bundles, model files, generated C and torch side by side, here or on a board",
        "choose": "time what a bundle may run on this machine, and remember the fastest for edgepv run",
    },
    "edgepv.cli.normal:add_calibrate_normal": {
        "calibrate-normal": "learn a camera's anomaly threshold from its normal footage, for a rate of false "
        "alarms",
    },
    "edgepv.cli.fleet:add_ladder": {
        "ladder": "pack several bundles of one task into one, from which edgepv run chooses frame by frame",
    },
    "edgepv.cli.bundles:add_report": {
        "report": "put every variant of one or more bundles side by side",
    },
    "edgepv.cli.gate:add_gate": {
        "gate": "pass or fail a build by a report: loss, latency, and what got worse since an older one",
    },
    "edgepv.cli.bundles:add_verify": {
        "verify": "check every digest of a bundle and replay its golden vectors",
    },
    "edgepv.cli.bundles:add_inspect": {
        "inspect": "print what a bundle holds, for a person",
    },
    "edgepv.cli.firmware:add_firmware": {
        "firmware": "write a bundle's step as C that needs no library and no malloc, with a self-test",
    },
    "edgepv.cli.fleet:add_signing": {
        "keygen": "make an Ed25519 key pair for signing bundles",
        "sign": "sign a bundle's manifest, and with it every file of the bundle",
    },
    "edgepv.cli.fleet:add_update": {
        "update": "install a bundle beside the running one: verified, tested, tried, and taken back if "
        "it fails",
    },
    "edgepv.cli.about:add_about": {
        "targets": "the devices edgepv packs for",
        "models": "the built-in trained models",
        "doctor": "what is installed, and what can be built and measured here",
    },
    "edgepv.cli.completion:add_completion": {
        "completion": "print a script that has your shell complete commands, options and paths",
    },
}
"""What adds commands to the parser (``module:function``): their names and lines in ``edgepv --help``."""


class _Parser(argparse.ArgumentParser):
    """Speaks in one line, like the rest of edgepv."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See: {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. No traceback reaches a user."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's Ctrl-C
    try:
        given = sys.argv[1:] if argv is None else list(argv)
        arguments = parser(_asked(given)).parse_args(given)
        for value in vars(arguments).values():
            refuse_odd_text(value)
        from edgepv.base.files import scratch

        _fonts_in_the_cache()
        with scratch(), _no_silent_end(), warnings.catch_warnings():
            if not os.environ.get("EDGEPV_DEBUG"):
                warnings.simplefilter("ignore")  # those of libraries and models are no news to a user
            return _call(arguments)
    except KeyboardInterrupt as e:
        left = str(e) or "Nothing half-written is left; run the same command again"
        return _fail(f"stopped. {left}", 130)
    except BrokenPipeError:
        from edgepv.base.quiet import nobody_reads

        nobody_reads()
        return 0
    except (EdgepvError, OSError, MemoryError) as e:
        return _fail(*told(e))
    except SystemExit:
        raise  # --help and --version
    except BaseException as e:  # a model's own code may raise anything
        if os.environ.get("EDGEPV_DEBUG"):
            raise
        line, code = told(e)
        return _fail(f"{line}. EDGEPV_DEBUG=1 shows where; please report it", code)


def _call(arguments: argparse.Namespace) -> int:
    try:
        return int(arguments.run(arguments) or 0)
    except SystemExit as e:
        raise ModelError(
            f"code of the model or of a library called sys.exit or os._exit ({e.code}) before this was done. "
            "Take the call out"
        ) from e


@contextlib.contextmanager
def _no_silent_end() -> Iterator[None]:
    """Have os._exit raise SystemExit: called by a model's code it would end us at once, silent, often with 0.

    Processes that are forked from this one end by it as ever.
    """
    own, real = os.getpid(), os._exit

    def end(status: int) -> NoReturn:
        if os.getpid() != own:
            real(status)
        raise SystemExit(status)

    os._exit = posix._exit = end
    try:
        yield
    finally:
        os._exit = posix._exit = real


def _fonts_in_the_cache() -> None:
    """Have matplotlib keep its list of fonts in edgepv's cache, not in a folder below the user's home."""
    from edgepv.base.cache import root

    with contextlib.suppress(RuntimeError):  # this user has no home and named no cache
        os.environ.setdefault("MPLCONFIGDIR", str(root() / "matplotlib"))


def _fail(message: str, code: int) -> int:
    with contextlib.suppress(OSError):  # nobody has to be there to read it
        tell(f"edgepv: {' '.join(message.split())}", file=sys.stderr)
    return code


def _asked(argv: Sequence[str]) -> str:
    """The command among the arguments; options that come before it take no value. Empty without one."""
    return next((word for word in argv if not word.startswith("-")), "")


def parser(asked: str | None = None) -> argparse.ArgumentParser:
    """The whole command line or, with a name in ``asked``, that command's part of it.

    Every other command is then a name and one line of help, and its file is not imported.
    """
    top = _Parser(
        prog="edgepv",
        description="Take a trained video model to an embedded camera: smaller, converted, checked.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"edgepv {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    for adder, helps in COMMANDS.items():
        if asked is None or asked in helps:
            module, _, function = adder.partition(":")
            getattr(importlib.import_module(module), function)(commands)
        else:
            for name, text in helps.items():
                commands.add_parser(name, help=text)
    return top


if __name__ == "__main__":
    sys.exit(main())
