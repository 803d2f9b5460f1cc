"""The command line: one file for each group of commands.

Only argparse and the file of the asked command are imported before it runs, so ``--help`` answers at once.
"""

from __future__ import annotations

from edgepv.cli.app import main, parser

__all__ = ["main", "parser"]
