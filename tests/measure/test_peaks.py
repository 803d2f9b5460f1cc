"""The peaks of a core: which kernels there are, and what stands in without a compiler; no time is judged."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from edgepv.base.machine import device_facts
from edgepv.firmware import compiler
from edgepv.firmware.compiler import VARIABLE, needed
from edgepv.measure import roofline


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "TURN_S", 1e-4)
    monkeypatch.setattr(roofline, "SIZES", (16 << 10, 1 << 20))
    roofline.peaks.cache_clear()


@pytest.mark.usefixtures("compiling")
def test_the_kernels_are_those_of_this_processor() -> None:
    found = roofline.peaks()
    assert found.fp32_gops > 0
    assert [size for size, _ in found.bandwidth] == [16 << 10, 1 << 20]
    assert all(rate > 0 for _, rate in found.bandwidth)
    flags = device_facts().flags
    if "avx512_vnni" in flags:
        assert found.source.endswith("AVX-512 VNNI")
    elif platform.machine() == "x86_64" and "avx2" in flags:
        assert found.source.rpartition(" by ")[2] in ("AVX2 maddubs and madd", "AVX VNNI")
    assert (found.int8_gops is None) == found.source.endswith("nothing")


@pytest.mark.usefixtures("compiling")
@pytest.mark.skipif(not shutil.which("objdump"), reason="no objdump")
def test_a_product_and_a_sum_are_one_instruction(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two would show half of what a core can do."""
    if platform.machine() == "x86_64" and "avx2" not in device_facts().flags:
        pytest.skip("a processor without such an instruction")
    made: list[bytes] = []

    def noted(chosen: compiler.Compiler, sources: Mapping[str, bytes], options: Sequence[str]) -> bytes:
        made.append(shared_object(chosen, sources, options))
        return made[-1]

    shared_object = compiler.shared_object
    monkeypatch.setattr(compiler, "shared_object", noted)
    roofline.peaks()
    (tmp_path / "kernels.so").write_bytes(made[0])
    words = ["objdump", "-d", str(tmp_path / "kernels.so")]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "vfmadd" in said or "fmla" in said


def test_without_a_compiler_numpy_stands_in_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "none")
    found = roofline.peaks()
    assert found.fp32_gops > 0
    assert found.int8_gops is None
    assert found.source.startswith("numpy's matrix product and copy: no C compiler")


@pytest.mark.slow
@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("march", ["x86-64", "x86-64-v3", "x86-64-v4", "cascadelake"])
def test_the_kernels_compile_for_every_x86_there_is(march: str, tmp_path: Path) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("another architecture")
    words = [needed().command, "-std=gnu99", "-O1", f"-march={march}", "-c", str(roofline.KERNELS)]
    subprocess.run([*words, "-o", str(tmp_path / "kernels.o")], check=True)
