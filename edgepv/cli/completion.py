"""The command ``completion``: a shell's script that completes commands, options and paths."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from edgepv.base.console import visible
from edgepv.cli.arguments import Commands

FOLDERS = ("DIR", "ROOT")
PATHS = ("BUNDLE", "CLIP", "FILE", "MODEL", "RUN", "[NAME=]SOURCE")
"""Arguments that take a path, by the names that help texts give them."""


def add_completion(commands: Commands) -> None:
    """edgepv completion"""
    text = "print a script that has your shell complete commands, options and paths"
    c = commands.add_parser(
        "completion",
        help=text,
        description=text,
        epilog='In ~/.bashrc, and likewise in ~/.zshrc: eval "$(edgepv completion bash)"',
    )
    c.add_argument("shell", metavar="SHELL", choices=("bash", "zsh"), help="bash or zsh")
    c.set_defaults(run=completion_command)


def completion_command(a: argparse.Namespace) -> int:
    """edgepv completion"""
    import shtab

    from edgepv.cli.app import parser

    whole = parser()
    for action in _arguments(whole):
        if action.metavar in PATHS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar in FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    print(visible(shtab.complete(whole, shell=a.shell), keep="\n\t"))
    return 0


def _arguments(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every argument of a parser and of its commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _arguments(command)
        else:
            yield action
