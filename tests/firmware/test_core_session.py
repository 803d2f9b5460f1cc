"""A session in C goes through frames, gaps, failures and resets as edgepv's own session does."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from ctypes import byref, c_size_t, c_uint32

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_core import (
    BROKEN,
    CANCELLED,
    ENGINE,
    INFINITY,
    INPUT,
    LABELS,
    MEMORY,
    NAN,
    NOT_FINITE,
    OK,
    STATUSES,
    UNTIL_CANCELLED,
    VERSION,
    WELL,
    Camera,
    CAnswer,
    CSession,
    Frame,
    Info,
    RefusedError,
    Toy,
    ToyEngine,
    c_session,
    camera,
    frame_of,
    picture,
    python_session,
)

from edgepv.data.frames import preprocess
from edgepv.errors import EngineError
from edgepv.runtimes import Session
from edgepv.runtimes.lane import Answer

WIDTH, HEIGHT = 9, 6
CLOSE = 1e-6
"""NumPy's exp and the C library's differ in the last place; all else is equal."""


def pictures(count: int, seed: int = 0) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield picture(rng, WIDTH, HEIGHT, "bgr")


def check(c: CSession, got: CAnswer, wanted: Answer) -> None:
    label = -1 if wanted.label is None else LABELS.index(wanted.label)
    assert (got.index, got.valid, got.restarted, got.missed, got.label) == (
        wanted.index, wanted.valid, wanted.restarted, wanted.missed, label
    )  # fmt: skip
    np.testing.assert_array_equal(c.output(0), wanted.outputs["logits"])
    np.testing.assert_array_equal(c.output(1), wanted.outputs["seen"].ravel())
    if wanted.score is not None:
        np.testing.assert_allclose(c.scores(), wanted.scores, atol=CLOSE)
        assert got.score == c.scores()[got.label]


TOYS = st.builds(
    Toy,
    chunk=st.integers(1, 3),
    warmup=st.integers(0, 6),
    classifier=st.booleans(),
    probabilities=st.booleans(),
    colour=st.sampled_from(["rgb", "bgr"]),
)
EVENTS = st.lists(st.sampled_from(["step"] * 6 + ["gap", "long gap", "reset", "broken"]), max_size=30)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(toy=TOYS, events=EVENTS)
def test_it_says_what_pythons_session_says(core: ctypes.CDLL, toy: Toy, events: list[str]) -> None:
    engine = ToyEngine(toy)
    python = python_session(toy, engine)
    with c_session(core, toy, camera(WIDTH, HEIGHT)) as c:
        for event, (planes, bgr) in zip(events, pictures(len(events))):
            if event == "reset":
                c.reset()
                python.reset()
                continue
            missed = {"gap": 1, "long gap": 5}.get(event, 0)
            if event == "broken":
                refuse(core, c, python, engine, planes, bgr)
            else:
                check(c, c.step(planes, missed=missed), python.step(bgr, missed=missed))


def refuse(
    core: ctypes.CDLL,
    c: CSession,
    python: Session,
    engine: ToyEngine,
    planes: list[np.ndarray],
    bgr: np.ndarray,
) -> None:
    """A step of an engine that fails: both say so, or, within a chunk, neither has asked it."""
    core.toy_go(BROKEN)
    engine.broken = True
    try:
        wanted: Answer | None = python.step(bgr)
    except EngineError:
        wanted = None
    try:
        got = c.step(planes)
    except RefusedError as e:
        assert wanted is None and e.status == ENGINE
        with pytest.raises(RefusedError):  # nothing stands for an answer that there is none of
            c.output(0)
    else:
        assert wanted is not None
        check(c, got, wanted)
    finally:
        core.toy_go(WELL)
        engine.broken = False


@pytest.mark.parametrize("chunk", [1, 2])
@pytest.mark.parametrize(("how", "status"), [(NAN, NOT_FINITE), (INFINITY, NOT_FINITE), (BROKEN, ENGINE)])
def test_a_frame_whose_answer_is_none_was_never_there(
    core: ctypes.CDLL, how: int, status: int, chunk: int
) -> None:
    toy = Toy(chunk=chunk)
    python = python_session(toy)
    with c_session(core, toy, camera(WIDTH, HEIGHT)) as c:
        for number, (planes, bgr) in enumerate(pictures(8)):
            if number == 3:
                core.toy_go(how)
                with pytest.raises(RefusedError) as refused:
                    c.step(planes, missed=1)
                core.toy_go(WELL)
                assert refused.value.status == status
            else:
                check(c, c.step(planes), python.step(bgr))


def test_a_running_step_ends_when_it_is_cancelled_and_the_next_one_runs(core: ctypes.CDLL) -> None:
    toy = Toy()
    python = python_session(toy)
    with c_session(core, toy, camera(WIDTH, HEIGHT)) as c:
        (first, bgr), (other, _), (last, last_bgr) = pictures(3)
        c.cancel()  # none runs: nothing to end
        check(c, c.step(first), python.step(bgr))
        core.toy_go(UNTIL_CANCELLED)
        refused: list[int] = []

        def run() -> None:
            try:
                c.step(other)
            except RefusedError as e:
                refused.append(e.status)

        thread = threading.Thread(target=run)
        thread.start()
        while thread.is_alive():
            c.cancel()
            time.sleep(0.001)
        core.toy_go(WELL)
        assert refused == [CANCELLED]
        check(c, c.step(last), python.step(last_bgr))


@pytest.mark.parametrize("colour", ["rgb", "grey"])
def test_a_tensor_does_as_well_as_the_picture_it_was_made_of(core: ctypes.CDLL, colour: str) -> None:
    toy = Toy(colour=colour)
    with c_session(core, toy, camera(WIDTH, HEIGHT)) as one, c_session(core, toy, None) as other:
        for number, (planes, bgr) in enumerate(pictures(7)):
            missed = 2 * (number == 3)
            seen = one.step(planes, missed=missed)
            told = other.step_tensor(preprocess(bgr, toy.spec), missed=missed)
            assert bytes(seen) == bytes(told)
            np.testing.assert_array_equal(one.output(0), other.output(0))
        for wrong in (lambda: other.step(planes), lambda: other.step_tensor(np.zeros(7, np.float32))):
            with pytest.raises(RefusedError) as refused:
                wrong()
            assert refused.value.status == INPUT
        assert other.bytes < one.bytes  # no tables, no rows


def test_frames_lost_long_ago_are_no_longer_told_of(core: ctypes.CDLL) -> None:
    """Also where the model looks back on more frames than are counted over."""
    toy = Toy(warmup=5000)
    python = python_session(toy)
    ((planes, bgr),) = pictures(1)
    with c_session(core, toy, camera(WIDTH, HEIGHT)) as c:
        for number in range(4200):
            missed = (number * 7) % 3
            got, wanted = c.step(planes, missed=missed), python.step(bgr, missed=missed)
            assert got.missed == wanted.missed


def test_time_is_handed_through(core: ctypes.CDLL) -> None:
    ((planes, _),) = pictures(1)
    with c_session(core, Toy(), camera(WIDTH, HEIGHT)) as c:
        assert c.step(planes, pts_ns=2**63 + 5).pts_ns == 2**63 + 5


def test_memory_that_is_short_or_crooked_is_refused(core: ctypes.CDLL) -> None:
    with c_session(core, Toy(), camera(WIDTH, HEIGHT)) as c:
        assert c.need() == (c.bytes, 64)
        assert c.begin(c.address, c.bytes - 1) == MEMORY
        assert c.begin(c.address + 8, c.bytes) == MEMORY
        assert c.begin(0, c.bytes) == MEMORY


@pytest.mark.parametrize(
    "wrong",
    [
        camera(0, 4),
        camera(4, 0),
        camera(16385, 4),
        camera(5, 4, "nv12"),
        camera(4, 5, "nv12"),
        Camera(ctypes.sizeof(Camera), 4, 4, 5),
    ],
    ids=lambda c: f"{c.width}x{c.height} {c.format}",
)
def test_a_camera_that_cannot_be_is_refused(core: ctypes.CDLL, wrong: Camera) -> None:
    with pytest.raises(RefusedError) as refused:
        CSession(core, Toy(), wrong)
    assert refused.value.status == INPUT


def test_structs_of_a_later_header_are_taken_and_shorter_ones_are_not(core: ctypes.CDLL) -> None:
    ((planes, _),) = pictures(1)
    answer, info = CAnswer(), Info()
    with c_session(core, Toy(), camera(WIDTH, HEIGHT)) as c:
        frame = frame_of(planes)
        for size, status in ((8, VERSION), (Frame.missed.offset + 4, OK), (ctypes.sizeof(Frame) + 64, OK)):
            frame.size, answer.size = size, ctypes.sizeof(CAnswer)
            assert core.edgepv_step(c.handle, byref(frame), byref(answer)) == status
        frame.size, whole = ctypes.sizeof(Frame), ctypes.sizeof(CAnswer)
        for size, status in ((8, VERSION), (CAnswer.pts_ns.offset + 8, OK), (whole + 64, OK)):
            answer.size = size
            assert core.edgepv_step(c.handle, byref(frame), byref(answer)) == status
        for size, status in ((8, VERSION), (Info.fps_den.offset + 4, OK), (ctypes.sizeof(Info) + 64, OK)):
            info.size = size
            assert core.edgepv_inform(c.model, byref(info)) == status
        for size, status in ((12, VERSION), (16, OK), (32, OK)):
            assert c.camera
            c.camera.size = size
            assert c.begin(c.address, c.bytes) == status


def test_a_model_of_another_abi_is_refused(core: ctypes.CDLL) -> None:
    with c_session(core, Toy(), camera(WIDTH, HEIGHT)) as c:
        head = ctypes.cast(c.model, ctypes.POINTER(c_uint32))  # its first fields: size, abi
        for field, worse in ((0, head[0] - 8), (1, head[1] + 1)):
            good, head[field] = head[field], worse
            assert c.begin(c.address, c.bytes) == VERSION
            assert core.edgepv_label(c.model, c_uint32(0)) is None
            head[field] = good
        assert c.begin(c.address, c.bytes) == OK


@pytest.mark.parametrize("kind", ["bgr", "rgb", "nv12", "grey"])
def test_a_frame_that_lacks_a_part_is_refused_and_changes_nothing(core: ctypes.CDLL, kind: str) -> None:
    planes, _ = picture(np.random.default_rng(0), 8, 6, kind)
    with c_session(core, Toy(), camera(8, 6, kind)) as c:
        c.step(planes)
        for plane in range(len(planes)):
            for what in ("plane", "stride"):
                frame = frame_of(planes, missed=9)
                if what == "plane":
                    frame.plane[plane] = ctypes.POINTER(ctypes.c_uint8)()
                else:
                    frame.stride[plane] = (24 if kind in ("bgr", "rgb") else 8) - 1
                with pytest.raises(RefusedError) as refused:
                    c.step_frame(frame)
                assert refused.value.status == INPUT
        answer = c.step(planes)
        assert (answer.index, answer.restarted) == (1, 0)


def test_null_is_refused_everywhere(core: ctypes.CDLL) -> None:
    size, align, data = c_size_t(), c_size_t(), ctypes.POINTER(ctypes.c_float)()
    with c_session(core, Toy(), camera(WIDTH, HEIGHT)) as c:
        answer, frame = CAnswer(size=ctypes.sizeof(CAnswer)), Frame(size=ctypes.sizeof(Frame))
        assert core.edgepv_need(None, None, byref(size), byref(align)) == INPUT
        assert core.edgepv_need(c.model, None, None, byref(align)) == INPUT
        assert core.edgepv_begin(c.model, None, None, 0, None) == INPUT
        assert core.edgepv_step(None, byref(frame), byref(answer)) == INPUT
        assert core.edgepv_step(c.handle, None, byref(answer)) == INPUT
        assert core.edgepv_step(c.handle, byref(frame), None) == INPUT
        assert core.edgepv_step_tensor(c.handle, None, c_size_t(60), 0, byref(answer)) == INPUT
        assert core.edgepv_output(c.handle, 0, byref(data), None) == INPUT
        assert core.edgepv_scores(None, byref(data), byref(size)) == INPUT
        assert core.edgepv_inform(c.model, None) == INPUT and core.edgepv_inform(None, None) == INPUT
        for quiet in (core.edgepv_reset, core.edgepv_cancel, core.edgepv_end):
            quiet(None)


def test_what_is_told_before_the_first_answer_and_of_none(core: ctypes.CDLL) -> None:
    ((planes, _),) = pictures(1)
    with c_session(core, Toy(), camera(WIDTH, HEIGHT)) as c:
        for ask in (lambda: c.output(0), c.scores):
            with pytest.raises(RefusedError):
                ask()
        c.step(planes)
        assert len(c.output(0)) == len(c.scores()) == 3
        with pytest.raises(RefusedError):
            c.output(2)
        c.reset()
        with pytest.raises(RefusedError):
            c.output(0)


def test_the_model_is_introduced(core: ctypes.CDLL) -> None:
    info = Info(size=ctypes.sizeof(Info))
    with c_session(core, Toy(7, 5, "grey", chunk=2, warmup=6), None) as c:
        assert core.edgepv_inform(c.model, byref(info)) == OK
        labels = [core.edgepv_label(c.model, c_uint32(k)) for k in range(4)]
    assert labels == [*(name.encode() for name in LABELS), None]
    assert (info.abi, info.name, info.digest, info.task) == (1, b"toy", b"00ff", b"classification")
    assert (info.labels, info.outputs, info.states, info.warmup, info.chunk) == (3, 2, 2, 6, 2)
    assert (info.width, info.height, info.channels, info.fps_num, info.fps_den) == (7, 5, 1, 25, 2)
    assert core.edgepv_abi() == 1


def test_every_status_has_a_line_of_its_own(core: ctypes.CDLL) -> None:
    lines = {status: core.edgepv_text(status).decode() for status in STATUSES}
    assert len(set(lines.values())) == len(STATUSES)
    assert all(line and "\n" not in line for line in lines.values())
    assert core.edgepv_text(99) == b"no status of this version"
