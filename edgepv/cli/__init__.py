"""The command line: one file for each group of commands.

Only argparse is imported before a command runs, so ``edgepv --help`` answers at once.
"""

from __future__ import annotations

from edgepv.cli.app import main, parser

__all__ = ["main", "parser"]
