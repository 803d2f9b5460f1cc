"""What a machine with an NVIDIA GPU proves, with whatever TensorRT it has; skipped with its reason elsewhere.

A pass on a desktop GPU proves the code's way through the real driver and the real tensorrt. It proves nothing
about a Jetson: another compute capability takes other kernels, and engines do not move. What is refused is
recorded as refused.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from edgepv.base.optional import present
from edgepv.bundle import golden, manifest
from edgepv.bundle.proof import proven
from edgepv.errors import EdgepvError, ParityError
from edgepv.runtimes import open_session
from edgepv.runtimes.trt import bundle, cuda, device, kit, store

COUNT, WHY = cuda.device_count()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not COUNT, reason=f"no CUDA GPU on this machine: {WHY}"),
]


def test_the_driver_records_copies_and_replays_them() -> None:
    driver = cuda.Cuda()
    size = 1 << 12
    host, first, other = driver.pin(size), driver.allocate(size), driver.allocate(size)
    values = np.frombuffer((ctypes.c_ubyte * size).from_address(host), np.uint8)  # type: ignore[call-overload]
    driver.record()
    driver.to_device(first, host, size)
    driver.within(other, first, size)
    driver.to_host(host, other, size)
    graph = driver.recorded()
    for value in (1, 2):
        values[:] = value
        driver.launch(graph)
        driver.wait()
        assert (values == value).all()
    free, total = driver.memory()
    assert 0 < free <= total
    driver.forget(graph)
    for address in (first, other):
        driver.free(address)
    driver.unpin(host)
    driver.close()


def test_a_bundle_is_built_proven_and_run(
    jetson_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not present("tensorrt"):
        pytest.skip("a CUDA GPU is here, and no tensorrt for it")
    monkeypatch.setenv("EDGEPV_CACHE", str(tmp_path))
    lines: list[str] = []
    try:
        found = kit.build(bundle.Bundle(jetson_bundle), lines.append, calls=50)
    except ParityError:
        raise  # wrong answers are no refusal
    except EdgepvError as e:
        pytest.skip(f"refused here: {e}")
    finally:
        print("\n".join(lines))
    assert not [line for line in lines if "answers otherwise" in line], "wrong answers are no refusal"
    whole = manifest.read(jetson_bundle)
    fit = proven(whole, (whole.variant(),))
    assert fit.variants[0].name == found["variant"] == store.kept(whole.digest, device.find())[0]
    frames = golden.load(whole)["frames"]
    with open_session(fit.variants[0], whole.checked) as session:
        first = [session.step(frame).scores for frame in frames]
        session.reset()
        again = [session.step(frame).scores for frame in frames]
    assert np.allclose(first, again, atol=1e-4)
