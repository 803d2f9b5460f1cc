"""The names that edgepv uses are in NVIDIA's own packages: names alone (names.json, tests/trt_names.py)."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from trt_names import NAMES, driver_calls, members

from edgepv.runtimes.trt import cuda

FOUND: dict[str, Any] = json.loads(NAMES.read_text(encoding="utf-8"))
STANDS_FOR = {
    "8.5.2": "8.6.1",
    "8.6.2": "8.6.1",
    "10.3.0": "10.3.0",
    "10.13.3": "10.13.3",
    "11.4.1": "11.4.0",
}
"""Versions that a Jetson has, and the wheel on PyPI that is nearest to each."""


@pytest.mark.parametrize("version", STANDS_FOR)
def test_the_fake_has_nothing_that_the_real_bindings_have_not(
    version: str, on_jetson: Callable[..., ModuleType]
) -> None:
    names = set(FOUND["tensorrt"][STANDS_FOR[version]]["names"])
    offered = members(on_jetson(version))
    assert len(offered) > 40
    assert offered - names == set()


def test_what_is_asked_for_member_by_member_differs_between_the_real_ones() -> None:
    """The members that tell the versions apart, as the bindings of each have them."""
    has = {version: set(row["names"]) for version, row in FOUND["tensorrt"].items()}
    assert {v for v, names in has.items() if "FP16" in names} == set(has) - {"11.4.0"}
    assert {v for v, names in has.items() if "EXPLICIT_BATCH" in names} == set(has) - {"11.4.0"}
    assert {v for v, names in has.items() if "progress_monitor" in names} == set(has) - {"8.6.1"}
    assert {v for v, names in has.items() if "STRONGLY_TYPED" in names} == set(has) - {"8.6.1"}


@pytest.mark.parametrize("version", FOUND["cuda.h"])
def test_every_function_of_the_driver_is_in_its_header(version: str) -> None:
    assert FOUND["cuda.h"][version]["functions"] == driver_calls()


@pytest.mark.parametrize("version", FOUND["cuda.h"])
def test_the_drivers_constants_are_those_of_its_header(version: str) -> None:
    ours = (
        *(cuda.NO_DEVICE, cuda.OUT_OF_MEMORY, cuda.MAJOR, cuda.MINOR, cuda.INTEGRATED),
        *(cuda.NON_BLOCKING, cuda.THREAD_LOCAL, cuda.PORTABLE),
    )
    assert tuple(FOUND["cuda.h"][version]["constants"].values()) == ours
