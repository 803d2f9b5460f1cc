"""A converter in a process of its own sees what this one sees, and fails in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import in_this_process

from edgepv.base.isolated import call
from edgepv.errors import UsageError

CONVERTER = """
import os, time

def double(number):
    return 2 * number

def crash():
    os.abort()

def fail():
    raise ValueError("no such operator")

def refuse():
    from edgepv.stream import NotStreamableError
    from edgepv.stream.values import RefusedError
    raise NotStreamableError("net", RefusedError("looks ahead", "look back"))

def hang():
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that only this process's import path knows."""
    (tmp_path / "converter_of_a_user.py").write_text(CONVERTER)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_it_imports_from_where_this_process_does() -> None:
    assert call("converter_of_a_user:double", number=21) == 42


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("fail", "fail failed: ValueError: no such operator"),
        ("crash", "crash failed: the process crashed with SIGABRT"),
        ("refuse", "^net: looks ahead. To stream it, look back$"),
    ],
)
def test_a_failure_is_one_line(function: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        call(f"converter_of_a_user:{function}")


def test_what_tests_take_for_it_answers_and_fails_alike() -> None:
    assert in_this_process("converter_of_a_user:double", number=21) == 42
    with pytest.raises(UsageError, match="^litert-torch failed: ValueError: no such operator$"):
        in_this_process("converter_of_a_user:fail", tool="litert-torch")
    with pytest.raises(UsageError, match="^net: looks ahead. To stream it, look back$"):
        in_this_process("converter_of_a_user:refuse")


def test_a_converter_that_hangs_is_stopped() -> None:
    with pytest.raises(UsageError, match="did not finish within 1 s"):
        call("converter_of_a_user:hang", timeout_s=1)
