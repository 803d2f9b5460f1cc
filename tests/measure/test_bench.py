"""``edgepv bench`` as a whole: artifacts side by side, what each does alone, and one JSON of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from engine_bundle import write_bundle
from null_bundle import write_null_bundle
from onnx_models import net, written
from support import Run

from edgepv.base import optional
from edgepv.bundle import manifest
from edgepv.errors import EngineError, UsageError
from edgepv.measure import fresh
from edgepv.measure.artifacts.artifact import Artifact
from edgepv.measure.artifacts.compiled import of_object
from edgepv.measure.compare import parsed_result
from edgepv.measure.loadgen import loadgen_check
from edgepv.measure.mallocs import mallocs
from edgepv.types import BenchResult, StateSpec

QUIET = (0, 6)
"""Exit codes of a run beside other tests: its times may be inconclusive, and then it says so."""


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """One start in place of three: no test looks at how long it takes."""
    monkeypatch.setattr(fresh, "PROCESSES", 1)


def measured(run: Run, *words: object) -> BenchResult:
    code, out, err = run("bench", *words, "--json")
    assert code in QUIET, err
    assert ("inconclusive" in err) == (code == 6)
    return parsed_result(json.loads(out), "stdout")


@pytest.mark.slow
def test_a_bundle_and_a_file_are_timed_in_turns_and_against_the_first(run: Run, tmp_path: Path) -> None:
    states = [StateSpec("a", "a_next", (2, 3), update="shift")]
    folder = write_bundle(tmp_path / "b", states)
    onnx = written(tmp_path, net((1, 3, 8, 8)))
    found = measured(run, folder, onnx, "--fps", 200, "--seconds", "0.1")
    first, second = found.rows
    assert (first.name, second.name) == ("onnxruntime-fp32", "m.onnx")
    assert first.latency.interleaved_with == (first.name, second.name)
    assert second.latency.against(first.name) and first.latency.against(second.name) is None
    assert first.latency.n >= 662 and first.latency.p99_ms and first.p90_ms and first.latency.cpu_ms
    assert len(first.turns_ms) == len(second.turns_ms) == first.latency.n // 3
    assert first.latency.load and (first.latency.load.steal is None) == (not Path("/proc/stat").is_file())
    assert first.camera and (first.camera.frames, first.camera.fps) == (20, 200.0)
    assert first.rate == 200.0 and first.cameras_per_core and first.state_bytes == 24
    start = first.cold_start
    assert start and start.process_ms and start.process_ms > start.open_ms > 0 < start.first_ms
    assert first.rss_mib and first.rss_mib > 10
    assert (first.mallocs, first.energy_mj, first.loadgen) == (None, None, None) or first.energy_mj
    assert found.setup.device.cpu and found.setup.threads == 1


@pytest.mark.slow
def test_a_call_of_two_frames_serves_twice_the_cameras(run: Run, tmp_path: Path) -> None:
    """One call each second frame: at 10 frames a second, a core has 200 ms for its CPU time."""
    states = [StateSpec("a", "a_next", (4, 3), update="shift", fresh=2)]
    (row,) = measured(run, write_bundle(tmp_path / "b", states, chunk=2)).rows
    assert row.rate == 10.0 and row.latency.cpu_ms and row.cameras_per_core
    assert row.cameras_per_core * row.latency.cpu_ms == pytest.approx(200.0)


@pytest.mark.slow
def test_the_tables_say_what_is_not_measured(run: Run, tmp_path: Path) -> None:
    code, out, err = run("bench", write_null_bundle(tmp_path / "b"))
    assert code in QUIET, err
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["variant", "p50", "ms"] and any("cold start ms" in one for one in lines)
    assert "of null (95 %)" in lines[0] and lines[2].split()[5] == "1", "it is its own measure"
    *_, sizes = (one for one in lines if one.startswith("null "))
    assert sizes.count("not measured") >= 2, "neither mallocs nor states of a window"


@pytest.mark.slow
def test_a_variant_whose_engine_is_missing_is_left_out_and_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_bundle(tmp_path / "b")
    bundle = manifest.read(folder)
    (one,) = bundle.content.variants
    other = replace(one, name="openvino-fp32", engine="openvino")
    manifest.write(folder, replace(bundle.content, variants=(one, other)), bundle.measured)
    there = optional.present
    monkeypatch.setattr(optional, "present", lambda module: module != "openvino" and there(module))
    found = measured(run, folder)
    assert [row.name for row in found.rows] == ["onnxruntime-fp32"]
    (told,) = found.left_out
    assert told.startswith("openvino-fp32: openvino is not installed") and "pip install" in told
    code, _, err = run("bench", f"{folder}:openvino-fp32")
    assert code == 7 and "openvino is not installed" in err


def test_what_is_said_of_nothing_is_refused(run: Run, tmp_path: Path) -> None:
    folder = write_null_bundle(tmp_path / "b")
    code, _, err = run("bench", folder, "--shape", "1,3,8,8")
    assert code == 2 and "--shape says something of onnx, openvino" in err
    code, _, err = run("bench", folder, "--weights", "w.safetensors")
    assert code == 2 and "--weights says something of torch, and none is given" in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "wants something to measure"),
        (("x", "--fps", "0"), "--fps 0"),
        (("x", "--fps", "nan"), "--fps nan"),
        (("x", "--seconds", "inf"), "--seconds inf"),
        (("x", "--shape", "a,b"), "--shape a,b"),
        (("x", "y", "--live"), "--live replays clips on one bundle"),
    ],
)
def test_a_benchmark_of_nothing_is_refused(run: Run, words: tuple[str, ...], line: str) -> None:
    code, out, err = run("bench", *words)
    assert code == 2 and line in err and err.count("\n") == 1 and not out


@pytest.mark.slow
def test_what_does_not_open_in_a_fresh_process_says_why(tmp_path: Path) -> None:
    gone = Artifact(
        name="gone",
        kind="generated C",
        engine="native",
        build="",
        policy="",
        sha256="",
        opener="edgepv.measure.artifacts.compiled:opened",
        arguments={"path": str(tmp_path / "gone.so")},
    )
    with pytest.raises(EngineError, match="cannot be loaded"):
        fresh.cold_start(gone, 1)


def test_a_system_without_proc_tells_no_start(tmp_path: Path) -> None:
    assert fresh.process_ms(tmp_path / "stat") is None
    since = fresh.process_ms()
    assert since is None or since > 0


STUB = """
#include "edgepv.h"
#include <stdlib.h>
static int model;
static float told;
void *kept[1000];
int count;
uint32_t edgepv_abi(void) { return EDGEPV_ABI; }
const char *edgepv_text(edgepv_status status) { return "no tensors"; }
const edgepv_model *edgepv_compiled(void) { return (const edgepv_model *)&model; }
edgepv_status edgepv_inform(const edgepv_model *m, edgepv_info *info)
{ info->channels = 3; info->width = info->height = 2; info->outputs = info->chunk = 1; return EDGEPV_OK; }
edgepv_status edgepv_need(const edgepv_model *m, const edgepv_camera *c, size_t *bytes, size_t *align)
{ *bytes = *align = 64; return NEED; }
edgepv_status edgepv_begin(const edgepv_model *m, const edgepv_camera *c, void *memory, size_t bytes,
                           edgepv_session **session)
{ *session = memory; return EDGEPV_OK; }
edgepv_status edgepv_step_tensor(edgepv_session *s, const float *input, size_t values, uint32_t missed,
                                 edgepv_answer *answer)
{
    kept[count++] = malloc(8);
    if (count % 2)
        kept[count++] = calloc(2, 8);
    return EDGEPV_OK;
}
edgepv_status edgepv_output(const edgepv_session *s, uint32_t output, const float **data, size_t *values)
{ *data = &told; *values = 1; return EDGEPV_OK; }
edgepv_status edgepv_write(edgepv_session *s, uint32_t state, const float *data, size_t values)
{ return EDGEPV_OK; }
void edgepv_reset(edgepv_session *s) {}
void edgepv_cancel(edgepv_session *s) {}
void edgepv_end(edgepv_session *s) {}
"""


def stub(path: Path, need: str) -> Path:
    """An object that speaks edgepv.h and asks for memory in its steps. need: what edgepv_need answers."""
    from edgepv.firmware.compiled import C
    from edgepv.firmware.compiler import needed, shared_object

    sources = {"stub.c": STUB.replace("NEED", need).encode(), "edgepv.h": (C / "edgepv.h").read_bytes()}
    path.write_bytes(shared_object(needed(), sources, ()))
    return path


@pytest.mark.slow
@pytest.mark.usefixtures("compiling")
def test_a_step_that_asks_for_memory_is_counted(tmp_path: Path) -> None:
    """One malloc each step, and one calloc in some: two are told, rounded up."""
    one = of_object(stub(tmp_path / "greedy.so", "EDGEPV_OK"), 1)
    assert mallocs(one) == 2
    assert mallocs(replace(one, library=None)) is None, "it is no generated C"


@pytest.mark.slow
@pytest.mark.usefixtures("compiling")
def test_what_takes_no_tensors_is_said_and_not_counted(tmp_path: Path) -> None:
    one = of_object(stub(tmp_path / "tracker.so", "EDGEPV_INPUT"), 1)
    with pytest.raises(UsageError, match=r"cannot be fed tensors \(no tensors\): a tracker takes pictures"):
        one.open(1)
    assert mallocs(one) is None


def test_loadgen_counts_the_same_calls() -> None:
    pytest.importorskip("mlperf_loadgen", reason="LoadGen is not installed: pip install 'edgepv[loadgen]'")
    calls = []
    found = loadgen_check(lambda: calls.append(1), 64, least_ms=1)
    assert found.queries == len(calls) >= 64 and 0 < found.p90_ms < 1000
    assert found.estimate_ms and found.estimate_ms >= found.p90_ms * 0.5 and found.version.startswith("6.0")

    def broken() -> None:
        raise EngineError("no answer")

    with pytest.raises(EngineError, match="no answer"):
        loadgen_check(broken, 64, least_ms=1)


def test_without_loadgen_the_cure_is_said(run: Run, tmp_path: Path) -> None:
    import importlib.util

    if importlib.util.find_spec("mlperf_loadgen"):
        pytest.skip("LoadGen is installed here")
    code, _, err = run("bench", write_null_bundle(tmp_path / "b"), "--loadgen")
    assert code == 7 and "pip install 'edgepv[loadgen]'" in err


def test_a_damaged_bundle_is_not_measured(run: Run, tmp_path: Path) -> None:
    folder = write_null_bundle(tmp_path / "b")
    (folder / "models" / "delays.json").write_text("[1.0]")
    code, _, err = run("bench", folder)
    assert code == 2 and "was changed or is damaged" in err
    shutil.rmtree(folder)
