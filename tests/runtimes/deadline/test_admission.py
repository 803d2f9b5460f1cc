"""Cameras that share a machine get what fits, and who does not fit is told."""

from __future__ import annotations

import pytest

from edgepv.errors import UsageError
from edgepv.runtimes.deadline.admission import Demand, admit


def camera(name: str, *accuracy: float) -> Demand:
    """10 frames a second of 60 or 20 ms: 0.6 or 0.2 cores."""
    return Demand(name, 10, (60.0, 20.0), accuracy)


@pytest.mark.parametrize(
    ("cameras", "cores", "rungs", "why"),
    [
        ([camera("a")], 1, [0], "0.6 of 0.8 cores"),
        ([camera("a"), camera("b")], 1, [0, 1], "0.6 + 0.2 is all there is; equal gains go to the first"),
        ([camera("a"), camera("b")], 2, [0, 0], "1.2 of 1.6 cores"),
        ([camera("a", 0.80, 0.79), camera("b", 0.90, 0.70)], 1, [1, 0], "b gains 20 points, a gains 1"),
        ([camera(c) for c in "abcd"], 1, [1, 1, 1, 1], "four smallest fill 0.8"),
    ],
)
def test_who_gets_what(cameras: list[Demand], cores: int, rungs: list[int], why: str) -> None:
    assert list(admit(cameras, cores).values()) == rungs, why


def test_who_does_not_fit_is_named() -> None:
    with pytest.raises(
        UsageError, match=r"no room for camera e: 5 cameras need 1.00 cores or more .*0.80 of 1"
    ):
        admit([camera(c) for c in "abcde"], 1)
