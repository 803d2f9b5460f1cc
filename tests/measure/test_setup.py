"""The machine's facts are what the kernel tells, read from trees as kernels have them; nothing is guessed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from edgepv.measure import setup


def put(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    found = setup.setup(1, tmp_path)
    assert (found.governor, found.mhz, found.power_mode) == (None, None, None)
    assert found.threads == 1 and found.device.cores >= 1
    assert setup.celsius(tmp_path) is None
    meter = setup.EnergyMeter(tmp_path)
    assert not meter.known and setup.energy_mj(lambda: 1 / 0, meter) is None, "nothing is called for nothing"


def test_governor_clock_limits_mode_and_heat(tmp_path: Path) -> None:
    core = f"sys/devices/system/cpu/cpu{min(os.sched_getaffinity(0))}/cpufreq"
    told = {
        f"{core}/scaling_governor": "powersave",
        f"{core}/scaling_min_freq": "400000",
        f"{core}/scaling_max_freq": "1800000",
        "var/lib/nvpmodel/status": "pmode:0002",
        "sys/class/thermal/thermal_zone0/temp": "41000",
        "sys/class/thermal/thermal_zone1/temp": "63500",
    }
    found = setup.setup(2, put(tmp_path, **told))
    assert (found.governor, found.mhz, found.power_mode) == ("powersave", (400.0, 1800.0), "pmode:0002")
    assert setup.celsius(tmp_path / "sys") == 63.5


def test_rapl_is_counted_over_its_end(tmp_path: Path) -> None:
    """Two packages: 2 J of one; the other goes round at 10 J, from 9 to 0.5 J."""
    zone = "class/powercap/intel-rapl:"
    put(
        tmp_path,
        **{
            f"{zone}0/energy_uj": "1000000",
            f"{zone}0/max_energy_range_uj": "10000000",
            f"{zone}0:0/energy_uj": "77",
            f"{zone}1/energy_uj": "9000000",
            f"{zone}1/max_energy_range_uj": "10000000",
        },
    )
    meter = setup.EnergyMeter(tmp_path)
    assert meter.known and meter.joules() == 0.0
    put(tmp_path, **{f"{zone}0/energy_uj": "3000000", f"{zone}1/energy_uj": "500000"})
    assert meter.joules() == pytest.approx(2.0 + 1.5)
    assert meter.joules() == pytest.approx(3.5), "nothing more was taken"


def test_a_jetsons_rail_is_power_times_time(tmp_path: Path) -> None:
    """5 V and 2 A for three seconds; the rail of the CPU alone is not counted beside it."""
    chip = "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/"
    rails = {"1": ("VDD_IN", "5000", "2000"), "2": ("VDD_CPU_GPU_CV", "5000", "1000")}
    for number, (label, volts, amperes) in rails.items():
        put(
            tmp_path,
            **{
                f"{chip}in{number}_label": label,
                f"{chip}in{number}_input": volts,
                f"{chip}curr{number}_input": amperes,
            },
        )
    now = [0.0]
    meter = setup.EnergyMeter(tmp_path, clock=lambda: now[0])
    now[0] = 3.0
    assert meter.known and meter.joules() == pytest.approx(30.0)


def test_energy_of_a_call_is_what_was_counted_by_the_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call takes 3 J by the counter."""
    zone = put(tmp_path, **{"class/powercap/intel-rapl:0/energy_uj": "0"}) / "class/powercap/intel-rapl:0"
    monkeypatch.setattr(setup, "ENERGY_S", 0.05)
    calls = []

    def call() -> None:
        calls.append(1)
        (zone / "energy_uj").write_text(str(3_000_000 * len(calls)))
        time.sleep(0.005)

    assert setup.energy_mj(call, setup.EnergyMeter(tmp_path)) == pytest.approx(3000.0)
    assert len(calls) > 1
