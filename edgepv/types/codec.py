"""The nouns of edgepv: frozen values that travel between the rooms, and their JSON form.

Unknown is ``None`` and is printed "not measured". Shapes are written with their layout next to them.
``encode`` and ``decode`` turn any of these into plain JSON data and back; ``decode`` refuses a key it
does not know, so a misspelt option is an error and never a silent default.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import types as pytypes
import typing
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal, TypeAlias, TypeVar

from edgepv.errors import MOST_SHOWN, UsageError, unknown

T = TypeVar("T")
Json: TypeAlias = Any
"""Plain JSON data: dicts by strings, lists, strings, numbers, booleans, None."""

FRACTION = re.compile(r"[-+]?\d{1,18}(\.\d{0,18})?([eE][-+]?\d{1,3})?|[-+]?\d{1,18}/0*[1-9]\d{0,17}")
"""A number of a size that can be worked with: 1e999999999 takes for ever to write out."""


RETIRED: Mapping[str, frozenset[str]] = {"edgepv.types.measured.Measurement": frozenset({"misses"})}
"""Keys that files of older versions have and nobody reads, by the place of a noun."""


def retired(kind: type) -> frozenset[str]:
    """Keys that files of older versions have for a noun and nobody reads."""
    return RETIRED.get(f"{kind.__module__}.{kind.__qualname__}", frozenset())


def encode(value: object) -> Json:
    """Plain JSON data of a noun: dicts, lists, strings, numbers, None. Fractions become "n/d"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if isinstance(value, Mapping):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [encode(v) for v in value]
    return value


def decode(kind: type[T], data: object, *, where: str = "") -> T:
    """Build a ``kind`` from JSON data; the inverse of ``encode``.

    Raises UsageError naming the place (``where``) for an unknown or missing key or a wrong type. ``RETIRED``
    keys are passed over.
    """
    return typing.cast(T, _decode(kind, data, where or kind.__name__))


def _decode(kind: Any, data: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if kind is Any:
        return data
    if origin in (typing.Union, pytypes.UnionType):
        options = [a for a in typing.get_args(kind) if a is not type(None)]
        return None if data is None else _decode(options[0], data, where)
    if origin is Literal:
        return _literal(kind, data, where)
    if origin is tuple:
        return _tuple(typing.get_args(kind), data, where)
    if origin is dict:
        _expect(isinstance(data, dict), where, "a table", data)
        value_kind = typing.get_args(kind)[1]
        return {str(k): _decode(value_kind, v, f"{where}.{str(k)[:MOST_SHOWN]}") for k, v in data.items()}
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, data, where)
    return _scalar(kind, data, where)


def _dataclass(kind: Any, data: Any, where: str) -> Any:
    _expect(isinstance(data, dict), where, "a table", data)
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    known = {f.name for f in fields}
    data = {k: v for k, v in data.items() if k not in retired(kind)}
    for key in data:
        if key not in known:
            raise UsageError(f"{where}: {unknown('key', str(key), known)}")
    optional = (dataclasses.MISSING, dataclasses.MISSING)
    missing = [f.name for f in fields if f.name not in data and (f.default, f.default_factory) == optional]
    if missing:
        raise UsageError(f"{where}: missing key '{missing[0]}'. Add it; see docs/spec.md")
    return kind(**{k: _decode(hints[k], v, f"{where}.{k}") for k, v in data.items()})


def _tuple(args: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    _expect(isinstance(data, list | tuple), where, "a list", data)
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_decode(args[0], v, f"{where}[{i}]") for i, v in enumerate(data))
    _expect(len(args) == len(data), where, f"{len(args)} values", data)
    return tuple(_decode(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, data)))


def _literal(kind: Any, data: Any, where: str) -> Any:
    allowed = typing.get_args(kind)
    if data not in allowed:
        raise UsageError(f"{where}: {unknown('value', str(data), map(str, allowed))}")
    return data


def _scalar(kind: Any, data: Any, where: str) -> Any:
    if kind is Fraction:
        _expect(FRACTION.fullmatch(str(data)) is not None, where, "a number or 'n/d'", data)
        return Fraction(str(data))
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        _expect(abs(data) <= sys.float_info.max, where, "a number of 64 bits", "a larger one")
        return float(data)
    wrong_bool = kind in (int, float) and isinstance(data, bool)
    _expect(isinstance(data, kind) and not wrong_bool, where, f"a {kind.__name__}", data)
    return data


def _expect(ok: bool, where: str, wanted: str, got: Any) -> None:
    if not ok:
        raise UsageError(f"{where}: expected {wanted}, got {repr(got)[:MOST_SHOWN]}")
