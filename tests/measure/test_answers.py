"""What clips are shown as, where a model wants more frames than they have."""

from __future__ import annotations

import numpy as np
import pytest

from edgepv.measure.answers import filled
from edgepv.types import ModelSpec, StreamSpec, TensorSpec, Variant

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
