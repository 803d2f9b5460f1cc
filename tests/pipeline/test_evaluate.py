"""What a variant lost is told in its own unit, fine enough to hold against the gate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest

from edgepv.data.truth import EvalClip
from edgepv.errors import ParityError
from edgepv.export.request import BuildResult
from edgepv.metrics import choice, gate
from edgepv.pipeline import evaluate, pack
from edgepv.targets import target
from edgepv.types import (
    Counted,
    Latency,
    Measurement,
    ModelSpec,
    PairedDrop,
    Parity,
    TensorSpec,
    Variant,
    Verdict,
)


def restored(low: float, verdict: Verdict) -> Measurement:
    """A row of a restorer that lost 0.34 dB of the 0.3 allowed."""
    drop = PairedDrop(0.34, low, 0.38, 20, 20, 0, 0.3, verdict, unit="dB")
    return Measurement("v", "cpu", "onnxruntime", "int8", "step", "ok", drop=drop)


def test_a_loss_in_db_is_told_finely_enough_to_see_that_it_is_above_the_gate() -> None:
    said = gate.gate_failure(restored(0.32, "fail"))
    assert said == "it loses 0.34 dB (0.32 to 0.38, 20 clips), more than 0.3"


def test_a_doubt_in_db_shows_that_the_gate_lies_inside_the_interval() -> None:
    said = gate.inconclusive_reason(restored(-0.02, "inconclusive"))
    assert said and "it lost 0.34 dB on 20 clips (-0.02 to 0.38), too few to tell" in said


def test_a_loss_that_nobody_saw_is_called_expected() -> None:
    drop = PairedDrop(1.3, -0.8, 3.6, 24, 1, 0, 1.0, "inconclusive", counted=Counted(4.2, -12.7, 22.6))
    row = Measurement("v", "cpu", "onnxruntime", "int8", "step", "ok", drop=drop)
    said = gate.inconclusive_reason(row)
    assert said and "it is expected to lose 1.30 points on 24 clips" in said
    failed = replace(row, drop=replace(drop, low=1.1, verdict="fail"))
    assert "it is expected to lose 1.30 points" in str(gate.gate_failure(failed))


def parity(sqnr_db: float, promised: float) -> Parity:
    return Parity(0.1, sqnr_db, 1.0, 99, promised, "pass" if sqnr_db >= promised else "fail")


def row(name: str, precision: str, reached: float, promised: float) -> Measurement:
    found = parity(reached, promised)
    return Measurement(name, "cpu", name.split("-")[0], precision, "window", "ok", bytes=1, parity=found)


def test_no_int8_of_an_engine_that_is_wrong_in_float() -> None:
    """OpenVINO's fp32 reaches 29 of 80 dB (a pooling's edge); its INT8 would pass the floor of INT8."""
    wrong, int8 = row("openvino-fp32", "fp32", 29.0, 80.0), row("openvino-int8", "int8", 28.0, 15.0)
    right, other = row("onnxruntime-fp32", "fp32", 120.0, 80.0), row("onnxruntime-int8", "int8", 28.0, 15.0)
    flat = row("openvino-int8-r4", "int8", 28.0, 15.0)
    found = {r.variant: r for r in evaluate.by_engine([int8, other, flat], [wrong, right])}
    why = "openvino computes this graph wrongly in float too: the answer of openvino-fp32 reaches 29.0 dB"
    assert gate.gate_failure(found["openvino-int8"]) == f"{why} of 80 dB"
    assert gate.within_gate(found["onnxruntime-int8"]) and gate.within_gate(found["openvino-int8-r4"])
    with pytest.raises(ParityError, match="what the original does: openvino computes this graph wrongly"):
        choice.choose([found["openvino-int8"]], latency_ms=None)


def test_a_file_with_names_of_its_own_is_held_against_the_float_file_of_its_form() -> None:
    """Asked for or not: the float files that INT8 was made of are among the builder's ``floats``."""
    names = ("litert-fp32", "litert-fp32-r4", "litert-int8-full", "litert-int8-full-r4")
    spec = ModelSpec("m", TensorSpec("frame", (1, 3, 8, 8)), ("a", "b"))
    precisions: tuple[Literal["fp32", "int8"], ...] = ("fp32", "fp32", "int8", "int8")
    made = [
        Variant(name, "litert", precision, "window", f"{name}.tflite", "", spec, None, {}, {})
        for name, precision in zip(names, precisions)
    ]
    built = BuildResult((made[2], made[3]), floats=(made[0], made[1]))
    assert [pack._in_float(v, built).name for v in built.variants] == ["litert-fp32", "litert-fp32-r4"]
    assert pack._in_float(made[2], BuildResult((made[2],))) is made[2]


@pytest.mark.parametrize(
    ("task", "precision", "floor"),
    [
        ("classification", "int8", 15.0),
        ("tracking", "int8", 17.0),
        ("restoration", "int8", 30.0),
        ("restoration", "bf16", 25.0),
        ("classification", "fp32", 80.0),
    ],
)
def test_the_floor_is_that_of_the_task(task: Any, precision: str, floor: float) -> None:
    spec = ModelSpec("m", TensorSpec("frame", (1, 3, 8, 8)), (), task=task)
    assert evaluate.floor_db(spec, target("cpu"), precision) == floor


@pytest.mark.parametrize("timed", [True, False])
def test_the_only_variant_runs_with_its_doubt_said_and_nothing_says_that_it_does_not(timed: bool) -> None:
    latency = (Latency(1.0, 1.0, 1.0, 9, 1, 1),) if timed else ()
    rows = [replace(restored(-0.02, "inconclusive"), latency=latency)]
    best, why = choice.choose(rows, latency_ms=None)
    assert best is rows[0] and why.startswith("v runs: ")
    assert "; it lost 0.34 dB on 20 clips (-0.02 to 0.38), too few to tell, and nothing that may be" in why


PARITY = Parity(0.1, 40.0, 1.0, 9, 30.0, "pass")


def timed(name: str, p50: float, verdict: Verdict | None, parity: Parity | None = PARITY) -> Measurement:
    """A row that lost 0.5 points of the 1 allowed, or of which nobody knows."""
    drop = PairedDrop(0.5, -1.0, 2.0, 40, 1, 1, 1.0, verdict) if verdict else None
    latency = (Latency(p50, p50, p50, 9, 1, 1),)
    return Measurement(
        name, "cpu", "onnxruntime", "fp32", "step", "ok", latency=latency, drop=drop, parity=parity
    )


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (("pass", "pass"), "the fastest of 2 that pass parity and keep the allowed drop; next is b, 2.00x"),
        (
            ("pass", "inconclusive"),
            "the fastest of 2 that pass parity, none of which surely loses more accuracy than allowed; next",
        ),
        ((None, None), "the fastest of 2 that pass parity and whose accuracy is not known; next"),
    ],
)
def test_the_reason_claims_of_the_accuracy_only_what_was_shown(
    verdicts: tuple[Verdict | None, ...], said: str
) -> None:
    rows = [timed("a", 1.0, verdicts[0]), timed("b", 2.0, verdicts[1])]
    best, why = choice.choose(rows, latency_ms=None)
    assert best.variant == "a" and said in why


def test_the_reason_claims_no_parity_where_nothing_was_compared() -> None:
    why = choice.choose([timed("a", 1.0, None, None)], latency_ms=None)[1]
    assert why.endswith("the fastest of 1 that were not compared with the original")


def of_one_film(found: np.ndarray) -> evaluate.Evaluation:
    """A restorer whose original answers ``found`` to six clips of one film, which are black."""
    spec = ModelSpec(
        "r",
        TensorSpec("frame", (1, 3, 8, 8)),
        task="restoration",
        metric="psnr",
        outputs=(TensorSpec("image", (1, 3, 8, 8)),),
    )
    clip = EvalClip(found, np.zeros((2, 8, 8, 3), np.uint8), group="film")
    answers = (found,) * 6
    return evaluate.Evaluation(spec, (clip,) * 6, ("c",) * 6, True, 1, answers, answers, (), 0.3, 1)


def watching(clips: int, frames: int) -> evaluate.Evaluation:
    """A classifier that watches clips of ``frames`` without labels; its variant answers two frames later."""
    spec = ModelSpec("w", TensorSpec("frame", (1, 3, 8, 8)), labels=("a", "b"))
    rng = np.random.default_rng(0)
    said = tuple(rng.normal(0.0, 2.0, (frames, 2)).astype(np.float32) for _ in range(clips))
    seen = tuple(EvalClip(rows, None, group=f"film {k}") for k, rows in enumerate(said))
    return evaluate.Evaluation(
        spec, (), (), False, 3, (), (), (), 1.0, 1, delay=2, watched=seen, watched_original=said
    )


def test_answers_to_footage_are_held_against_those_to_the_same_frames() -> None:
    evaluation = watching(clips=12, frames=40)
    later = [np.concatenate([rows[:2] + 9, rows[:-2]]) for rows in evaluation.watched_original]
    found = evaluation.flips(later)
    assert found and (found.n, found.changed, found.groups) == (12 * 38, 0, 12)
    turned = evaluation.flips([rows[:, ::-1] for rows in later])
    assert turned and turned.changed == turned.n and turned.per_1000 == 1000 and turned.why


def test_answers_after_each_frame_are_judged_beside_those_of_clips() -> None:
    watched = watching(clips=12, frames=40)
    clips = tuple(replace(clip, truth=k % 2) for k, clip in enumerate(watched.watched))
    evaluation = replace(
        watched, shown=clips, names=("c",) * 12, original=watched.watched_original, known=True
    )
    later = [np.concatenate([rows[:2] + 9, rows[:-2]]) for rows in evaluation.original]
    same = evaluation.each_frame(later)
    assert same and (same.n, same.lost, same.won, same.groups, same.points) == (12 * 38, 0, 0, 12, 0.0)
    torn = evaluation.each_frame([rows + np.array([0.4, 0.0]) for rows in later])
    assert torn and torn.lost and torn.won and torn.counted and torn.low < torn.counted.points < torn.high


def test_without_footage_nothing_is_said_of_it() -> None:
    assert watching(clips=0, frames=40).flips([]) is None


def test_six_cuts_of_one_film_decide_nothing_unless_the_numbers_are_the_same() -> None:
    grey = np.full((2, 3, 8, 8), 0.5, np.float32)
    evaluation = of_one_film(grey)
    worse = evaluation.drop([grey * 1.01] * 6, 40.0)
    assert worse and (worse.groups, worse.verdict) == (1, "inconclusive") and 0 < worse.points < 0.3
    same = evaluation.drop([grey] * 6, 120.0)
    assert same and same.verdict == "pass"
