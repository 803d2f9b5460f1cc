"""What the text of a source says: its options, its frame rate, and what of it may be shown."""

from __future__ import annotations

import re
from fractions import Fraction
from urllib.parse import parse_qsl

from edgepv.data.video import frame_rate
from edgepv.errors import UsageError, unknown

_USER = re.compile(r"(//[^/\s:@]*):.*@", re.DOTALL)
_VALUE = re.compile(r"([\w-]*(?:pass|pwd|pw|token|secret|key|auth)[\w-]*=)[^&\s]+", re.IGNORECASE)


def without_password(text: str) -> str:
    """The address with ``***`` for what must not be shown: //user:***@host, pwd=***.

    A password with an @, a / or a blank in it is hidden too: everything up to the last @ is.
    """
    return _VALUE.sub(r"\1***", _USER.sub(r"\1:***@", text))


def options(text: str, defaults: dict[str, str | None]) -> tuple[str, dict[str, str]]:
    """("folder", {"fps": "10"}) of "folder?fps=10". A default of None: the option must be given.

    Raises UsageError for an unknown, empty or missing option.
    """
    rest, _, query = text.partition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    for key in given:
        if key not in defaults:
            raise UsageError(f"{text}: {unknown('option', key, defaults)}")
    values = {key: given.get(key, default) for key, default in defaults.items()}
    filled = {key: value for key, value in values.items() if value}
    if len(filled) < len(values):
        missing = min(set(values) - set(filled))
        joint = "&" if query else "?"
        raise UsageError(f"{text}: the option '{missing}' is missing. Write {text}{joint}{missing}=...")
    return rest, filled


def rate_option(text: str, value: str) -> Fraction:
    """The ``fps`` option, "25", "29.97" or "30000/1001". Raises UsageError if it is no frame rate."""
    try:
        rate = frame_rate(Fraction(value))
    except (ValueError, ZeroDivisionError):
        rate = None
    if rate is None:
        raise UsageError(f"{text}: fps={value} is no frame rate. Write fps=25 or fps=30000/1001")
    return rate
