"""Options that a dataclass declares: flag, help text, check and value are said once, at the field."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgepv.errors import UsageError, unknown
from edgepv.types import decode

MOST_COUNT = 10_000
"""Largest count of frames, channels, layers, particles or epochs that may be asked for."""


@dataclass(frozen=True)
class Option:
    """How people give the value of a field.

    help, metavar: as ``--help`` has them. key: its name in ``--config``, of which the flag is made; the
    field's own if empty. kind: type of the value, the field's own (without None) if not given. check: whether
    a value is in range; hint: what is said if not. most: of a whole number. choices: all values there are.
    asks: giving it asks for the step that has it. searched: values that ``edgepv search`` tries, the first
    one off; called: how tables call such values. field, default: of the dataclass.
    """

    help: str
    metavar: str | None = None
    key: str = ""
    kind: Any = None
    check: Callable[[Any], bool] = lambda value: True
    hint: str = ""
    most: float = MOST_COUNT
    choices: tuple[str, ...] = ()
    asks: bool = False
    searched: tuple[Any, ...] = ()
    called: Callable[[Sequence[Any]], str] | None = None
    field: str = ""
    default: Any = None

    @property
    def flag(self) -> str:
        """As it is typed, like ``--low-rank``."""
        return f"--{self.key.replace('_', '-')}"

    @property
    def many(self) -> bool:
        """Whether its value is a list of numbers."""
        return typing.get_origin(self.kind) is tuple

    def argument(self) -> dict[str, Any]:
        """What argparse's ``add_argument`` is told."""
        if self.kind is bool:
            return {"help": self.help, "action": "store_true", "default": None}
        kind = self._numbers if self.many else self.kind if self.kind in (int, float) else str
        return {"help": self.help, "metavar": self.metavar, "type": kind}

    def decoded(self, value: Any, where: str) -> Any:
        """A value from TOML, JSON or the command line. Raises UsageError for a wrong type."""
        if self.many and not isinstance(value, list | tuple):
            value = [value]
        return decode(self.kind, value, where=f"{where}.{self.key}")

    def refuse(self, value: object) -> None:
        """Raise UsageError for a value out of range; None is in every range."""
        if value is None:
            return
        if self.choices and value not in self.choices:
            raise UsageError(unknown(self.flag, str(value), self.choices))
        if isinstance(value, int) and value > self.most:
            raise UsageError(f"{self.flag} {value}: give a number up to {self.most}")
        if not self.check(value):
            raise UsageError(f"{self.flag} {self.text(value)}: {self.hint}")

    def text(self, value: object) -> str:
        """A value as it is typed."""
        if isinstance(value, tuple | list):
            return ",".join(map(self.text, value))
        short = f"{value:g}" if isinstance(value, float) else str(value)
        return repr(value) if isinstance(value, float) and float(short) != value == value else short

    def words(self, value: object) -> list[str]:
        """The words of a command line that give a value."""
        return [self.flag] if value is True else [self.flag, self.text(value)]

    def named(self, values: Sequence[object]) -> str:
        """How tables call these values."""
        return self.called(values) if self.called else f"{self.flag[2:]} {'/'.join(map(self.text, values))}"

    def _numbers(self, text: str) -> list[float]:
        """Numbers with commas between them, like 0,0.25,0.5."""
        try:
            return [float(part) for part in text.split(",")]
        except ValueError:
            raise UsageError(f"{self.flag} {text}: {self.hint}") from None


def option(default: Any, help: str, **how: Any) -> Any:
    """A field that is an option; ``how``: other fields of ``Option``."""
    return dataclasses.field(default=default, metadata={"option": Option(help, **how)})


def options_of(kind: type) -> tuple[Option, ...]:
    """The options that a dataclass declares, in order."""
    hints = typing.get_type_hints(kind)
    return tuple(
        dataclasses.replace(
            declared,
            key=declared.key or f.name,
            kind=declared.kind or _without_none(hints[f.name]),
            field=f.name,
            default=f.default,
        )
        for f in dataclasses.fields(kind)
        if (declared := f.metadata.get("option"))
    )


def values_of(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Field -> value of the options of ``kind`` that are given by their keys.

    Raises UsageError for a value of a wrong type.
    """
    return {o.field: o.decoded(given[o.key], "options") for o in options_of(kind) if o.key in given}


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint
    return next(a for a in typing.get_args(hint) if a is not type(None))
