"""The whole line on the built-in model and real video: what a bundle holds, and that it is repeatable."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support import CLIPS, ROOT, TINY, Tiny, linked_clips

import edgepv
from edgepv import bundle, pipeline, report
from edgepv.base.console import Console
from edgepv.bundle.golden import replay
from edgepv.cli.app import main
from edgepv.data.truth import EvalClip
from edgepv.data.video import read_video
from edgepv.errors import AccuracyGateError, LatencyGateError, ParityError
from edgepv.measure.latency import TURN, latencies
from edgepv.metrics import choice, gate
from edgepv.metrics.times import BATCHES
from edgepv.pipeline import evaluate, pack
from edgepv.pipeline.context import RunContext
from edgepv.pipeline.options import Options
from edgepv.pipeline.prepare import prepare
from edgepv.pipeline.source import gather, load
from edgepv.report.compare import speedups
from edgepv.stream import Tensors
from edgepv.types import (
    Audit,
    ConvPlan,
    Latency,
    Measurement,
    ModelSpec,
    PairedDrop,
    Parity,
    Report,
    TensorSpec,
    decode,
)

pytestmark = pytest.mark.slow

SHARED = ROOT.parent / "shared" / "data" / "actions"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in nano model for all three targets, judged on four clips, timed on one thread and on two."""
    folder = tmp_path_factory.mktemp("exported")
    model = ["export", "pv-conv-nano", "--clips", str(linked_clips(folder / "clips", 2))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "latencies", latencies)
        assert main([*model, "--target", "cpu,mobile,jetson", "--out", str(folder / "b")]) == 0
    return folder / "b"


@pytest.mark.parametrize("target", ["cpu", "mobile", "jetson"])
def test_every_bundle_checks_and_replays(exported: Path, target: str) -> None:
    opened = bundle.read(exported / target)
    assert bundle.check(opened) > 5
    results = replay(opened)
    assert results and all(r.skipped is None for r in results)
    assert (exported / f"{target}.zip").is_file()


@pytest.mark.parametrize("target", ["cpu", "mobile", "jetson"])
def test_float_artifacts_compute_what_torch_computes(exported: Path, target: str) -> None:
    rows = _report(exported / target).rows
    floats = [r for r in rows if r.precision == "fp32" and r.parity]
    assert floats and all(r.parity and r.parity.sqnr_db > 80 and r.parity.agreement == 1.0 for r in floats)


@pytest.mark.parametrize("target", ["cpu", "mobile"])
def test_int8_convolutions_run_in_integers(exported: Path, target: str) -> None:
    rows = [r for r in _report(exported / target).rows if r.precision == "int8"]
    assert rows
    for row in rows:
        assert row.audit and row.audit.int8 > 20, row.variant


def test_what_runs_is_what_its_own_figures_choose(exported: Path) -> None:
    """By speed on an idle machine, by size on a busy one: the figures in the bundle say which."""
    for target in ("cpu", "mobile"):
        opened = bundle.read(exported / target)
        rows = [r for r in _report(exported / target).rows if r.target == target]
        best, why = choice.choose(rows, latency_ms=None)
        assert (opened.measured.run, opened.measured.reasons[0]) == (best.variant, why)
        assert opened.measured.prefer == "speed"


def test_every_timing_was_interleaved_with_torch(exported: Path) -> None:
    rows = [r for r in _report(exported / "cpu").rows if r.target == "cpu" or r.variant == "torch-fp32"]
    assert len(rows) > 3
    for row in rows:
        assert [latency.threads for latency in row.latency] == [1, 2]
        assert all("torch-fp32" in latency.interleaved_with for latency in row.latency)
        assert all(latency.load and latency.load.cores and latency.cpu_ms for latency in row.latency)
        paired = [la for la in row.latency if la.n >= BATCHES * TURN]
        assert row.variant == "torch-fp32" or all(la.against("torch-fp32") for la in paired)
        assert row.device is not None


def test_no_jetson_speed_is_printed(exported: Path) -> None:
    opened = bundle.read(exported / "jetson")
    rows = [r for r in _report(exported / "jetson").rows if r.target == "jetson"]
    assert opened.measured.status == "host-checked"
    assert rows and all(r.latency == () and r.rss_mib is None for r in rows)
    assert all(c.executed is None for r in rows if r.audit for c in r.audit.convolutions)


def test_the_jetson_bundle_holds_what_a_device_needs(exported: Path) -> None:
    models = exported / "jetson" / "models"
    names = {p.name for p in models.iterdir()}
    assert {"build.sh", "checks.json", "precision_plan.json", "calibration_table.json"} <= names
    script = (models / "build.sh").read_text()
    for version in ("8.5", "8.6", "10.3", "10.12", "11"):
        assert f'"{version}")' in script
    checks = json.loads((models / "checks.json").read_text())
    assert all(not [f for f in row["rules"] if f["severity"] == "error"] for row in checks)
    assert all(row["parser"]["accepted"] in (True, None) for row in checks)


def test_the_manifest_says_how_it_was_made(exported: Path) -> None:
    content = bundle.read(exported / "cpu").content
    names = [s.name for s in content.steps]
    assert names[0] == "lower" and any(n.startswith("int8") for n in names)
    assert all(s.tools and s.outputs for s in content.steps)
    assert content.stream and content.stream.warmup == 16 and content.stream.receptive_field
    assert content.calibration_digest and content.postprocessing.startswith("softmax")
    text = (exported / "cpu" / bundle.MANIFEST).read_text()
    assert str(ROOT) not in text and str(exported) not in text


def test_a_cold_cache_gives_the_same_bundle(
    step_bundle: Path, tiny_step: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPV_CACHE", str(tmp_path / "cold"))
    assert main(["export", *tiny_step.arguments, "--out", str(tmp_path / "b")]) == 0
    assert bundle.read(tmp_path / "b").digest == bundle.read(step_bundle).digest


def test_a_clip_model_becomes_a_step(tiny_clip: Tiny, tmp_path: Path, a_clip: Path) -> None:
    out = tmp_path / "b"
    assert main(["export", *tiny_clip.arguments, "--target", "cpu", "--out", str(out)]) == 0
    opened = bundle.read(out)
    stream = opened.content.stream
    assert stream and (stream.exactness, stream.delay, stream.receptive_field) == ("delayed", 1, 6)
    assert stream.proof and stream.proof.video is not None and stream.proof.video <= stream.proof.tolerance
    assert {v.form for v in opened.content.variants} == {"step"}
    rows = {r.variant: r for r in _report(out).rows}
    assert rows["torch-stream"].status == "made to step"
    clip, step = rows["torch-fp32"].gflops_per_frame, rows["torch-stream"].gflops_per_frame
    assert clip and step and 3.9 < clip / step < 4.1
    assert main(["run", str(out), "--source", str(a_clip)]) == 0
    assert main(["verify", str(out)]) == 0


def test_a_step_may_take_several_frames(tiny_clip: Tiny, tmp_path: Path, a_clip: Path) -> None:
    out = tmp_path / "b"
    model = [*tiny_clip.arguments, "--target", "cpu", "--precision", "fp32"]
    assert main(["export", *model, "--every", "2", "--out", str(out)]) == 0
    opened = bundle.read(out).content
    assert opened.stream and opened.stream.chunk == 2 and opened.spec.input.shape[0] == 2
    with edgepv.open(out) as session:
        answers = [session.step(frame) for frame in read_video(a_clip).frames[:12]]
    assert [a.valid for a in answers] == [i >= 5 for i in range(12)]
    assert [a.scores == b.scores for a, b in pairwise(answers[5:])] == [True, False] * 3


def test_a_clip_model_may_stay_a_window_in_both_forms(tiny_clip: Tiny, tmp_path: Path, a_clip: Path) -> None:
    out = tmp_path / "b"
    model = [*tiny_clip.arguments, "--target", "cpu", "--precision", "fp32"]
    assert main(["export", *model, "--stream", "window", "--out", str(out)]) == 0
    opened = bundle.read(out)
    assert opened.content.stream is None and {v.form for v in opened.content.variants} == {"window"}
    assert {v.name for v in opened.content.variants} >= {"onnxruntime-fp32", "onnxruntime-fp32-r4"}
    assert main(["run", str(out), "--source", str(a_clip)]) == 0
    assert main(["export", *model, "--stream", "off", "--out", str(tmp_path / "c")]) == 0
    assert not any("r4" in v.name for v in bundle.read(tmp_path / "c").content.variants)


def test_int8_does_not_hide_what_its_engine_gets_wrong_in_float(
    tiny_ceil: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """OpenVINO is 20 dB away in float and in INT8 alike; the floor of INT8 alone would let that pass."""
    only = ["--stream", "window", "--variant", "openvino-int8", "--target", "cpu"]
    assert main(["export", *tiny_ceil.arguments, *only, "--out", str(tmp_path / "b")]) == 5
    assert "openvino computes this graph wrongly in float too: the answer of openvino-fp32" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "b").exists()


def test_an_onnx_file_is_exported_too(step_bundle: Path, tiny_step: Tiny, tmp_path: Path) -> None:
    source = step_bundle / "models" / "model.onnx"
    out = tmp_path / "b"
    model = ["export", str(source), "--spec", str(tiny_step.spec)]
    assert main([*model, "--target", "cpu,jetson", "--precision", "fp32", "--out", str(out)]) == 0
    assert bundle.read(out / "cpu").content.stream is not None
    found = _report(out / "cpu")
    assert (found.baseline, found.rows[0].engine) == ("onnxruntime-original", "onnxruntime")
    assert not any("torch" in row.variant or row.engine == "torch" for row in found.rows)
    assert all("onnxruntime-original" in la.interleaved_with for row in found.rows for la in row.latency)
    assert _report(out / "jetson").baseline == "onnxruntime-original"
    joined = report.join([("a", _report(step_bundle)), ("b", found)])
    timed = [(row, la) for row in joined.rows for la in row.latency]
    assert {row.variant for row, _ in timed} > {"a/torch-fp32", "b/onnxruntime-original"}
    assert all(speedups(joined, row, latency)[0] for row, latency in timed)
    assert main([*model, "--target", "mobile", "--precision", "fp32", "--out", str(tmp_path / "m")]) == 0
    floats = [row for row in _report(tmp_path / "m").rows if row.variant == "litert-fp32"]
    assert floats and all(row.parity and row.parity.sqnr_db > 80 for row in floats)


def test_the_null_target_walks_the_whole_line(tiny_step: Tiny, tmp_path: Path, a_clip: Path) -> None:
    out = tmp_path / "b"
    assert (
        main(["export", *tiny_step.arguments, "--target", "null", "--precision", "fp32", "--out", str(out)])
        == 0
    )
    assert main(["run", str(out), "--source", str(a_clip)]) == 0


def test_the_python_door(step_bundle: Path, a_clip: Path) -> None:
    capture = cv2.VideoCapture(str(a_clip))
    with edgepv.open(step_bundle) as session:
        for _ in range(6):
            _, frame = capture.read()
            answer = session.step(frame)
    assert answer.valid and answer.label in ("fight", "no_fight")
    assert answer.score is not None and 0.5 <= answer.score <= 1


def test_what_a_jetson_built_is_held_against_the_plan(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As build.sh would have written it, with one convolution that TensorRT kept in half precision."""
    capsys.readouterr()
    row = next(r for r in _report(exported / "jetson").rows if r.target == "jetson" and r.precision == "int8")
    assert row.audit
    planned = [c.node for c in row.audit.convolutions if c.planned == "int8"]
    layers = [
        {
            "Name": node,
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "x", "Format/Datatype": "Int8" if i else "Half"}],
            "Outputs": [{"Name": "y", "Format/Datatype": "Int8" if i else "Half"}],
            "Metadata": f"[ONNX Layer: {node}]",
        }
        for i, node in enumerate(planned)
    ]
    file = tmp_path / "model-int8-trt10.3.layers.json"
    file.write_text(json.dumps({"Layers": layers}))
    assert main(["inspect", str(exported / "jetson"), "--layers", str(file)]) == 0
    said = capsys.readouterr().out
    told = f"{len(planned) - 1} of {len(planned)} planned convolutions run in INT8; silently in float: 1"
    assert told in said
    script = (exported / "jetson" / "models" / "build.sh").read_text()
    assert '--exportLayerInfo="$out"/' in script


def test_a_pruned_model_goes_down_the_whole_line(
    few_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its states are smaller than the original's, and both are run, timed and compared."""
    from edgepv.quantize import finetune

    monkeypatch.setattr(finetune.Step, "epochs", 1)
    monkeypatch.setattr(finetune.Step.__init__, "__defaults__", (1, 1e-3, 8, 0))
    out = tmp_path / "b"
    model = ["export", "pv-conv-nano", "--prune", "0.4", "--clips", str(few_clips), "--max-drop", "100"]
    assert main([*model, "--precision", "fp32", "--out", str(out)]) in (0, 6)
    original, pruned = _report(out).rows[:2]
    assert (original.variant, pruned.variant) == ("torch-fp32", "torch-pruned-tuned")
    assert pruned.params and original.params and pruned.params < 0.8 * original.params
    assert original.latency and [s.name for s in bundle.read(out).content.steps][:2] == ["prune", "finetune"]


def test_a_label_without_held_out_clips_is_named_and_no_gate_is_applied(
    tiny_step: Tiny, tmp_path: Path, write_video: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    clips = tmp_path / "clips"
    for first, place in enumerate(("train/fight/session1", "train/no_fight", "test/Fight")):
        (clips / place).mkdir(parents=True)
        for i in range(3):
            write_video(f"clips/{place}/{i}.mp4", [40 * i + 9 * first, 40 * i + 30] * 6)
    (clips / "test" / "._0.mp4").write_bytes(b"Mac OS X")
    out = tmp_path / "b"
    gated = ["--clips", str(clips), "--precision", "fp32", "--max-drop", "50", "--out", str(out)]
    assert main(["export", *tiny_step.arguments, *gated]) == 6
    told = "the accuracy gate is not applied: no held-out clip shows 'no_fight' (1 of 2 labels)"
    left = f"left out of {clips}: 1 hidden (the first: test/._0.mp4)"
    said, reasons = capsys.readouterr().err, "\n".join(_report(out).reasons)
    assert all(line in text for line in (told, left) for text in (said, reasons))
    assert bundle.read(out).measured.verdict == "not applied"
    assert "not applied" in (out / "report.md").read_text()


def _many_fights(folder: Path, write_video: Callable[..., Path]) -> str:
    """33 dark held-out clips of fights, then 2 bright ones without; and clips to calibrate on."""
    counts = {"calibration/fight": 2, "calibration/no_fight": 2, "test/fight": 33, "test/no_fight": 2}
    for place, count in counts.items():
        (folder / place).mkdir(parents=True)
        for i in range(count):
            first = (200 if "no" in place else 10) + i
            write_video(f"{place}/{i:02}.mp4", [first, first + 1 + place.startswith("test")] * 3)
    return str(folder)


def _brighter(feeds: Sequence[Tensors]) -> list[bool]:
    """Whether a feed shows a clip without a fight."""
    return [bool(feed["frame"].mean() > 0) for feed in feeds]


def test_layers_are_compared_on_clips_of_every_label(
    tiny_step: Tiny, tmp_path: Path, write_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def per_layer(
        base: Any, folder: Any, feeds: Any, probes: Sequence[Tensors], track: Any, truth: Any
    ) -> tuple[()]:
        asked.update(seen=_brighter(probes), truth=truth)
        return ()

    monkeypatch.setattr("edgepv.quantize.sensitivity.per_layer", per_layer)
    pipeline.sensitivity(_options(tiny_step, _many_fights(tmp_path, write_video)), Console(quiet=True))
    assert asked["truth"] == [0, 1, 0, 1] + [0] * 28
    assert asked["seen"] == [label == 1 for label in asked["truth"]]


def test_insides_are_looked_at_on_clips_of_every_label(
    tiny_step: Tiny, tmp_path: Path, write_video: Callable[..., Path]
) -> None:
    options = _options(tiny_step, _many_fights(tmp_path, write_video))
    source = load(options)
    prepared = prepare(RunContext(options, Console(quiet=True)), source, gather(options, source.spec))
    assert len(prepared.evaluation.feeds) == 32
    for feeds in (prepared.evaluation.feeds, prepared.original[-1]):
        assert _brighter(feeds[: evaluate.PROBES]) == [False, True, False, True, False, False, False, False]


def _options(tiny: Tiny, clips: str | None = None) -> Options:
    weights, spec = str(tiny.weights), str(tiny.spec)
    return Options(tiny.model, weights=weights, spec=spec, clips=clips, precision="fp32", stream="off")


def test_an_edited_builder_is_cut_again(
    tiny_clip: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[float] = []

    def per_group(checkpoint: Any, clips: Any, truth: Any, ratio: float, track: Any) -> tuple[()]:
        called.append(ratio)
        return ()

    monkeypatch.setattr("edgepv.quantize.sensitivity.per_group", per_group)
    own = tmp_path / "model.py"
    own.write_text(TINY.read_text())
    options = replace(_options(tiny_clip, str(CLIPS)), model=f"{own}:clip")
    for _ in range(2):
        pipeline.sensitivity(options, Console(quiet=True), cut=0.5)
    assert called == [0.5], "the second time from the cache"
    own.write_text(TINY.read_text().replace("torch.relu", "torch.sigmoid"))
    pipeline.sensitivity(options, Console(quiet=True), cut=0.5)
    assert called == [0.5, 0.5]


def test_a_gate_on_latency_takes_the_variant_that_fits() -> None:
    steady = Latency(5.5, 6.0, 7.0, 200, 10, 1)
    rows = [_row("jumpy", 5.0), _row("steady", latency=(steady,))]
    assert choice.choose(rows, latency_ms=8.0)[0].variant == "steady"  # jumpy: p50 5, p99 10
    assert choice.choose(rows, latency_ms=None)[0].variant == "jumpy"


def _report(folder: Path) -> Report:
    return decode(Report, json.loads((folder / "measured.json").read_text()))


def _row(name: str, p50: float | None = None, **changes: object) -> Measurement:
    values: dict[str, object] = {
        "variant": name, "target": "cpu", "engine": "onnxruntime", "precision": "fp32", "form": "step",
        "status": "x", "bytes": 100,
        "parity": Parity(0.0, 100.0, 1.0, 100, 80.0, "pass"),
        "latency": (Latency(p50, p50, p50 * 2, 200, 20, 1),) if p50 else (),
        **changes,
    }  # fmt: skip
    return Measurement(**values)  # type: ignore[arg-type]


def _drop(points: float, verdict: str) -> PairedDrop:
    return PairedDrop(points, points - 1, points + 1, 100, 1, 0, 1.0, verdict)  # type: ignore[arg-type]


def test_a_faster_variant_that_loses_accuracy_does_not_run() -> None:
    rows = [_row("slow", 2.0), _row("fast", 1.0, drop=_drop(5.0, "fail"))]
    assert choice.choose(rows, latency_ms=None)[0].variant == "slow"


def test_an_undecided_variant_runs_only_if_what_it_lost_is_within_the_gate() -> None:
    rows = [_row("slow", 2.0), _row("fast", 1.0, drop=_drop(0.5, "inconclusive"))]
    assert choice.choose(rows, latency_ms=None)[0].variant == "fast"
    rows[1] = _row("fast", 1.0, drop=_drop(1.5, "inconclusive"))
    assert choice.choose(rows, latency_ms=None)[0].variant == "slow"
    assert gate.within_gate(rows[1])
    assert "does not run by itself: it lost 1.5 points" in str(gate.inconclusive_reason(rows[1]))
    assert choice.choose(rows[1:], latency_ms=None)[0].variant == "fast"  # nothing else was asked for


def test_slower_int8_is_not_chosen_and_the_reason_says_so() -> None:
    rows = [_row("float", 1.0), _row("small", 1.3, precision="int8")]
    chosen, why = choice.choose(rows, latency_ms=None)
    assert chosen.variant == "float" and "INT8 is slower here (small: 1.30 ms)" in why


def test_int8_in_name_only_is_not_chosen() -> None:
    audit = Audit("x", (ConvPlan("conv", "int8", "float"),))
    rows = [_row("float", 2.0), _row("fake", 1.0, precision="int8", audit=audit)]
    assert choice.choose(rows, latency_ms=None)[0].variant == "float"
    assert "INT8 in name only: all 1 convolutions" in str(gate.gate_failure(rows[1]))


def test_each_gate_raises_its_own_error() -> None:
    bad = Parity(9.0, 3.0, 0.5, 100, 80.0, "fail", first_divergence="conv_3 (1.0 dB)")
    with pytest.raises(ParityError, match=r"3.0 dB of the 80 dB promised; first diverging node: conv_3"):
        choice.choose([_row("a", 1.0, parity=bad)], latency_ms=None)
    with pytest.raises(AccuracyGateError, match=r"the best is a: it loses 5.0 points"):
        choice.choose(
            [_row("a", 1.0, drop=_drop(5.0, "fail")), _row("b", 1.0, drop=_drop(9.0, "fail"))],
            latency_ms=None,
        )
    with pytest.raises(LatencyGateError, match=r"within 1 ms; the nearest is a with p99 2.00 ms"):
        choice.choose([_row("a", 1.0)], latency_ms=1.0)


def test_particles_that_are_wrong_beside_right_logits_are_a_failure() -> None:
    frame, table = TensorSpec("frame", (1, 3, 8, 8)), TensorSpec("particles", (1, 4, 2), "NKC")
    spec = ModelSpec("seen", frame, ("a", "b"), outputs=(TensorSpec("logits", (1, 2), "NC"), table))
    rng = np.random.default_rng(0)
    feeds = [{"frame": rng.standard_normal((1, 3, 8, 8))} for _ in range(3)]
    buffer = np.zeros((1, 4, 2))

    def model(feed: Tensors) -> Tensors:
        buffer[:] = feed["frame"].ravel()[:8].reshape(1, 4, 2)  # as engines do that answer into one buffer
        return {"logits": feed["frame"].reshape(1, -1)[:, :2], "particles": buffer}

    wanted = evaluate.other_answers(model, spec, feeds)
    assert list(wanted) == ["particles"] and wanted["particles"].shape == (3, 4, 2)
    right = Parity(0.0, 100.0, 1.0, 100, 40.0, "pass")
    assert evaluate.with_others(right, wanted, wanted).verdict == "pass"
    wrong = evaluate.with_others(right, wanted, {"particles": wanted["particles"][::-1]})
    assert wrong.verdict == "fail" and wrong.least[0] == "particles"
    assert "parity of particles" in str(gate.gate_failure(_row("a", 1.0, parity=wrong)))


def test_tracks_a_hundredth_of_a_pixel_apart_are_the_same() -> None:
    near = np.full(100, 0.001)
    near[:3] = 5.0  # points that both have lost
    low = Parity(0.1, 79.0, None, 100, 80.0, "fail")
    assert evaluate.with_tracks(low, near).verdict == "pass"
    apart = evaluate.with_tracks(low, near + 0.1)
    assert apart.verdict == "fail" and apart.track_px and round(apart.track_px[0], 3) == 0.101


def test_equal_numbers_settle_the_gate_and_unequal_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    logits = tuple(rng.standard_normal((20, 2)) for _ in range(24))
    spec = ModelSpec("two", TensorSpec("frame", (1, 3, 8, 8)), ("a", "b"), frames=16)
    clips = tuple(EvalClip(rows, i % 2) for i, rows in enumerate(logits))
    evaluation = evaluate.Evaluation(spec, clips, (), True, 16, logits, logits, (), 1.0, 16)
    noisy = [rows + 0.5 * rng.standard_normal(rows.shape) for rows in logits]
    same, close = evaluation.drop(logits, 100.0), evaluation.drop(noisy, 40.0)
    assert same and close
    assert (same.verdict, same.high) == ("pass", 0.0)
    assert close.verdict == "inconclusive" and close.low < 0 < 1 < close.high and close.clips_needed


@pytest.mark.skipif(not SHARED.is_dir(), reason="the labelled clips are not on this machine")
def test_the_whole_test_split_is_judged_where_it_is_present(tmp_path: Path) -> None:
    out = tmp_path / "b"
    # without folding, for which 248 clips more would be decoded
    model = ["export", "pv-conv-nano", "--clips", str(SHARED), "--fold", "0"]
    code = main([*model, "--target", "cpu", "--variant", "onnxruntime-int8", "--out", str(out)])
    assert code == 0
    rows = [r for r in _report(out).rows if r.precision == "int8"]
    assert rows and all(r.accuracy and r.accuracy.n == 52 for r in rows)
    assert all(r.drop and r.drop.points <= 4 for r in rows if gate.within_gate(r))
