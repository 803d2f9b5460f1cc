"""What the command lines of the training scripts have in common: options, and how they end."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from edgepv.base.console import tell
from edgepv.errors import EdgepvError
from edgepv.zoo import HERE
from edgepv.zoo.training import parallel


def default_cache() -> Path:
    """Where unfinished trainings are kept: XDG_CACHE_HOME or ~/.cache, under edgepv/zoo."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "edgepv" / "zoo"


def script(name: str, text: str | None) -> argparse.ArgumentParser:
    """The parser of ``python -m edgepv.zoo.training.NAME`` with the options that every one has."""
    parser = argparse.ArgumentParser(prog=f"python -m edgepv.zoo.training.{name}", description=text)
    parser.add_argument("--out", type=Path, default=HERE, help="gets weights/ and cards/")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="unfinished trainings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser


def ended(args: argparse.Namespace, work: Callable[[], str]) -> int:
    """Exit code of a script that does ``work`` and prints what it says, or why it failed, in one line."""
    torch.set_num_threads(args.threads)
    try:
        said = work()
    except EdgepvError as e:
        tell(f"edgepv: {e}", file=sys.stderr)
        return e.exit_code
    finally:
        parallel.stop()
    if said:
        print(said)
    return 0
