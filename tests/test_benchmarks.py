"""What the benchmarks' own scripts do with results: none overwrites another, each is skipped or made anew."""

from __future__ import annotations

import copy
import csv
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support import ROOT
from test_claims import script

from edgepv.stream import KeepsStates
from edgepv.types import Latency, PairedTime, Ratio, encode

COMMIT = subprocess.run(
    ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
).stdout.strip()
needs_git = pytest.mark.skipif(not COMMIT, reason="no git repository")


def row(target: str, variant: str, ms: float | None) -> dict[str, Any]:
    return {"target": target, "variant": variant, "latency": [{"p50_ms": ms}] if ms else []}


def result(target: str, ms: float | None) -> dict[str, Any]:
    keys = ("chosen", "original_latency", "reasons", "measured_at")
    return {
        "rows": [row("host", "torch-fp32", ms), row(target, "a", ms)],
        **{key: {target: ms} for key in keys},
    }


def test_a_target_that_times_nothing_does_not_lose_the_time_of_the_original() -> None:
    both = script("models").merged(result("cpu", 3.0), result("jetson", None))
    assert both["rows"] == [row("host", "torch-fp32", 3.0), row("jetson", "a", None), row("cpu", "a", 3.0)]
    assert both["original_latency"] == {"cpu": 3.0, "jetson": None}


def test_a_target_measured_anew_replaces_its_own_rows_alone() -> None:
    old = script("models").merged(result("cpu", 3.0), result("mobile", 5.0))
    new = script("models").merged(old, result("cpu", 2.0))
    assert [r["latency"][0]["p50_ms"] for r in new["rows"]] == [2.0, 2.0, 5.0]
    assert new["original_latency"] == {"cpu": 2.0, "mobile": 5.0}


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """results.py with a folder of its own for what it writes."""
    module = script("results")
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for name, value in (
        ("HERE", folder),
        ("TOOK", folder / "results.json"),
        ("same_code", lambda c: c == COMMIT),
    ):
        monkeypatch.setattr(module, name, value)
    return module


def made_by(results: ModuleType, code: str) -> Any:
    """A benchmark whose one step runs Python code in the folder above its results."""
    (results.HERE.parent / "make.py").write_text(code)
    return results.Benchmark("some", ("{python} make.py",), lambda found: "")


@needs_git
def test_a_result_of_this_code_is_skipped_and_another_is_made_anew(results: ModuleType) -> None:
    some = made_by(results, f"""open("benchmarks/some.json", "w").write('{{"commit": "{COMMIT}"}}')""")
    (results.HERE / "some.json").write_text('{"commit": "0000000"}')
    assert results.run(some, None, None).endswith("minutes")
    assert json.loads((results.HERE / "some.json").read_text()) == {"commit": COMMIT}
    assert results.run(some, None, None) == "is of this code"
    assert list(json.loads(results.TOOK.read_text())) == ["some"]


def test_what_a_failed_run_had_stays_for_a_look(results: ModuleType) -> None:
    (results.HERE / "some.json").write_text('{"commit": "0000000"}')
    told = results.run(made_by(results, "raise SystemExit(1)"), None, None)
    assert told.startswith("failed: ") and told.endswith("What it had is some.json.before")
    assert json.loads((results.HERE / "some.json.before").read_text()) == {"commit": "0000000"}
    assert not results.TOOK.exists()


def test_a_benchmark_without_its_clips_is_left_with_the_reason(results: ModuleType) -> None:
    some = results.Benchmark("some", ("{python} x.py --data {data}",), lambda found: "")
    assert results.run(some, None, None) == "left: its clips are not given (--data, --natural)"


def test_a_result_with_changes_is_not_taken_for_one_of_its_commit(results: ModuleType) -> None:
    for told in (f'{{"at": {{"commit": "{COMMIT}+"}}}}', "{}"):
        (results.HERE / "some.json").write_text(told)
        assert not results.is_current("some")


def test_commits_machines_and_loads_are_found_wherever_a_result_keeps_them() -> None:
    module = script("results")
    device = {"cpu": "A", "flags": ["avx2", "avx512_vnni"], "load": 0.5}
    found = {
        "x": [{"at": {"commit": "b", "date": "2026-02-02"}, "device": device}],
        "commit": "a",
        "date": "2026-01-01",
    }
    assert module.commits(found) == ["a (2026-01-01)", "b (2026-02-02)"]
    assert module.machines(found) == ["A, avx512_vnni"]
    assert module.loads(found) == "0.5"
    assert module.origin({}) == ("not recorded", "not recorded", "not recorded")


def peer(points: float, ms: float, **more: Any) -> dict[str, Any]:
    drop = {
        "points": points,
        "low": points,
        "high": points,
        "n": 9,
        "lost": 0,
        "won": 0,
        "max_drop": 1.0,
        "verdict": "pass",
    }
    given = {
        "drop": drop | {"unit": "points"},
        "time": {"p50_ms": ms, "cpu_ms": ms},
        "bytes": 100,
        "int8": [5, 5],
    }
    return given | {"sqnr_db": 20.0, "saturation": None, "engine": "e"} | more


def test_a_faster_peer_is_named_unless_it_lost_more_than_it_may() -> None:
    page = script("peers_page")
    rows = {"edgepv, cpu/a": peer(0.5, 2.0, sqnr_db=30.0), "fast": peer(0.9, 1.0), "wrong": peer(1.1, 0.5)}
    untimed = {"edgepv, cpu/a": peer(0.5, 2.0, time=None)}
    found = {"m": {"rows": {**rows, "broken": {"failed": "Error: no"}}}, "n": {"rows": untimed}}
    assert list(page.beaten(found)) == [
        "m, time: fast has 1.000 ms, edgepv, cpu/a has 2.000 ms. It loses +0.90 where ours loses +0.50."
    ]
    assert "Nowhere." in page.not_first({"m": {"rows": {"edgepv, cpu/a": peer(0.5, 2.0)}}})
    assert page.not_first(found)[-3:] == [
        "It is first in: m (size, SQNR in INT8); n (size, SQNR in INT8).",
        "",
        "Not timed, or on another CPU, so not compared by time: n (1 of 1 rows).",
    ]
    assert page.cells({"failed": "Error: a | b"})[-1] == "Error: a / b"


def test_what_is_as_good_beats_nobody_and_the_best_of_a_column_is_bold() -> None:
    page = script("peers_page")
    result = {"rows": {"a peer": peer(0.5, 2.0, bytes=2048), "edgepv, cpu/a": peer(0.5, 2.0, bytes=2048)}}
    assert list(page.beaten({"m": result})) == []
    twins = {"edgepv, a": peer(0.5, 2.0, engine="other"), "edgepv, b": peer(0.5, 2.0)}
    told = list(page.beaten({"m": {"rows": {**twins, "small": peer(0.5, 2.0, bytes=50)}}}))
    assert told[0].startswith("m, size: small has 50 bytes, edgepv, b has 100 bytes. It loses"), "one engine"
    assert page.firsts(result) == dict.fromkeys(page.COLUMNS, "edgepv, cpu/a")
    cells = page.cells(result["rows"]["edgepv, cpu/a"], ["size"])
    assert cells[1] == "20.0" and cells[5] == "**2**"


def test_times_of_two_cpus_are_not_compared_and_each_row_says_its_own() -> None:
    page = script("peers_page")

    def on(cpu: str, ms: float) -> dict[str, Any]:
        device = {"cpu": cpu, "flags": ["avx512_vnni"]}
        clock = {"p50_ms": ms, "cpu_ms": ms, "on": f"{cpu}, avx512_vnni"}
        return peer(0.5, 2.0, time=clock, device=device)

    rows = {"edgepv, a": on("New", 2.0), "beside": on("New", 3.0), "elsewhere": on("Old", 1.0)}
    load = {"inconclusive": None}
    facts = {"at": {"commit": "abc", "date": "2026-12-01"}, "load": load}
    timed = {f"{cpu}, avx512_vnni": facts for cpu in ("New", "Old", "Gone")}
    known = {"clips": 9, "groups": 3, "calibration": 4, "metric": "top1", "float": 0.5}
    found = {"m": {"rows": rows, "timed": timed} | known}
    assert page.firsts(found["m"])["time"] == "edgepv, a"
    assert page.not_first(found)[-1].endswith("so not compared by time: m (1 of 3 rows).")
    told = page.page(found)
    assert [line.split("|")[-2].strip() for line in told.splitlines() if line.startswith("| ")] == [
        "CPU",
        "New, avx512_vnni",
        "New, avx512_vnni",
        "Old, avx512_vnni",
    ]
    assert "Timed on New, avx512_vnni. Measured" in told and "Timed on Old" in told and "Gone" not in told
    rows["beside"]["time"]["on"] = "Old, avx512_vnni"
    assert page.where(rows["beside"]) == "New, avx512_vnni; timed on Old, avx512_vnni"
    del rows["elsewhere"], rows["beside"]
    assert "| CPU |" not in page.page(found), "one CPU needs no column"


def test_a_tools_rows_stand_together_behind_edgepvs() -> None:
    names = ["b, tuned", "edgepv, z", "Tract, default", "edgepv, a", "b, default"]
    wanted = ["edgepv, z", "edgepv, a", "b, default", "b, tuned", "Tract, default"]
    assert script("peers_page").in_order(names) == wanted


def test_a_loss_says_whether_it_was_counted() -> None:
    page, row = script("peers_page"), peer(0.5, 2.0)
    assert page.cells(row)[0] == "+0.5 (0.5 to 0.5), pass"
    row["drop"] |= {"counted": {"points": 0.0, "low": -1.0, "high": 1.0}}
    assert page.cells(row)[0] == "+0.50 (0.50 to 0.50), pass"
    row["drop"] |= {"counted": None, "why": "counted, because of too few clips"}
    assert page.cells(row)[0] == "+0.5 (0.5 to 0.5), counted, pass"


def test_a_choice_is_right_within_3_percent_and_one_of_a_busy_machine_is_not_counted() -> None:
    choose = script("choose")
    assert choose.summed([{"shares": [1.0, 1.02, None]}, {"shares": [1.0, 1.2]}, {"shares": [None]}]) == {
        "choices": 4,
        "inconclusive": 2,
        "right": 0.75,
        "right_bundles": [1, 2],
        "interval": pytest.approx((0.0945, 0.9055), abs=1e-4),
    }
    assert choose.summed([])["right"] is None


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A convolution as peers are given a model."""
    rng = np.random.default_rng(0)
    weights = numpy_helper.from_array(rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        for name, shape in (("x", (1, 3, 8, 8)), ("y", (1, 4, 8, 8)))
    ]
    graph = helper.make_graph([node], "g", ends[0], ends[1], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "names.json").write_text('{"inputs": ["x"], "outputs": ["y"]}')
    np.savez(tmp_path / "calibration.npz", x=rng.standard_normal((12, 1, 3, 8, 8)).astype(np.float32))
    return tmp_path


@pytest.mark.slow
def test_a_peer_makes_its_file_answers_and_is_timed_in_a_process_of_its_own(case: Path) -> None:
    peers = script("peers")
    one, python, out = peers.Peer("ort_static", ""), Path(sys.executable), case / "out"
    out.mkdir()
    serve = [
        python,
        ROOT / "benchmarks" / "peers" / "serve.py",
        ROOT / "benchmarks" / "peers" / "ort_static.py",
    ]
    peers.run([*serve, case, out, "make", "tuned"], 120)
    server = peers.Server(one, python, case, out, "tuned")
    try:
        server.wait()
        feed = {"x": np.ones((1, 3, 8, 8), np.float32)}
        assert server.infer(feed)["y"].shape == (1, 4, 8, 8)
        walls, cpu = server.ask("turn", [feed, feed], 3)
        assert len(walls) == 3 and cpu >= 0
        with pytest.raises(RuntimeError, match="Missing Input|Required inputs"):
            server.infer({})
    finally:
        server.close()


def test_what_keeps_its_states_is_known_as_such_through_a_server() -> None:
    """Else it is asked for new states, which it does not give."""
    peers = script("peers")
    assert isinstance(peers.KeepingInfer(None, None), KeepsStates)
    assert not isinstance(peers.Infer(None, None), KeepsStates)


def test_a_convolution_of_xnnpack_is_int8_from_codes_to_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is written with a float answer runs in float, whatever its weights are."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "peers")
    peer = importlib.import_module("executorch_xnnpack")
    kinds = {0: "xnn_datatype_qint8", 1: "xnn_datatype_qint8", 2: "xnn_datatype_fp32"}
    tensors = [SimpleNamespace(id_out=i, datatype=SimpleNamespace(name=kind)) for i, kind in kinds.items()]
    values = [SimpleNamespace(tensor_value=tensors[0]), SimpleNamespace(tensor_value=tensors[1]), tensors[2]]

    def node(given: int, answered: int, **more: int) -> SimpleNamespace:
        return SimpleNamespace(xnode_union=SimpleNamespace(input1_id=given, output_id=answered, **more))

    nodes = [node(0, 1, group_input_channels=3), node(0, 2, group_input_channels=3), node(0, 1)]
    found = [SimpleNamespace(xvalue_union=value) for value in values]
    assert peer.in_int8(SimpleNamespace(xnodes=nodes, xvalues=found)) == 1


@pytest.mark.slow
def test_a_peer_that_fails_says_why_in_a_line(case: Path) -> None:
    peers = script("peers")
    serve = [sys.executable, ROOT / "benchmarks" / "peers" / "serve.py", "no_such_peer.py", case, case]
    with pytest.raises(RuntimeError, match="No module named 'no_such_peer'"):
        peers.run([*serve, "make", "default"], 60)


@pytest.mark.slow
def test_a_peer_that_gets_no_cpu_is_waited_for_and_one_that_uses_it_up_is_not() -> None:
    peers = script("peers")

    def asked(code: str, limit_s: float) -> Any:
        server = peers.Server.__new__(peers.Server)
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as server.process:
            try:
                return server._answer(limit_s)
            finally:
                server.process.kill()

    late = "import pickle, sys, time; time.sleep(1); pickle.dump(5, sys.stdout.buffer)"
    assert asked(late, 0.5) == 5
    with pytest.raises(RuntimeError, match="no answer within"):
        asked("while True: pass", 0.2)


@pytest.mark.slow
def test_a_peer_is_stopped_by_the_cpu_time_it_took() -> None:
    with pytest.raises(RuntimeError, match="not finished within 1 s of CPU time"):
        script("peers").run([sys.executable, "-c", "while True: pass"], 60, cpu_s=1)


@pytest.mark.slow
@needs_git
def test_clips_are_cut_from_the_videos_of_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg is here")
    data, source = script("data"), tmp_path / "source"
    film = np.zeros((20, 64, 96, 3), np.uint8)
    film += np.arange(0, 200, 10, dtype=np.uint8)[:, None, None, None]
    data.encode(film, "30", source / "a.mp4")
    git = ["git", "-C", str(source), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"]):
        subprocess.run([*git, *command], check=True)
    first = next(iter(data.rows()))
    row = {
        "path": "clips/a.mp4",
        "task": "t",
        "sha256": "0",
        "source_file": "own/a.mp4",
        "frames": "5",
        "fps": "15.0",
    }
    row |= {
        "width": "48",
        "height": "32",
        "source_start_frame": "4",
        "source_frame_count": "10",
        "source_step": "2",
    }
    monkeypatch.setattr(data, "rows", lambda: [first | row])
    monkeypatch.setattr(
        data, "SOURCES", {"own": ("example.org/own", "HEAD"), "other": ("example.org/o", "abc")}
    )
    left = data.build(tmp_path / "made", {"own": source})
    assert left == [
        "other: not given. git clone https://example.org/o, check out abc, then --source other=CHECKOUT"
    ]
    assert data.check(tmp_path / "made") == {"t": {"same": 0, "other": 1, "missing": 0}}
    (kept,) = csv.DictReader((tmp_path / "made" / "manifest.csv").open())
    monkeypatch.setattr(data, "rows", lambda: [kept])
    assert data.check(tmp_path / "made") == {"t": {"same": 1, "other": 0, "missing": 0}}
    reader = data.cv2.VideoCapture(str(tmp_path / "made" / "clips" / "a.mp4"))
    shown = [reader.read()[1] for _ in range(5)]
    assert not reader.read()[0]
    grey = [float(frame.mean()) for frame in shown]  # of frames 4, 6, 8, 10, 12; an encoder is not exact
    assert grey == pytest.approx([40, 60, 80, 100, 120], abs=9)


@pytest.mark.parametrize("name", sorted(script("results").kept()))
def test_every_committed_result_says_something(name: str) -> None:
    results = script("results")
    (one,) = (one for one in results.BENCHMARKS if one.name == name)
    said = one.says(results.kept()[name]).strip()
    assert said and said[-1] not in ":,;", said


def test_every_committed_result_has_its_line_among_the_results() -> None:
    listed = {one.name for one in script("results").BENCHMARKS}
    assert {p.stem for p in ROOT.glob("benchmarks/*.json")} <= listed | {"results"}


def test_what_a_stream_and_its_window_cost_is_told_as_far_as_it_is_known() -> None:
    module = script("stream_tune")
    rows: dict[str, Any] = {"window": {}, "stream": {}}
    assert module.cost(rows) == "What a result for every frame costs: not measured."
    rows = {"window": {"gflops_frame": 5.6}, "stream": {"gflops_frame": 0.7}}
    takes = "A result for every frame takes 5.60 GFLOPs by window, 0.700 by stream (x8.0)."
    assert module.cost(rows) == f"{takes} CPU time: not measured."

    def time(cpu_ms: float, share: float, load: str | None = None) -> dict[str, Any]:
        ratio = Ratio(share, share, share)
        to = (PairedTime("litert flat", ratio, ratio),)
        return encode(Latency(9.0, None, None, 30, 6, 1, cpu_ms=cpu_ms, ratios=to, inconclusive=load))

    stamp = {"timed_at": {"commit": "1234567", "date": "2026-12-01", "cpu": None}}
    rows["window"] |= stamp | {"latency": {"litert flat": time(40.0, 1.0), "openvino clip": time(90.0, 2.0)}}
    rows["stream"] |= stamp | {"latency": {"litert stream": time(8.0, 0.2, "a busy machine")}}
    assert (
        "CPU time on one thread: 40.00 ms by window (litert flat), 8.00 ms by stream (litert stream), "
        "0.200 (0.200 to 0.200) of it. Inconclusive: a busy machine. Measured at commit 1234567"
    ) in module.cost(rows)


@pytest.mark.parametrize(
    ("kernel", "stride", "groups", "bias"),
    [
        ((3, 3, 3), 2, 6, False),
        ((3, 3, 3), 1, 1, True),
        ((5, 1, 1), 1, 6, False),
        ((1, 3, 3), 2, 1, False),
        ((1, 1, 1), 1, 1, True),
    ],
)
def test_a_convolution_by_pictures_is_the_one_over_clips(
    kernel: tuple[int, ...], stride: int, groups: int, bias: bool
) -> None:
    """The gradients too, which is what it is for."""
    torch = pytest.importorskip("torch")
    padding = tuple(k // 2 for k in kernel)
    torch.manual_seed(0)
    over_clips = torch.nn.Conv3d(6, 6, kernel, (1, stride, stride), padding, groups=groups, bias=bias)
    pictures = script("train_clipnets").by_pictures(copy.deepcopy(over_clips))
    clip = torch.randn(2, 6, 7, 8, 8)
    for one in (wanted := over_clips(clip), got := pictures(clip)):
        one.square().sum().backward()
    assert type(pictures) is not type(over_clips)
    assert torch.allclose(got, wanted, atol=1e-5)
    assert torch.allclose(pictures.weight.grad, over_clips.weight.grad, rtol=1e-3, atol=1e-3)
