"""What a device is, from files as JetPacks write them, and what is refused; CUDA and TensorRT are FAKES."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgepv.errors import TargetUnavailableError
from edgepv.runtimes.trt import cuda, device

OnJetson = Callable[..., ModuleType]
MODEL = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0"
RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_an_orin_nano_is_read_from_its_files(on_jetson: OnJetson, tmp_path: Path) -> None:
    on_jetson("10.3.0", sm="8.7", free=1 << 30, total=8 << 30, integrated=1)
    files = {
        "proc/device-tree/model": MODEL,
        "etc/nv_tegra_release": RELEASE,
        "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
        "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "729600\n",
        "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1728000\n",
        "var/lib/nvpmodel/status": "pmode:0002",
        "proc/meminfo": "MemTotal: 7990000 kB\nMemFree: 900000 kB\nMemAvailable:    3145728 kB\n",
    }
    here = device.find(machine(tmp_path, files))
    assert (here.board, here.l4t, here.jetpack, here.sm) == ("jetson-orin-nano", "36.4.3", "6.2", "8.7")
    assert here.clocks == {"GPU": (306.0, 1020.0), "CPU": (729.6, 1728.0)}
    assert here.power == "pmode:0002" and here.stats is None
    lines = list(here.told())
    assert "SM 8.7, 3072 of 8192 MiB free" in lines[0] and "jetson-stats: no answer" in lines[3]


@pytest.mark.parametrize(
    ("files", "jetpack"),
    [
        ({"var/lib/dpkg/status": "Package: nvidia-jetpack\nStatus: ok\nVersion: 6.2.1+b38\n\n"}, "6.2.1"),
        ({"etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, GCID: 1\n"}, "5.1"),
        ({"etc/nv_tegra_release": "# R36 (release), REVISION: 3.0, GCID: 1\n"}, "6.0"),
        ({"etc/nv_tegra_release": "# R38 (release), REVISION: 2.0, GCID: 1\n"}, "7.0"),
        ({"etc/nv_tegra_release": "# R99 (release), REVISION: 1.0, GCID: 1\n"}, None),
        ({}, None),
    ],
)
def test_jetpack_is_what_the_package_or_the_release_says(
    files: dict[str, str], jetpack: str | None, on_jetson: OnJetson, tmp_path: Path
) -> None:
    on_jetson()
    assert device.find(machine(tmp_path, files)).jetpack == jetpack


@pytest.mark.parametrize("version", ["11.0.0", "11.2.1", "11.3.0"])
def test_tensorrt_11_below_11_4_is_refused_on_a_jetson_alone(
    version: str, on_jetson: OnJetson, tmp_path: Path
) -> None:
    on_jetson(version)
    with pytest.raises(TargetUnavailableError, match=f"TensorRT {version} is for no Jetson.*Install 11.4.1"):
        device.find(machine(tmp_path / "jetson", {"proc/device-tree/model": MODEL}))
    assert device.find(machine(tmp_path / "desktop", {"x": ""})).board is None


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "jetson-xavier",
            r"for jetson-xavier \(SM 7.2\), and this GPU is SM 8.7. Export .* --target jetson-orin",
        ),
        (
            "jetson-orin-nano@6.0",
            "for JetPack 6.0, and 6.2 is here. Export .* --target jetson-orin-nano@6.2",
        ),
    ],
)
def test_a_bundle_for_another_device_is_refused(
    target: str, message: str, on_jetson: OnJetson, tmp_path: Path
) -> None:
    on_jetson()
    files = {"proc/device-tree/model": MODEL, "etc/nv_tegra_release": RELEASE}
    here = device.find(machine(tmp_path, files))
    with pytest.raises(TargetUnavailableError, match=message):
        device.refuse_target(here, target)
    for fit in ("jetson", "jetson-orin-nano", "jetson-orin-nano@6.2"):
        device.refuse_target(here, fit)
    device.refuse_target(replace(here, jetpack="6.2.1"), "jetson-orin-nano@6.2")


def test_the_driver_is_asked_before_tensorrt_is_imported(
    on_jetson: OnJetson, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its runtime ends the process at a machine without a GPU."""
    on_jetson(devices=0)
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # importing it would raise
    with pytest.raises(TargetUnavailableError, match="the driver sees no GPU. Run the bundle on the Jetson"):
        device.find()


def test_a_python_without_tensorrt_says_which_one_has_it(
    on_jetson: OnJetson, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_jetson()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        TargetUnavailableError, match="cannot import tensorrt .*system's python3.*--system-site"
    ):
        device.find()


def test_the_context_that_tensorrt_may_use_is_not_taken_away(on_jetson: OnJetson) -> None:
    driver = on_jetson().driver
    device.find()
    assert "cuDevicePrimaryCtxRetain" in driver.calls and "cuDevicePrimaryCtxRelease_v2" not in driver.calls


def test_a_driver_that_is_too_old_is_named(on_jetson: OnJetson, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = on_jetson().driver
    real: Any = type(driver).__getattribute__
    monkeypatch.setattr(
        type(driver),
        "__getattribute__",
        lambda self, n: None if n == "cuStreamBeginCapture_v2" else real(self, n),
    )
    with pytest.raises(Exception, match="this CUDA driver has no cuStreamBeginCapture_v2.*Update JetPack"):
        cuda.Cuda().record()
