"""The JSON Schema of a noun: what ``decode`` takes, for readers that are not edgepv."""

from __future__ import annotations

import dataclasses
import sys
import types as pytypes
import typing
from fractions import Fraction
from typing import Any, Literal, TypeAlias

from edgepv.types.codec import FRACTION, retired

if sys.version_info >= (3, 11):
    from typing import NotRequired
else:
    from typing_extensions import NotRequired

Schema: TypeAlias = dict[str, Any]
"""Plain JSON data in the words of JSON Schema."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCALARS: dict[Any, Schema] = {
    Any: {},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    Fraction: {"type": ["string", "number"], "pattern": f"^({FRACTION.pattern})$"},
}


def json_schema(kind: type | pytypes.UnionType, title: str) -> Schema:
    """The schema of a frozen dataclass and of all that it holds; the same text for the same types.

    A field without a default is required, a key that is no field is refused, as ``decode`` does. RETIRED
    keys are there and say that they are deprecated. A TypedDict, or several of them, is what we write and
    others read: a key that it does not know may come. Raises TypeError for a type that is neither.
    """
    defs: dict[str, Schema] = {}
    return {"$schema": DIALECT, "title": title, **_schema(kind, defs), "$defs": dict(sorted(defs.items()))}


def _schema(kind: Any, defs: dict[str, Schema]) -> Schema:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, pytypes.UnionType):
        none = [{"type": "null"}] if type(None) in args else []
        return {"anyOf": [*(_schema(a, defs) for a in args if a is not type(None)), *none]}
    if origin is Literal:
        return {"enum": list(args)}
    if origin is list or (origin is tuple and args[-1] is Ellipsis):
        return {"type": "array", "items": _schema(args[0], defs)}
    if origin is tuple:
        items = [_schema(a, defs) for a in args]
        return {"type": "array", "prefixItems": items, "minItems": len(args), "maxItems": len(args)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(args[1], defs)}
    if typing.is_typeddict(kind) or (dataclasses.is_dataclass(kind) and isinstance(kind, type)):
        return _reference(kind, defs)
    if kind not in SCALARS:
        raise TypeError(f"{kind} has no form in JSON")
    return SCALARS[kind]


def _reference(kind: Any, defs: dict[str, Schema]) -> Schema:
    """A dataclass or TypedDict by its name; its own schema goes to ``defs``."""
    if kind.__name__ not in defs:
        defs[kind.__name__] = {}  # taken: a type may hold itself
        defs[kind.__name__] = _keys(kind, defs) if typing.is_typeddict(kind) else _object(kind, defs)
    return {"$ref": f"#/$defs/{kind.__name__}"}


def _object(kind: Any, defs: dict[str, Schema]) -> Schema:
    hints, none = typing.get_type_hints(kind), (dataclasses.MISSING, dataclasses.MISSING)
    fields = dataclasses.fields(kind)
    gone = {name: {"deprecated": True} for name in sorted(retired(kind))}
    return {
        "description": (kind.__doc__ or "").strip().splitlines()[0],
        "type": "object",
        "properties": {f.name: _schema(hints[f.name], defs) for f in fields} | gone,
        "required": [f.name for f in fields if (f.default, f.default_factory) == none],
        "additionalProperties": False,
    }


def _keys(kind: Any, defs: dict[str, Schema]) -> Schema:
    hints = typing.get_type_hints(kind, include_extras=True)
    maybe = {key: hint for key, hint in hints.items() if typing.get_origin(hint) is NotRequired}
    plain = hints | {key: typing.get_args(hint)[0] for key, hint in maybe.items()}
    return {
        "description": (kind.__doc__ or "").strip().splitlines()[0],
        "type": "object",
        "properties": {key: _schema(hint, defs) for key, hint in plain.items()},
        "required": [key for key in hints if key not in maybe],
    }
