"""The GStreamer element posts what edgepv's own session says of the same frames."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from building import CORE, CORE_WITH_TOY, GCC, OWN
from live_support import SYSTEM_PYTHON
from support import ROOT
from toy_core import LABELS, Toy, picture, python_session

from edgepv import bundle
from edgepv.bundle import golden
from edgepv.firmware.compiled import compiled_here
from edgepv.firmware.compiler import needed
from edgepv.runtimes.lane import Answer
from edgepv.runtimes.sources.pace import Due

pytestmark = pytest.mark.slow

TOY = Toy(9, 6)
FPS = Fraction(25, 2)
WIDTH, HEIGHT = 20, 14
NAMES = {"bgr": "BGR", "rgb": "RGB", "nv12": "NV12", "grey": "GRAY8"}
CLOSE = 1e-6
"""NumPy's exp and the C library's differ in the last place."""


@dataclass
class Element:
    """The element, built by its CMakeLists, and toy models compiled for it."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def library(self, toy: Toy = TOY) -> Path:
        path = self.folder / f"toy{abs(hash(toy))}.so"
        if not path.exists():
            sources = [CORE_WITH_TOY[1], OWN / "toy_library.c"]
            GCC.build(path, sources, "-shared", "-fPIC", f"-DTOY_OPTIONS={toy.c_options()}")
        return path

    def launch(self, pipeline: str) -> str:
        command = ["gst-launch-1.0", "-m", *pipeline.split()]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=120, check=True
        ).stdout

    def push(self, data: bytes, events: Sequence[Sequence[Any]], toy: Toy = TOY) -> list[dict[str, Any]]:
        """What came of each event; the first is the start."""
        (self.folder / "data").write_bytes(data)
        plan = {
            "element": f"edgepv library={self.library(toy)}",
            "data": str(self.folder / "data"),
            "events": events,
        }
        command = [SYSTEM_PYTHON, str(ROOT / "tests" / "gst_pushed.py")]
        done = subprocess.run(
            command, input=json.dumps(plan), env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def element(tmp_path_factory: pytest.TempPathFactory) -> Element:
    for program in ("cmake", "gst-launch-1.0", "pkg-config"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    if subprocess.run(["pkg-config", "--exists", "gstreamer-video-1.0"], check=False).returncode:
        pytest.skip("the headers of GStreamer are not installed")
    folder = tmp_path_factory.mktemp("gstreamer")
    build = folder / "build"
    source = ROOT / "edgepv" / "firmware" / "gstreamer"
    for command in (["cmake", "-S", str(source), "-B", str(build)], ["cmake", "--build", str(build)]):
        subprocess.run([*command], check=True, capture_output=True)
    made = Element(folder, dict(os.environ))
    made.environment |= {"GST_PLUGIN_PATH": str(build), "GST_REGISTRY": str(folder / "registry")}
    return made


def test_its_code_compiles_without_a_warning(tmp_path: Path, element: Element) -> None:
    said = subprocess.run(
        ["pkg-config", "--cflags", "gstreamer-video-1.0", "gmodule-no-export-2.0"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    flags = [flag.replace("-I", "-isystem", 1) for flag in said.stdout.split()]
    strict = ["-std=gnu99", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-fPIC", f"-I{CORE}", *flags]
    source = ROOT / "edgepv" / "firmware" / "gstreamer" / "gstedgepv.c"
    for compiler in ("gcc", "clang"):
        command = [compiler, *strict, "-c", str(source), "-o", str(tmp_path / "it.o")]
        subprocess.run(command, check=True)


def frames(count: int, kind: str = "bgr") -> list[tuple[list[np.ndarray], np.ndarray]]:
    """Frames as GStreamer lays them out: each row of a multiple of four bytes."""
    rng = np.random.default_rng(0)
    return [picture(rng, WIDTH, HEIGHT, kind, padded=False) for _ in range(count)]


def caps(kind: str = "bgr", rate: str = "25/2", width: int = WIDTH, height: int = HEIGHT) -> str:
    return f"video/x-raw,format={NAMES[kind]},width={width},height={height},framerate={rate}"


def packed(pictures: list[tuple[list[np.ndarray], np.ndarray]]) -> bytes:
    return b"".join(plane.tobytes() for planes, _ in pictures for plane in planes)


def told(text: str) -> list[dict[str, str]]:
    """The element messages that gst-launch prints."""
    lines = [line for line in text.splitlines() if "edgepv, model=" in line]
    return [dict(re.findall(r"([\w-]+)=\([\w]+\)(?:\")?([^,;\"]+)", line)) for line in lines]


@pytest.mark.parametrize("rate", ["25/2", "30/1", "5/1"])
@pytest.mark.parametrize("kind", sorted(NAMES))
def test_gst_launch_says_what_python_says(element: Element, kind: str, rate: str, tmp_path: Path) -> None:
    pictures = frames(24, kind)
    (tmp_path / "clip.raw").write_bytes(packed(pictures))
    source = f"filesrc location={tmp_path / 'clip.raw'} ! rawvideoparse format={NAMES[kind].lower()}"
    size = f"width={WIDTH} height={HEIGHT} framerate={rate}"
    said = told(element.launch(f"{source} {size} ! edgepv library={element.library()} ! fakesink"))
    session, due, camera = python_session(TOY), Due(FPS, Fraction(rate)), Fraction(rate)
    wanted = []
    for number, (_, bgr) in enumerate(pictures):
        is_due, missed = due.due(float(number / camera))
        if is_due:
            wanted.append((number, session.step(bgr, missed=missed)))
    assert len(said) == len(wanted) and len({answer.label for _, answer in wanted}) > 1
    for got, (number, answer) in zip(said, wanted):
        assert int(got["timestamp"]) == pytest.approx(
            float(number / camera) * 1e9, abs=len(pictures)
        )  # it adds whole ns
        compare({**got, "valid": got["valid"] == "true", "restarted": got["restarted"] == "true"}, answer)


def test_a_golden_clip_gives_the_golden_answers(
    element: Element, step_bundle: Path, tmp_path: Path, compiling: None
) -> None:
    """The frames that a bundle recorded, through the C of its model: what an engine answered to them."""
    opened = bundle.read(step_bundle)
    variant = opened.variant("onnxruntime-fp32")
    own = replace(variant, name="native-fp32", engine="native")
    library = compiled_here(own, opened.checked(variant.path), needed())
    recorded = golden.of_variant(golden.load(opened), variant.name)
    count, height, width, _ = recorded["frames"].shape
    rows = np.pad(recorded["frames"].reshape(count, height, -1), ((0, 0), (0, 0), (0, -3 * width % 4)))
    (tmp_path / "golden.raw").write_bytes(rows.tobytes())
    fps = Fraction(variant.spec.fps)
    source = f"filesrc location={tmp_path / 'golden.raw'} ! rawvideoparse format=bgr width={width}"
    size = f"height={height} framerate={fps.numerator}/{fps.denominator}"
    said = told(element.launch(f"{source} {size} ! edgepv library={library} ! fakesink"))
    powers = np.exp(recorded[variant.name] - recorded[variant.name].max(1, keepdims=True))
    scores = powers / powers.sum(1, keepdims=True)
    assert len(said) == count >= 8
    assert [one["label"] for one in said] == [variant.spec.labels[i] for i in scores.argmax(1)]
    np.testing.assert_allclose([float(one["score"]) for one in said], scores.max(1), atol=1e-4)


def test_buffers_tell_scores_where_gstreamer_has_a_form_for_it(element: Element) -> None:
    """Those with a valid answer, the fourth being the first; elsewhere the messages alone tell."""
    known = ["pkg-config", "--exists", "gstreamer-analytics-1.0 >= 1.24"]
    if subprocess.run(known, check=False).returncode:
        pytest.skip("GStreamer's analytics library (1.24 and later) is not installed")
    source = f"videotestsrc num-buffers=6 ! {caps()}"
    said = element.launch(f"-v {source} ! edgepv library={element.library()} ! fakesink silent=false")
    assert re.findall(r"meta: (\w+)", said) == ["none"] * 3 + ["GstAnalyticsRelationMeta"] * 3


def compare(got: dict[str, Any], wanted: Answer) -> None:
    assert got["label"] == wanted.label and LABELS[int(got["label-index"])] == wanted.label
    assert float(got["score"]) == pytest.approx(wanted.score, abs=CLOSE)
    assert (bool(got["valid"]), bool(got["restarted"])) == (wanted.valid, wanted.restarted)
    assert (int(got["missed"]), int(got["index"])) == (wanted.missed, wanted.index)


def pushes(pictures: list[Any], times: Sequence[int | None], discont: Sequence[int] = ()) -> list[list[Any]]:
    """Frames, one at each of ``times``, in ticks of the model's rate."""
    size = len(packed(pictures[:1]))
    tick = int(1e9 / FPS)
    return [
        ["frame", None if t is None else t * tick, number in discont or number == 0, number * size, size]
        for number, t in enumerate(times)
    ]


def answers(done: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [said for one in done for said in one["said"]]


def test_frames_that_never_came_count_as_missed(element: Element) -> None:
    pictures = frames(8)
    times = (0, 1, 2, 4, 5, 11, 12, 13)  # one lost; then five, more than the model looks back on
    session = python_session(TOY)
    got = answers(element.push(packed(pictures), [["caps", caps()], *pushes(pictures, times)]))
    assert len(got) == len(times)
    for one, (_, bgr), before, now in zip(got, pictures, (-1, *times), times):
        compare(one, session.step(bgr, missed=now - before - 1))
    assert [one["restarted"] for one in got].count(True) == 1


@pytest.mark.parametrize("how", ["discont", "flush", "caps", "backwards"])
def test_it_starts_over_where_the_stream_does(element: Element, how: str) -> None:
    pictures = frames(9)
    ticks = (0, 1, 2, 3, 4, 0, 1, 2, 3) if how == "backwards" else (0, 1, 2, 3, 4, 5, 6, 7, 8)
    events = pushes(pictures, ticks, discont=(5,) if how == "discont" else ())
    if how in ("flush", "caps"):
        events.insert(5, ["flush"] if how == "flush" else ["caps", caps(rate="50/1")])
    got = answers(element.push(packed(pictures), [["caps", caps()], *events]))
    assert len(got) == len(pictures)
    session = python_session(TOY)
    for number, (one, (_, bgr)) in enumerate(zip(got, pictures)):
        if number == 5:
            session = python_session(TOY) if how == "caps" else session
            session.reset() if how != "caps" else None
        compare(one, session.step(bgr))


def test_frames_too_late_for_the_sink_are_dropped_and_missed(element: Element) -> None:
    pictures = frames(7)
    events = pushes(pictures, range(7))
    events.insert(3, ["late", 4 * int(1e9 / FPS)])
    done = element.push(packed(pictures), [["caps", caps()], *events])
    got = answers(done)
    session = python_session(TOY)
    kept = [0, 1, 2, 5, 6]
    assert [one["timestamp"] // int(1e9 / FPS) for one in got] == kept
    for one, number in zip(got, kept):
        compare(one, session.step(pictures[number][1], missed=2 if number == 5 else 0))


def test_a_pipeline_that_stops_waits_for_no_frame(element: Element) -> None:
    endless = ["stopped", str(element.library()), 3 * WIDTH * HEIGHT]
    assert element.push(packed(frames(1)), [["caps", caps()], endless])[-1]["how"] == "ran, then flushing"


def test_nothing_is_left_over(element: Element) -> None:
    """GStreamer's own tracer knows what was made and not freed."""
    tracing = element.environment | {"GST_TRACERS": "leaks", "GST_DEBUG": "GST_TRACER:7"}
    command = f"gst-launch-1.0 -q videotestsrc num-buffers=9 ! edgepv library={element.library()} ! fakesink"
    done = subprocess.run(
        command.split(), env=tracing, capture_output=True, text=True, timeout=120, check=True
    )
    left = re.findall(r"object-alive, type-name=\(string\)(\w+)", done.stderr)
    assert "object-alive" in done.stderr  # how it would say it
    assert not {"GstEdgepv", "GstBuffer", "GstMessage", "GstCaps"} & set(left)


def test_frames_without_a_time_are_all_due(element: Element) -> None:
    pictures = frames(5)
    got = answers(element.push(packed(pictures), [["caps", caps(rate="0/1")], *pushes(pictures, [None] * 5)]))
    session = python_session(TOY)
    assert len(got) == 5
    for one, (_, bgr) in zip(got, pictures):
        compare(one, session.step(bgr))


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("no library", "set the property library"),
        ("no file", "no compiled model"),
        ("no labels", "no classifier"),
    ],
)
def test_what_cannot_start_says_why(element: Element, what: str, words: str, tmp_path: Path) -> None:
    library = {
        "no library": "",
        "no file": f"library={tmp_path / 'absent.so'}",
        "no labels": f"library={element.library(Toy(9, 6, classifier=False))}",
    }[what]
    command = f"gst-launch-1.0 videotestsrc num-buffers=1 ! edgepv {library} ! fakesink".split()
    done = subprocess.run(
        command, env=element.environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode != 0 and words in done.stderr


@pytest.mark.parametrize(
    "wrong", [caps("nv12", width=21), "video/x-raw,format=YUY2,width=8,height=8", caps(width=16388)]
)
def test_caps_that_it_cannot_take_are_refused(element: Element, wrong: str) -> None:
    done = element.push(bytes(8), [["caps", wrong], ["frame", 0, True, 0, 8]])
    assert done[2]["how"] == "not-negotiated"


def test_a_model_that_is_linked_in_needs_no_library(element: Element, tmp_path: Path) -> None:
    """A firmware folder of a toy: what CMake asks of one is the target edgepv::edgepv."""
    folder = tmp_path / "fw"
    folder.mkdir()
    for path in (*CORE.glob("*.h"), CORE_WITH_TOY[0]):
        shutil.copy(path, folder)
    (folder / "CMakeLists.txt").write_text(
        "project(edgepv LANGUAGES C)\nadd_library(edgepv STATIC edgepv_core.c model.c)\n"
        "set_target_properties(edgepv PROPERTIES POSITION_INDEPENDENT_CODE ON)\n"
        "target_include_directories(edgepv PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})\n"
        "target_link_libraries(edgepv PUBLIC m)\nadd_library(edgepv::edgepv ALIAS edgepv)\n"
    )
    (folder / "model.c").write_text(MODEL)
    build = tmp_path / "build"
    options = [f"-DEDGEPV_FOLDER={folder}", "-DEDGEPV_MODEL=edgepv_model_one"]
    source = str(ROOT / "edgepv" / "firmware" / "gstreamer")
    for command in (["cmake", "-S", source, "-B", str(build), *options], ["cmake", "--build", str(build)]):
        subprocess.run(command, check=True, capture_output=True)
    environment = element.environment | {"GST_PLUGIN_PATH": str(build), "GST_REGISTRY": str(tmp_path / "r")}
    command = ["gst-launch-1.0", "-m", "videotestsrc", "num-buffers=3", "!", "edgepv", "!", "fakesink"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert [one["label"] for one in told(done.stdout)] == ["only"] * 3


MODEL = """
#include "edgepv_model.h"
static const char *const labels[] = {"only"};
static const edgepv_port port = {"logits", 1, {1}, 1, 0};
static void nothing(const edgepv_model *m, void *s) { (void)m, (void)s; }
static edgepv_status run(const edgepv_model *m, void *s, void *a, float *out, const volatile uint32_t *c)
{
    (void)m, (void)s, (void)a, (void)c;
    out[0] = 1;
    return EDGEPV_OK;
}
extern const edgepv_model edgepv_model_one;
const edgepv_model edgepv_model_one = {
    .size = sizeof(edgepv_model), .abi = EDGEPV_ABI, .name = "one", .digest = "", .task = "classification",
    .labels = labels, .label_count = 1, .width = 4, .height = 4, .channels = 3, .fps_num = 30, .fps_den = 1,
    .warmup = 1, .chunk = 1, .input = {0, 12, 48}, .output_count = 1, .outputs = &port, .output_values = 1,
    .state_bytes = 4, .arena_bytes = 192, .reset = nothing, .run = run, .commit = nothing,
};
"""
