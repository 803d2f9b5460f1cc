"""What clips are shown as, where a model wants more frames than they have."""

from __future__ import annotations

import numpy as np
import pytest

from edgepv.measure.answers import clip_answers, filled
from edgepv.pipeline.prepare import probe_feeds
from edgepv.stream import Stepper, Tensors, roll
from edgepv.types import ModelSpec, StateSpec, StreamSpec, TensorSpec, Variant

SPEC = ModelSpec("net", TensorSpec("frame", (1, 1, 1, 1), "NCHW"), ("a", "b"), frames=4)
CONVERTED = StreamSpec((), warmup=10, receptive_field=10, exactness="delayed")
OWN = StreamSpec((), warmup=10)


def shown(stream: StreamSpec | None, frames: int, warmup: int) -> list[int]:
    variant = Variant("net", "onnxruntime", "fp32", "step", "net.onnx", "0", SPEC, stream, {}, {})
    clip = np.arange(frames, dtype=np.float32)[:, None, None, None]
    return [int(v) for v in filled(clip, variant, warmup).ravel()]


def test_a_stream_sees_a_short_clip_to_and_fro_until_it_has_as_many_answers_as_the_window() -> None:
    played = shown(CONVERTED, 6, 10)
    assert played == [0, 1, 2, 3, 4, 5, 4, 3, 2, 1, 0, 1]
    assert len(played) - 10 + 1 == 6 - SPEC.frames + 1


def test_a_stream_sees_a_clip_of_its_warmup_as_it_is() -> None:
    assert shown(CONVERTED, 10, 10) == list(range(10)) and shown(CONVERTED, 12, 10) == list(range(12))


@pytest.mark.parametrize("stream", [OWN, None])
def test_others_hold_the_last_frame(stream: StreamSpec | None) -> None:
    assert shown(stream, 6, 10) == [0, 1, 2, 3, 4, 5, 5, 5, 5, 5]


def test_a_window_is_computed_once_it_is_full() -> None:
    """Against windows cut by hand: the sums of four neighbours, each computed once."""
    asked: list[list[float]] = []

    def infer(feeds: Tensors) -> Tensors:
        asked.append(feeds["clip"].ravel().tolist())
        total = np.float32(feeds["clip"].sum())
        return {"logits": np.array([[total, -total]], np.float32)}

    spec = ModelSpec("net", TensorSpec("clip", (1, 1, 4, 1, 1), "NCTHW"), ("a", "b"), frames=4)
    variant = Variant("net", "onnxruntime", "fp32", "window", "net.onnx", "0", spec, None, {}, {})
    clip = np.arange(7, dtype=np.float32)[:, None, None, None]
    (rows,) = clip_answers(infer, variant, [clip])
    assert asked == [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]
    assert rows[:, 0].tolist() == [6, 6, 6, 6, 10, 14, 18]
    (probe,) = probe_feeds(Stepper(infer, spec, None), [clip])
    assert probe["clip"].ravel().tolist() == [3, 4, 5, 6] and len(asked) == 4


@pytest.mark.parametrize("chunk", [1, 3])
def test_a_streams_probe_is_its_last_input(chunk: int) -> None:
    state = StateSpec("before", "frame", (2, 1, 1, 1), update="shift", fresh=chunk)
    stream = StreamSpec((state,), warmup=4, chunk=chunk)

    def infer(feeds: Tensors) -> Tensors:
        return {"logits": feeds["frame"].sum(keepdims=True).reshape(1, 1)}

    clip = np.arange(11, dtype=np.float32)[:, None, None, None]
    (probe,) = probe_feeds(Stepper(infer, SPEC, stream), [clip])
    rolled = [
        {name: value.copy() for name, value in feeds.items()}
        for feeds, _ in roll(Stepper(infer, SPEC, stream), clip)
        if feeds is not None
    ]
    assert probe.keys() == rolled[-1].keys()
    assert all((probe[name] == rolled[-1][name]).all() for name in probe)
