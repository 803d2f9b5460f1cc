"""The roofline by numbers that a reader can check in their head."""

from __future__ import annotations

import pytest

from edgepv.metrics.roofline import bandwidth_gbs, of_row, told, under_roof
from edgepv.types import Latency, Measurement, Peaks

PEAKS = Peaks(100.0, 400.0, ((1_000, 200.0), (1_000_000, 50.0), (100_000_000, 10.0)), "made up")


@pytest.mark.parametrize(
    ("operations", "moved", "seconds", "precision", "roof", "share", "limit"),
    [
        (1e9, 1_000_000, 0.0125, "fp32", 100, 0.8, "compute"),
        (1e9, 1_000_000, 0.0125, "int8", 400, 0.2, "overhead"),
        (1e6, 1_000_000, 25e-6, "fp32", 50, 0.8, "memory"),  # one operation a byte: 50 GB/s allow 50 GOP/s
        (1e6, 2_000_000, 1e-3, "fp32", 5, 0.2, "overhead"),  # from the slowest memory, which holds as much
    ],
)
def test_the_roof_is_the_lower_of_arithmetic_and_memory(
    operations: float, moved: int, seconds: float, precision: str, roof: float, share: float, limit: str
) -> None:
    found = under_roof(operations, moved, seconds, precision, PEAKS)
    assert found
    assert found.roof_gops == pytest.approx(roof)
    assert found.share == pytest.approx(share)
    assert found.limit == limit


def test_bytes_that_no_measured_memory_holds_come_from_the_largest() -> None:
    assert [bandwidth_gbs(PEAKS, n) for n in (1, 1_000, 1_001, 10**12)] == [200, 200, 50, 10]


def test_a_precision_without_a_peak_has_no_roof() -> None:
    assert under_roof(1e9, 1_000, 1.0, "bf16", PEAKS) is None
    without = Peaks(100.0, None, PEAKS.bandwidth, "numpy")
    assert under_roof(1e9, 1_000, 1.0, "int8", without) is None


def row(**more: object) -> Measurement:
    clock = Latency(10.0, None, None, 30, 6, threads=1)
    given = {
        "bytes": 400_000,
        "state_bytes": 300_000,
        "gflops_per_frame": 0.5,
        "latency": (clock,),
        "peaks": PEAKS,
    }
    return Measurement("v", "cpu", "openvino", "fp32", "step", "tested", **(given | more))  # type: ignore[arg-type]


def test_a_row_moves_its_weights_once_and_its_states_twice() -> None:
    found = of_row(row())
    assert found
    assert found.bytes == 1_000_000
    assert found.intensity == 500
    assert found.gops == pytest.approx(50)
    assert told("v", found) == "v reaches 50 % of what one core allows: held back by compute"


def test_a_step_of_several_frames_computes_them_all_in_one_call() -> None:
    one, four = of_row(row()), of_row(row(), chunk=4)
    assert one and four
    assert four.operations == 4 * one.operations


@pytest.mark.parametrize("missing", ["bytes", "gflops_per_frame", "peaks"])
def test_what_was_not_measured_has_no_roof(missing: str) -> None:
    assert of_row(row(**{missing: None})) is None
    assert of_row(row(latency=(Latency(10.0, None, None, 30, 6, threads=2),))) is None
