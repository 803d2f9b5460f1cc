"""The nouns survive JSON, and a key nobody knows is an error."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest

from edgepv.base.registry import resolve
from edgepv.base.tasks import TASKS
from edgepv.errors import UsageError
from edgepv.types import (
    Accuracy,
    Latency,
    MachineLoad,
    Measurement,
    ModelSpec,
    PairedDrop,
    PairedTime,
    Ratio,
    StateSpec,
    StreamSpec,
    TensorSpec,
    decode,
    encode,
)

SPEC = ModelSpec("m", TensorSpec("frame", (1, 3, 8, 8)), ("a", "b"), fps=Fraction(30000, 1001))


def test_a_noun_comes_back_from_json_as_it_went_in() -> None:
    assert decode(ModelSpec, json.loads(json.dumps(encode(SPEC)))) == SPEC


def test_a_frame_rate_keeps_its_fraction() -> None:
    assert encode(SPEC)["fps"] == "30000/1001"  # 29.97 as a float drifts, as an integer it is 3 % off


def test_unknown_stays_none_through_json() -> None:
    row = Measurement("v", "cpu", "onnxruntime", "fp32", "step", "ok")
    assert decode(Measurement, json.loads(json.dumps(encode(row)))).accuracy is None


def test_nested_nouns_come_back_too() -> None:
    row = Measurement(
        "v",
        "cpu",
        "onnxruntime",
        "fp32",
        "step",
        "ok",
        latency=(Latency(1.0, 2.0, 3.0, 200, 20, 1, ("a", "b")),),
        accuracy=Accuracy(0.5, 0.2, 0.8, 4, confusion=((1, 1), (1, 1))),
        drop=PairedDrop(1.0, -2.0, 4.0, 100, 2, 1, 1.0, "inconclusive", 400),
    )
    assert decode(Measurement, json.loads(json.dumps(encode(row)))) == row


def test_a_time_comes_back_with_its_pairs_and_its_load_and_without_them_from_older_files() -> None:
    ratio = Ratio(0.43, 0.41, 0.45)
    load = MachineLoad(2, 0.3, 0.1, 0.0, (1800.0, 2400.0))
    whole = Latency(1.0, None, None, 60, 6, 1, ("a",), 0.9, (PairedTime("a", ratio, ratio),), load, "busy")
    assert decode(Latency, json.loads(json.dumps(encode(whole)))) == whole
    older = {"p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0, "n": 201, "warmup": 6, "threads": 1}
    assert decode(Latency, older) == Latency(1.0, 2.0, 3.0, 201, 6, 1)


def test_a_ratio_is_written_with_the_digits_that_show_its_width() -> None:
    assert str(Ratio(0.43, 0.41, 0.45)) == "0.43 (0.41 to 0.45)"
    assert str(Ratio(0.997, 0.995, 0.999)) == "0.997 (0.995 to 0.999)"


def test_a_key_that_older_files_have_is_passed_over() -> None:
    row = Measurement("v", "cpu", "onnxruntime", "fp32", "step", "ok")
    assert "misses" not in encode(row)
    assert decode(Measurement, encode(row) | {"misses": None}) == row
    with pytest.raises(UsageError, match="unknown key 'misses'"):
        decode(ModelSpec, encode(SPEC) | {"misses": None})


def test_a_drop_is_written_with_the_digits_of_its_unit() -> None:
    points = PairedDrop(1.0, -2.04, 4.0, 100, 2, 1, 1.0, "inconclusive", 400)
    assert points.figures() == ("1.0", "-2.0", "4.0")
    db = PairedDrop(0.34, 0.32, 0.38, 20, 20, 0, 0.3, "fail", unit="dB")
    assert db.figures("+") == ("+0.34", "+0.32", "+0.38")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lables": ["a"]}, "unknown key 'lables'.*Did you mean 'labels'"),
        ({"fps": "ten"}, "expected a number or 'n/d', got 'ten'"),
        ({"fps": "1/0"}, "expected a number"),
        ({"frames": "16"}, r"spec.frames: expected a int, got '16'"),
        ({"frames": True}, "expected a int, got True"),
        ({"labels": "ab"}, "expected a list"),
        ({"colour": "gray"}, "unknown value 'gray'. Known: bgr, grey, rgb"),
        ({"input": {"name": "x"}}, "spec.input: missing key 'shape'"),
        ({"mean": [0.1, None, 0.1]}, r"spec.mean\[1\]: expected a float"),
        ({"mean": [0.1, 10**400, 0.1]}, r"spec.mean\[1\]: expected a number of 64 bits"),
    ],
)
def test_wrong_data_is_named_with_its_place(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        decode(ModelSpec, encode(SPEC) | change, where="spec")


def test_state_bytes_count_float32_of_every_state() -> None:
    stream = StreamSpec((StateSpec("a", "a_next", (1, 2, 3)), StateSpec("b", "b_next", (4,))), warmup=1)
    assert stream.state_bytes == 4 * (6 + 4)


def test_every_task_has_one_record_and_a_figure_that_is_there() -> None:
    names = ["classification", "detection", "restoration", "segmentation", "tracking"]
    assert TASKS.names() == names
    for name in TASKS.names():
        task = TASKS.find(name)
        assert callable(resolve(task.figure)) and callable(resolve(task.truth)), name
