"""The command line. Only argparse is imported here: ``edgepv --help`` answers at once."""

from __future__ import annotations

import argparse
import contextlib
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
from edgepv.base.quiet import nobody_reads
from edgepv.cli import bench, fleet, imports, models, run, search
from edgepv.cli.about import doctor_command, models_command, targets_command
from edgepv.cli.arguments import EXIT_CODES, refuse_odd_text
from edgepv.cli.bundles import add_inspect, add_report, add_verify
from edgepv.cli.export import add_export
from edgepv.cli.stream import add_sensitivity, add_stream
from edgepv.errors import EdgepvError, ModelError, UsageError, told


class _Parser(argparse.ArgumentParser):
    """Speaks in one line, like the rest of edgepv."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See: {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. No traceback reaches a user."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's Ctrl-C
    try:
        arguments = parser().parse_args(argv)
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


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(
        prog="edgepv",
        description="Take a trained video model to an embedded camera: smaller, converted, checked.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"edgepv {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    add_export(commands)
    add_stream(commands)
    add_sensitivity(commands)
    imports.add_import(commands)
    models.add_finetune(commands)
    models.add_explain(commands)
    search.add_search(commands)
    search.add_widths(commands)
    run.add_run(commands)
    bench.add_bench(commands)
    fleet.add_ladder(commands)
    add_report(commands)
    add_verify(commands)
    add_inspect(commands)
    fleet.add_signing(commands)
    fleet.add_update(commands)
    for name, text, call in (
        ("targets", "the devices edgepv packs for", targets_command),
        ("models", "the built-in trained models", models_command),
        ("doctor", "what is installed, and what can be built and measured here", doctor_command),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--json", action="store_true", help="print JSON")
        command.set_defaults(run=call)
    return top


if __name__ == "__main__":
    sys.exit(main())
