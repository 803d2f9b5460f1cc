"""The core with the toy model, as three compilations that must not differ in one bit."""

from __future__ import annotations

import ctypes

import pytest
from building import CLANG, CORE_WITH_TOY, GCC

BUILDS = {
    "gcc": (GCC, ()),
    "gcc-fma": (GCC, ("-std=gnu99", "-O3", "-march=native")),  # GNU C joins products and sums if it may
    "clang-fma": (CLANG, ("-std=gnu99", "-O3", "-march=native")),
}


@pytest.fixture(scope="session", params=BUILDS)
def core(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    from toy_core import load  # it imports what most tests have no need of

    machine, options = BUILDS[request.param]
    library = tmp_path_factory.mktemp("core") / "libcore.so"
    return load(machine.build(library, CORE_WITH_TOY, "-shared", "-fPIC", *options))
