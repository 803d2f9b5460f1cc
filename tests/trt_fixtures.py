"""A bundle for Jetson, and the LABELLED FAKES of TensorRT and of CUDA's driver (tests/runtimes/trt/fake)."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support import Tiny, made_once

FAKE = Path(__file__).parent / "runtimes" / "trt" / "fake"


@pytest.fixture(scope="session")
def jetson_bundle(tiny_step: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A jetson bundle of the tiny step model, made by the command line."""
    from edgepv.cli.app import main

    def export(out: Path) -> None:
        assert main(["export", *tiny_step.arguments, "--target", "jetson", "--out", str(out)]) == 0

    return made_once(tmp_path_factory, "jetson", export)


@pytest.fixture
def on_jetson(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., ModuleType]:
    """Makes this process believe that it is on a device with some TensorRT; its cache is a folder of its own.

    Returns the fake tensorrt; ``driver`` of it is the fake of CUDA.
    """
    monkeypatch.syspath_prepend(str(FAKE))
    monkeypatch.setenv("EDGEPV_CACHE", str(tmp_path / "cache"))
    from edgepv.runtimes.engines import trt as engine

    monkeypatch.setattr(engine, "here", engine.here.__wrapped__)
    real = ctypes.CDLL

    def start(version: str = "10.3.0", **machine: Any) -> ModuleType:
        import fake_driver
        import fake_tensorrt

        driver = fake_driver.FakeDriver(**machine)
        monkeypatch.setattr(
            ctypes, "CDLL", lambda name, *a, **k: driver if name == "libcuda.so.1" else real(name, *a, **k)
        )
        fake = fake_tensorrt.make(version, driver)
        fake.__spec__ = type(sys.__spec__)("tensorrt", None)
        fake.driver = driver  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "tensorrt", fake)
        return fake

    return start
