"""Every kind of step runs in C as on ONNX Runtime: chunks, several answers, states that the host writes."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import onnx.parser
import pytest

from edgepv.errors import EngineError, UsageError
from edgepv.explain.clip import _opened
from edgepv.firmware.library import StatusError
from edgepv.pipeline.evaluate import other_answers
from edgepv.runtimes import open_engine, open_session
from edgepv.runtimes.engines.native import NativeEngine
from edgepv.stream import KeepsStates, Stepper, Tensors, copied
from edgepv.types import ModelSpec, StateSpec, StreamSpec, TensorSpec, Variant

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiling")]
CLOSE = 1e-5

CHUNK = """<ir_version: 10, opset_import: ["" : 18]>
step (float[2,3,4,4] frame, float[2,3,4,4] before) => (float[4,3] logits)
{
    both = Concat<axis=0>(before, frame)
    logits = ReduceMean<keepdims=0>(both, axes)
}"""

TABLE = """<ir_version: 10, opset_import: ["" : 18]>
step (float[1,3,4,4] frame, float[1,5,3] table, float[1,3,4,4] last, float[2,3,4,4] rows)
    => (float[1,3] logits, float[1,5,3] moved, float[1,3,4,4] seen)
{
    one = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(frame, w)
    seen = Add(one, last)
    old = ReduceSum<keepdims=0>(rows, all)
    now = ReduceMean<keepdims=0>(seen, axes)
    logits = Add(now, old)
    moved = Add(table, logits)
}"""

TRACKER = """<ir_version: 10, opset_import: ["" : 18]>
step (float[1,3,24,24] frame, float[1,8,2] position, float[1,8,1] life)
    => (float[1,8,3] tracks, float[1,8,2] there, float[1,8,1] going)
{
    grey = ReduceMean<keepdims=0>(frame, axes)
    by = Mul(grey, speed)
    living = Clip(life, none, one)
    twice = Add(living, living)
    going = Sub(twice, one)
    way = Mul(by, drift)
    moved = Add(position, way)
    there = Mul(moved, living)
    hidden = Mul(by, less)
    visible = Sub(living, hidden)
    tracks = Concat<axis=2>(there, visible)
}"""


WINDOW = """<ir_version: 10, opset_import: ["" : 18]>
window (float[1,3,4,6,5] clip) => (float[4,7] logits)
{
    turned = Transpose<perm=[0,2,1,3,4]>(clip)
    images = Reshape(turned, sizes)
    seen = Conv<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>(images, w)
    some = Relu(seen)
    each = ReduceMean<keepdims=0>(some, axes)
    logits = Mul(each, order)
}"""


def made(
    text: str, constants: Mapping[str, object], states: Sequence[StateSpec], chunk: int = 1, **told: object
) -> tuple[Variant, bytes]:
    """(variant, file) of a graph whose first input is the frame."""
    model = onnx.parser.parse_model(text)
    for name, value in constants.items():
        kind = np.int64 if name in ("axes", "all") else np.float32
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, kind), name))
    sizes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in model.graph.output}
    model = onnx.shape_inference.infer_shapes(model)
    kept = [state.output for state in states]
    answers = tuple(
        TensorSpec(n, s, "NC") for n, s in sizes.items() if n not in kept or n in ("moved", "seen")
    )
    frame = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
    spec = ModelSpec(
        "net", TensorSpec("frame", frame), outputs=answers, task="restoration", mean=(0, 0, 0), std=(1, 1, 1)
    )  # fmt: skip
    spec = replace(spec, **told)  # type: ignore[arg-type]
    inputs = {name: name for name in ("frame", *(state.name for state in states))}
    outputs = {name: name for name in sizes}
    stream = StreamSpec(tuple(states), warmup=2, chunk=chunk)
    data = model.SerializeToString()
    digest = hashlib.sha256(data).hexdigest()
    return Variant("v", "native", "fp32", "step", "m.onnx", digest, spec, stream, inputs, outputs), data


def chunked() -> tuple[Variant, bytes]:
    before = StateSpec("before", "frame", (2, 3, 4, 4), update="shift", fresh=2)
    return made(CHUNK, {"axes": [2, 3]}, [before], chunk=2)


def with_table() -> tuple[Variant, bytes]:
    states = [
        StateSpec("table", "moved", (1, 5, 3)),
        StateSpec("last", "seen", (1, 3, 4, 4)),
        StateSpec("rows", "frame", (2, 3, 4, 4), update="shift"),
    ]
    w = np.random.default_rng(0).standard_normal((3, 3, 3, 3)) / 9
    return made(TABLE, {"axes": [2, 3], "all": [0, 2, 3], "w": w}, states)


def tracker() -> tuple[Variant, bytes]:
    states = [StateSpec("position", "there", (1, 8, 2)), StateSpec("life", "going", (1, 8, 1))]
    rng = np.random.default_rng(0)
    numbers = {
        "axes": [1, 2, 3], "speed": 0.05, "none": 0, "one": 1,
        "drift": rng.standard_normal((1, 8, 2)), "less": rng.uniform(0, 40, (1, 8, 1)),
    }  # fmt: skip
    return made(TRACKER, numbers, states, task="tracking", particles=8)


def windowed() -> tuple[Variant, bytes]:
    rng = np.random.default_rng(0)
    whole = {"sizes": [4, 3, 6, 5], "axes": [2, 3]}
    held = [onnx.numpy_helper.from_array(np.array(v, np.int64), n) for n, v in whole.items()]
    floats = {"w": rng.standard_normal((7, 3, 3, 3)), "order": rng.standard_normal((4, 7))}
    held += [onnx.numpy_helper.from_array(v.astype(np.float32), n) for n, v in floats.items()]
    model = onnx.parser.parse_model(WINDOW)
    model.graph.initializer.extend(held)
    data = model.SerializeToString()
    spec = ModelSpec(
        "window", TensorSpec("clip", (1, 3, 4, 6, 5), "NCTHW"), frames=4, task="restoration",
        outputs=(TensorSpec("logits", (4, 7), "NC"),),
    )  # fmt: skip
    names = ({"clip": "clip"}, {"logits": "logits"})
    digest = hashlib.sha256(data).hexdigest()
    return Variant("v", "native", "fp32", "window", "m.onnx", digest, spec, None, *names), data


def steppers(variant: Variant, data: bytes) -> tuple[Stepper, Stepper]:
    """(in C, on ONNX Runtime)."""
    mine, theirs = (
        open_engine(replace(variant, engine=engine), lambda _: data) for engine in ("native", "onnxruntime")
    )
    return tuple(Stepper(e.infer, variant.spec, variant.stream) for e in (mine, theirs))  # type: ignore[return-value]


def frames(variant: Variant, count: int) -> np.ndarray:
    size = variant.spec.input.shape
    shape = (count, 1, size[1], *size[-2:])
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


def assert_equal(mine: Tensors, theirs: Tensors, variant: Variant) -> None:
    for answer in variant.spec.answers:
        assert mine[answer.name].shape == answer.shape
        np.testing.assert_allclose(mine[answer.name], theirs[answer.name], atol=CLOSE)


def test_several_frames_a_step() -> None:
    """One that fails at the end of a chunk is made again with the frames of the chunk that it had before."""
    variant, data = chunked()
    native, wanted = steppers(variant, data)
    for i, frame in enumerate(frames(variant, 11)):
        if i in (1, 6, 8):
            for _ in range(2):
                with pytest.raises(EngineError, match="NaN"):
                    native.step(np.full_like(frame, np.nan))
        assert_equal(native.step(frame), wanted.step(frame), variant)
        if i == 4:  # in the middle of a chunk
            native.reset()
            wanted.reset()


def test_several_answers_from_states_that_are_given() -> None:
    """As an export compares them: C has states of its own, which are set to what the others are fed."""
    variant, data = with_table()
    native, wanted = steppers(variant, data)
    shown, feeds, told = frames(variant, 5), [], []
    for frame in shown:
        feed = wanted.feeds(frame)
        assert feed is not None
        feeds.append(copied(feed))
        told.append(wanted.run(feed))
        assert_equal(native.step(frame), told[-1], variant)
    infer = open_engine(variant, lambda _: data).infer
    assert isinstance(infer, KeepsStates)
    beside = other_answers(infer, variant.spec, feeds[::-1])
    assert list(beside) == ["moved", "seen"]
    for name, rows in beside.items():
        np.testing.assert_allclose(rows, np.concatenate([one[name] for one in told[::-1]]), atol=CLOSE)


def test_particles_are_born_and_die_as_elsewhere() -> None:
    """The host writes positions and lives into C between two steps."""
    variant, data = tracker()
    rng = np.random.default_rng(3)
    scene = cv2.GaussianBlur(rng.integers(0, 256, (100, 100, 3), np.uint8), (5, 5), 0)
    pictures = [np.ascontiguousarray(scene[i : i + 60, 2 * i : 2 * i + 60]) for i in range(16)]
    with contextlib.ExitStack() as stack:
        mine, theirs = (
            stack.enter_context(open_session(replace(variant, engine=engine), lambda _: data))
            for engine in ("native", "onnxruntime")
        )
        seen = set()
        for i, picture in enumerate(pictures):
            if i == 11:
                mine.reset()
                theirs.reset()
            got, wanted = mine.step(picture), theirs.step(picture)
            assert got.ids == wanted.ids
            seen |= set(got.ids)
            np.testing.assert_allclose(got.outputs["tracks"], wanted.outputs["tracks"], atol=CLOSE)
    assert len(seen) > 10  # more than there are places, so some died


def test_particles_are_killed_where_the_host_keeps_their_states() -> None:
    variant, data = tracker()
    other = replace(variant, engine="onnxruntime")

    def opened(*variants: Variant) -> Variant:
        held = SimpleNamespace(folder="b", checked=lambda _: data, content=SimpleNamespace(variants=variants))
        return _opened(held, variants[0])[1]  # type: ignore[arg-type]

    assert opened(variant, other) == opened(other, variant) == other
    with pytest.raises(
        UsageError, match=r"v keeps its particles itself, and b has no other variant of m\.onnx"
    ):
        opened(variant)


def test_a_window_is_handed_over_as_a_whole() -> None:
    """The host keeps the frames, as for every engine; the next rung may go on with them."""
    variant, data = windowed()
    native, wanted = steppers(variant, data)
    for i, frame in enumerate(frames(variant, 12)):
        if i in (0, 6):
            native.remember(frame)
            wanted.remember(frame)
        elif i == 8:
            with pytest.raises(EngineError, match="NaN"):
                native.step(np.full_like(frame, np.nan))
        else:
            assert_equal(native.step(frame), wanted.step(frame), variant)
            assert native.valid == wanted.valid
        if i == 9:
            assert native.adopt(wanted)


def test_a_session_in_c_keeps_the_window_itself() -> None:
    """Until there are enough frames the first one stands for those before it, as in Python."""
    variant, data = windowed()
    engine, (_, wanted) = open_engine(variant, lambda _: data), steppers(variant, data)
    assert isinstance(engine, NativeEngine)
    session = engine.infer.session
    for i, frame in enumerate(frames(variant, 14)):
        if i in (0, 3):
            with pytest.raises(StatusError, match="NaN"):
                session.step(np.full_like(frame[0], np.nan))
        if i == 7:
            session.reset()
            wanted.reset()
        session.step(frame[0])
        logits = wanted.step(frame)["logits"]
        np.testing.assert_allclose(session.output(0), logits.ravel(), atol=CLOSE)


def test_a_window_that_convolves_clips_as_a_whole_is_refused_by_its_node() -> None:
    variant, _ = windowed()
    text = WINDOW.replace("Transpose<perm=[0,2,1,3,4]>(clip)", "Conv(clip, w)")
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((3, 3, 1, 1, 1), np.float32), "w"))
    model.graph.node[0].name = "whole"
    with pytest.raises(UsageError, match="Conv 'whole' goes over clips as a whole"):
        open_engine(replace(variant, sha256="1" * 64), lambda _: model.SerializeToString())


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [("tables", (1, 5, 3), "Did you mean 'table'"), ("table", (1, 5, 2), r"expected float32 \(1, 5, 3\)")],
)
def test_a_state_that_there_is_none_of_is_not_written(
    name: str, shape: tuple[int, ...], message: str
) -> None:
    native, _ = steppers(*with_table())
    with pytest.raises(UsageError, match=message):
        native.write(name, np.zeros(shape, np.float32))


@pytest.mark.parametrize(("state", "values"), [(0, 14), (3, 15)])
def test_c_writes_no_state_of_another_size(state: int, values: int) -> None:
    variant, data = with_table()
    engine = open_engine(variant, lambda _: data)
    assert isinstance(engine, NativeEngine)
    engine.infer.session.write(0, np.zeros(15, np.float32))
    with pytest.raises(StatusError, match="an argument"):
        engine.infer.session.write(state, np.zeros(values, np.float32))
