"""What a variant lost is told in its own unit, fine enough to hold against the gate."""

from __future__ import annotations

from edgepv import judge
from edgepv.types import Measurement, PairedDrop, Verdict


def restored(low: float, verdict: Verdict) -> Measurement:
    """A row of a restorer that lost 0.34 dB of the 0.3 allowed."""
    drop = PairedDrop(0.34, low, 0.38, 20, 20, 0, 0.3, verdict, unit="dB")
    return Measurement("v", "cpu", "onnxruntime", "int8", "step", "ok", drop=drop)


def test_a_loss_in_db_is_told_finely_enough_to_see_that_it_is_above_the_gate() -> None:
    said = judge.fault(restored(0.32, "fail"))
    assert said == "it loses 0.34 dB (0.32 to 0.38, 20 clips), more than 0.3"


def test_a_doubt_in_db_shows_that_the_gate_lies_inside_the_interval() -> None:
    said = judge.doubt(restored(-0.02, "inconclusive"))
    assert said and "it lost 0.34 dB on 20 clips (-0.02 to 0.38), too few to tell" in said
