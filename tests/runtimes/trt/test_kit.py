"""The kit's way through a device, on the LABELLED FAKES of tensorrt and of CUDA's driver. No GPU is here."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from support import ROOT
from test_claims import script as benchmark
from test_results import missing

from edgepv.base import cache
from edgepv.bundle import golden, manifest
from edgepv.bundle.proof import proven
from edgepv.cli.app import main
from edgepv.data import frames as data_frames
from edgepv.errors import DeviceError, EngineError, ParityError, TargetUnavailableError, UsageError
from edgepv.pipeline import combine
from edgepv.runtimes import open_session
from edgepv.runtimes.trt import bundle, device, kit, measure, store
from edgepv.types import ModelSpec, TensorSpec, Variant, encode

pytestmark = pytest.mark.slow
OnJetson = Callable[..., ModuleType]


@pytest.fixture(autouse=True)
def short_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test looks at a time."""
    monkeypatch.setattr(measure, "WARMUP", 5)


@pytest.fixture
def opened(jetson_bundle: Path) -> bundle.Bundle:
    return bundle.Bundle(jetson_bundle)


def built(opened: bundle.Bundle, only: str | None = None) -> list[str]:
    """What a build says."""
    lines: list[str] = []
    kit.build(opened, lines.append, calls=3, only=only)
    return lines


def files_of(calls: list[tuple[str, object]]) -> list[object]:
    return [value for name, value in calls if name == "flag"]


@pytest.mark.parametrize(
    ("version", "variants", "flags", "network"),
    [
        ("8.5.2", ("tensorrt-fp32", "tensorrt-int8"), ["FP16", "INT8", "FP16"], 1),
        ("8.6.2", ("tensorrt-fp32", "tensorrt-int8"), ["FP16", "INT8", "FP16"], 1),
        ("10.3.0", ("tensorrt-fp32", "tensorrt-int8"), ["FP16", "INT8", "FP16"], 1),
        ("10.13.3", ("tensorrt-fp16", "tensorrt-int8-fp16"), [], 3),
        ("11.4.1", ("tensorrt-fp16", "tensorrt-int8-fp16"), [], 2),
    ],
)
def test_each_tensorrt_is_given_its_file_and_its_flags(
    version: str,
    variants: tuple[str, ...],
    flags: list[str],
    network: int,
    opened: bundle.Bundle,
    on_jetson: OnJetson,
) -> None:
    fake = on_jetson(version)
    lines = built(opened)
    assert [line.split(":")[0] for line in lines if "self-tested" in line] == list(variants)
    assert files_of(fake.calls) == flags
    assert {value for name, value in fake.calls if name == "network"} == {network}


def test_words_are_earned_in_their_order_and_kept_beside_the_engine(
    opened: bundle.Bundle, on_jetson: OnJetson
) -> None:
    on_jetson()
    lines = built(opened)
    said = [next(i for i, line in enumerate(lines) if word in line) for word in store.WORDS]
    assert said == sorted(said)
    here = device.find()
    place = store.folder(opened.model("tensorrt-int8"), here, "int8+fp16")
    status = json.loads((place / "status.json").read_text())
    assert list(status) == ["status", *store.WORDS[1:]] and status["status"] == "benchmarked"
    key = {"model": opened.model("tensorrt-int8").sha256, "tensorrt": "10.3.0", "sm": "8.7", "jetpack": None}
    assert status["built-on-device"]["key"] == {**key, "precision": "int8+fp16"}
    assert status["self-tested"]["layers"] == {"planned": 3, "met": 3, "untold": 0, "others": []}
    times = status["benchmarked"]
    assert times["n"] == 3 and times["p99_ms"] is None, "three calls tell no p99"
    with pytest.raises(
        ValueError, match="benchmarked comes after self-tested, and the engine is host-checked"
    ):
        store.Status(place).earn("benchmarked", {})


def test_an_engine_is_built_once_for_each_key(opened: bundle.Bundle, on_jetson: OnJetson) -> None:
    first = on_jetson()
    built(opened)
    again = on_jetson()
    assert sum("the engine built before is used" in line for line in built(opened)) == 2
    assert ("network", 1) in first.calls and again.calls == []
    other = on_jetson("8.6.2")
    built(opened)
    assert ("network", 1) in other.calls, "another TensorRT is another key"
    on_jetson()
    place = store.folder(opened.model("tensorrt-int8"), device.find(), "int8+fp16")
    (place / store.ENGINE).write_bytes(b"cut off")
    assert any("tensorrt-int8: built-on-device" in line for line in built(opened)), (
        "a damaged one is built again"
    )


def test_tactics_are_remembered_for_the_next_build(opened: bundle.Bundle, on_jetson: OnJetson) -> None:
    fake = on_jetson()
    built(opened)
    assert [value for name, value in fake.calls if name == "timing cache"] == [b"", b"+tactics"]


def test_a_build_that_fails_is_tried_with_less(opened: bundle.Bundle, on_jetson: OnJetson) -> None:
    fake = on_jetson(free=4 << 30)
    fake.script.refuse = 3
    lines = built(opened, only="tensorrt-fp32")
    assert [line for line in lines if "workspace" in line] == [
        "tensorrt-fp32, fp16: all tactics, workspace 2048 MiB",
        "tensorrt-fp32, fp16: a quarter of the workspace, workspace 512 MiB",
        "tensorrt-fp32, fp16: fewer tactics, a sixteenth of the workspace, workspace 128 MiB",
        "tensorrt-fp32, fp16: the fewest tactics, the least workspace, workspace 64 MiB",
    ]
    assert lines.count("tensorrt-fp32: that failed: out of memory") == 3
    assert [value for name, value in fake.calls if name == "level"] == [3, 3, 2, 0]
    assert ("tactic sources", 0) in fake.calls


def test_a_build_that_always_fails_names_every_attempt(opened: bundle.Bundle, on_jetson: OnJetson) -> None:
    fake = on_jetson("8.5.2")  # which knows neither levels nor further streams
    fake.script.refuse = 99
    with pytest.raises(
        EngineError, match=r"builds no engine of tensorrt-fp32, after 4 attempts \(all tactics; .*\): out"
    ):
        built(opened)
    assert not list(store.root().rglob(store.ENGINE)), "nothing half-made lies there"


def test_what_the_parser_refuses_is_said_in_its_words(opened: bundle.Bundle, on_jetson: OnJetson) -> None:
    on_jetson().script.parse_error = "No importer registered for op: Col2Im"
    with pytest.raises(
        EngineError, match="TensorRT 10.3.0 refuses .*op17.onnx: No importer registered for op: Col2Im"
    ):
        built(opened)


def test_a_file_with_weights_elsewhere_reaches_no_parser(
    opened: bundle.Bundle, on_jetson: OnJetson, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = on_jetson()
    model = onnx.load_from_string(opened.checked(opened.model("tensorrt-fp32").path))
    weight = model.graph.initializer[0]
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="/etc/passwd")
    real = bundle.Bundle.checked
    monkeypatch.setattr(
        bundle.Bundle,
        "checked",
        lambda self, name: model.SerializeToString() if name.endswith(".onnx") else real(self, name),
    )
    with pytest.raises(UsageError, match="op17.onnx keeps its weights in another file"):
        built(opened)
    assert ("network", 1) not in fake.calls


def test_an_int8_engine_that_is_float_inside_is_not_kept(opened: bundle.Bundle, on_jetson: OnJetson) -> None:
    fake = on_jetson()
    fake.script.kind = "Half"
    lines = built(opened)
    assert any(
        "tensorrt-int8: not kept: tensorrt-int8 does not run as planned: 0 of 3" in line for line in lines
    )
    assert lines[-1] == "kept: tensorrt-fp32, the only one that is built and proven here"


def test_an_engine_that_answers_in_float_does_not_pass_for_int8(
    opened: bundle.Bundle, on_jetson: OnJetson
) -> None:
    """Its layers say Int8; only its answers give it away."""
    fake = on_jetson()
    fake.script.rest = "Int8"
    fake.script.onnx = opened.checked(opened.model("tensorrt-fp32").path)
    with pytest.raises(ParityError, match="tensorrt-int8 answers otherwise here .* rmse .*, allowed"):
        built(opened, only="tensorrt-int8")
    with pytest.raises(UsageError, match="no engine of this bundle is built and self-tested"):
        kit.bench(opened, lambda line: None, calls=2)


def test_an_engine_that_tells_no_precision_is_proven_by_its_answers_alone(
    opened: bundle.Bundle, on_jetson: OnJetson
) -> None:
    fake = on_jetson()
    fake.script.kind = fake.script.rest = "N/A due to dynamic shapes"
    lines = built(opened, only="tensorrt-int8")
    assert "tensorrt-int8: layers: 0 of 3 as planned, 3 not told" in lines
    assert lines[-1].startswith("kept: tensorrt-int8")
    shutil.rmtree(store.root())
    fake.script.onnx = opened.checked(opened.model("tensorrt-fp32").path)
    with pytest.raises(ParityError, match="tensorrt-int8 answers otherwise here"):
        built(opened, only="tensorrt-int8")


def test_a_proof_that_fails_later_takes_the_words_back(opened: bundle.Bundle, on_jetson: OnJetson) -> None:
    on_jetson()
    built(opened)
    model = opened.model("tensorrt-int8")
    place = store.folder(model, device.find(), "int8+fp16")
    plan = (place / store.ENGINE).read_bytes().replace(b'"Int8"', b'"Half"', 1)
    facts = store.Status.read(place).facts[store.WORDS[1]]
    store.write(place / store.ENGINE, plan)
    store.Status(place).earn(store.WORDS[1], {**facts, "sha256": hashlib.sha256(plan).hexdigest()})
    store.Status.read(place).earn(store.WORDS[2], {})
    built(opened)
    assert store.Status.read(place).word == store.WORDS[1]
    with pytest.raises(TargetUnavailableError, match="no self-tested engine of tensorrt-int8 on this device"):
        kit.open_model(model)


@pytest.mark.parametrize(
    ("machine", "version", "error", "message"),
    [
        ({"devices": 0}, "10.3.0", TargetUnavailableError, "no GPU for TensorRT .*: the driver sees no GPU"),
        ({}, "8.4.3", TargetUnavailableError, "TensorRT 8.4.3 is too old"),
        ({}, "10.2.0", TargetUnavailableError, "TensorRT 10.2.0 is refused"),
        ({"free": 60 << 20}, "10.3.0", DeviceError, "needs about 64 MiB, and 60 MiB are free. Close other"),
    ],
)
def test_what_cannot_be_built_is_one_line(
    machine: dict[str, int], version: str, error: type[Exception], message: str,
    opened: bundle.Bundle, on_jetson: OnJetson,
) -> None:  # fmt: skip
    fake = on_jetson(version, **machine)
    with pytest.raises(error, match=message) as e:
        built(opened)
    assert "\n" not in str(e.value) and ("network", 1) not in fake.calls


def test_an_engine_from_another_device_is_not_opened(opened: bundle.Bundle, on_jetson: OnJetson) -> None:
    fake = on_jetson()
    built(opened)
    model = opened.model("tensorrt-fp32")
    place = store.folder(model, device.find(), "fp16")
    facts = store.Status.read(place).facts[store.WORDS[1]]
    facts["device"]["board"] = "jetson-agx-orin"
    store.Status(place).earn(store.WORDS[1], facts)
    store.Status.read(place).earn(store.WORDS[2], {})
    opens = len(fake.driver.memory)
    with pytest.raises(UsageError, match="built elsewhere .board jetson-agx-orin, here None.*Build it here"):
        kit.open_model(model)
    assert len(fake.driver.memory) == opens
    assert any("tensorrt-fp32: built-on-device" in line for line in built(opened)), "a build replaces it"


def test_what_failed_where_it_was_made_is_not_built(
    opened: bundle.Bundle, on_jetson: OnJetson, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_jetson()
    real = bundle.Bundle.refused
    monkeypatch.setattr(
        bundle.Bundle, "refused", lambda self, m: "it failed its gate" if m.int8 else real(self, m)
    )
    lines = built(opened)
    assert "tensorrt-int8: left out: it failed its gate" in lines
    assert not any("tensorrt-int8:" in line and "built" in line for line in lines)


def test_float16_is_no_flag_unless_the_bundle_asks_for_it(
    opened: bundle.Bundle, on_jetson: OnJetson, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = on_jetson()
    assert opened.half(opened.model("tensorrt-int8")) and opened.half(opened.model("tensorrt-fp32"))
    monkeypatch.setattr(bundle.Bundle, "half", lambda self, model: False)
    lines = built(opened)
    assert files_of(fake.calls) == ["INT8"]
    assert "tensorrt-fp32, fp32: all tactics, workspace 2048 MiB" in lines
    with pytest.raises(ParityError, match="tensorrt-fp32 answers otherwise"):
        fake.script.onnx = opened.checked(opened.model("tensorrt-int8").path)
        shutil.rmtree(store.root())
        built(opened, only="tensorrt-fp32")


def test_without_its_float16_file_a_strongly_typed_build_is_in_float32(
    opened: bundle.Bundle, on_jetson: OnJetson, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = on_jetson("10.13.3")
    fake.script.rest = "Float"
    monkeypatch.setattr(bundle.Bundle, "refused", lambda self, m: "it failed its exam" if m.strong else "")
    lines = built(opened)
    assert "tensorrt-fp16: left out: it failed its exam" in lines
    assert lines[-1] == "kept: tensorrt-fp32, the only one that is built and proven here"
    engine, computes = kit.open_model(opened.model("tensorrt-fp32"))
    engine.close()
    assert computes == "fp32"


def test_a_session_runs_what_was_kept_with_the_answers_of_the_host(
    jetson_bundle: Path, opened: bundle.Bundle, on_jetson: OnJetson, a_clip: Path
) -> None:
    """``edgepv run`` goes by ``proven``, and a Session steps the engine with its states on the device."""
    whole = manifest.read(jetson_bundle)
    pictures = golden.load(whole)["frames"]
    with open_session(whole.variant(engine="onnxruntime", name="tensorrt-int8"), whole.checked) as session:
        wanted = [session.step(frame).scores for frame in pictures]
    fake = on_jetson()
    built(opened, only="tensorrt-int8")
    fit = proven(whole, (whole.variant("tensorrt-fp16"),))
    assert [v.name for v in fit.variants] == ["tensorrt-int8"], "this device keeps another one"
    assert fit.variants[0].engine == "tensorrt"
    with open_session(fit.variants[0], whole.checked) as session:
        got = [session.step(frame).scores for frame in pictures]
        session.reset()
        again = [session.step(frame).scores for frame in pictures]
    assert np.allclose(got, wanted, atol=1e-5) and got == again
    assert "cuGraphLaunch" in fake.driver.calls


def test_a_ladder_is_made_of_what_the_device_kept(
    jetson_bundle: Path, opened: bundle.Bundle, on_jetson: OnJetson
) -> None:
    whole = manifest.read(jetson_bundle)
    other = next(n for n in ("tensorrt-fp32", "tensorrt-int8") if n != whole.variant().name)
    assert combine.part_of(jetson_bundle).chosen == whole.variant(), "nothing was built here"
    on_jetson()
    built(opened, only=other)
    taken = combine.part_of(jetson_bundle)
    assert taken.chosen.name == other
    assert taken.variant.name.endswith(f"-{other}") and other in taken.variant.path


def test_of_a_ladder_the_rungs_run_that_the_device_kept(
    jetson_bundle: Path, opened: bundle.Bundle, on_jetson: OnJetson
) -> None:
    whole = manifest.read(jetson_bundle)
    rungs = (whole.variant("tensorrt-fp32"), whole.variant("tensorrt-int8"))
    on_jetson()
    built(opened)
    assert proven(whole, rungs).variants == rungs
    built(opened, only="tensorrt-int8")
    fit = proven(whole, rungs)
    assert [v.name for v in fit.variants] == ["tensorrt-int8"]
    assert fit.notes == ("tensorrt-fp32 was not kept on this device.",)


def test_a_bundle_that_was_not_built_here_says_so(jetson_bundle: Path, on_jetson: OnJetson) -> None:
    on_jetson()
    whole = manifest.read(jetson_bundle)
    with pytest.raises(
        TargetUnavailableError, match="no self-tested engine of tensorrt-int8 .*edgepv build BUNDLE"
    ):
        proven(whole, (whole.variant("tensorrt-int8"),))
    with pytest.raises(
        TargetUnavailableError, match="tensorrt-fp16 is for TensorRT from 10.12, and 10.3.0 is here"
    ):
        proven(whole, (whole.variant("tensorrt-fp16"),), fixed=True)


def test_golden_answers_are_replayed_by_tensorrt_where_it_is(
    jetson_bundle: Path, opened: bundle.Bundle, on_jetson: OnJetson
) -> None:
    on_jetson()
    built(opened)
    rows = {row.variant: row for row in golden.replay(manifest.read(jetson_bundle))}
    assert {name for name, row in rows.items() if row.skipped is None} == {"tensorrt-fp32", "tensorrt-int8"}
    assert "is for TensorRT from 10.12" in str(rows["tensorrt-fp16"].skipped)
    allowed = rows["tensorrt-fp32"].limit
    assert allowed and allowed > 5 * golden.tolerance("fp32", *two(jetson_bundle)), "it may run in float16"


def two(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    recorded = golden.of_variant(golden.load(manifest.read(folder)), "tensorrt-fp32")
    return recorded["tensorrt-fp32"], recorded["torch"]


def test_verify_and_bench_and_run(
    opened: bundle.Bundle, on_jetson: OnJetson, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on_jetson()
    lines: list[str] = []
    with pytest.raises(UsageError, match="no engine of this bundle is built on this device yet"):
        kit.verify(opened, lines.append)
    with pytest.raises(UsageError, match="nothing was kept for this bundle on this device yet"):
        kit.run(opened, "x.npy", None, lines.append)
    built(opened)
    del lines[:]
    kit.verify(opened, lines.append)
    assert sum("golden answers reproduced" in line and line.endswith("benchmarked") for line in lines) == 2
    assert set(kit.bench(opened, lines.append, calls=2)["times"]) == {"tensorrt-fp32", "tensorrt-int8"}
    pictures = opened.recorded(opened.models[0])["frames"]
    np.save(tmp_path / "clip.npy", pictures)
    assert kit.main(["run", "--bundle", str(opened.folder), str(tmp_path / "clip.npy")]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["frame"] for row in rows] == list(range(len(pictures)))
    assert [row["valid"] for row in rows[:5]] == [False, False, False, True, True]
    assert {row["label"] for row in rows} <= set(opened.models[0].labels)
    opened.content["spec"]["before"] = ["clahe"]
    with pytest.raises(UsageError, match="has clahe before it, which the kit has not. Install edgepv"):
        kit.run(opened, str(tmp_path / "clip.npy"), None, lines.append)


def test_the_commands_do_as_the_kit_does(
    jetson_bundle: Path, on_jetson: OnJetson, run: Callable[..., tuple[int, str, str]], a_clip: Path
) -> None:
    on_jetson()
    code, out, err = run("build", str(jetson_bundle), "--calls", "2")
    assert code == 0, err
    assert "kept: tensorrt-" in out and "not judged, as no clips were given" in out
    code, out, err = run("build", str(jetson_bundle), "--calls", "2", "--json", "--variant", "tensorrt-int8")
    assert code == 0 and json.loads(out)["variant"] == "tensorrt-int8"
    code, out, err = run("verify", str(jetson_bundle))  # in a process of its own, which has no fake
    assert code == 0 and "tensorrt-int8: golden answers reproduced" in out
    code, out, err = run("bench", str(jetson_bundle))
    assert code in (0, 6) and "tensorrt-int8 " in out and "left out: tensorrt-fp16: " in out, err
    code, out, err = run("run", str(jetson_bundle), "--source", str(a_clip))
    assert code == 0 and '"engine": "tensorrt"' in out and '"variant": "tensorrt-int8"' in out, err


def test_bundles_that_are_none_are_one_line(
    jetson_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="is no bundle folder"):
        bundle.Bundle(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(jetson_bundle, copy)
    plan = next(copy.rglob("precision_plan.json"))
    plan.write_text("[]")
    with pytest.raises(UsageError, match="precision_plan.json was changed or is damaged"):
        bundle.Bundle(copy).check()
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text.replace("tiny-step", "tidy-step", 1))
    with pytest.raises(UsageError, match="changed after it was written: digests differ"):
        bundle.Bundle(copy)
    (copy / "manifest.json").write_text(text[:300])
    assert kit.main(["verify", "--bundle", str(copy)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_bundle_that_is_swapped_after_its_check_is_not_built(
    jetson_bundle: Path,
    on_jetson: OnJetson,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What was signed is what is built: the kit reads the manifest again."""
    fake, folder, honest = on_jetson(), shutil.copytree(jetson_bundle, tmp_path / "b"), manifest.check

    def swapped(opened: manifest.Bundle) -> int:
        count = honest(opened)
        manifest.write(folder, replace(opened.content, name="other"), opened.measured)
        return count

    monkeypatch.setattr(manifest, "check", swapped)
    assert main(["build", str(folder), "--calls", "2"]) == 2
    assert "was changed while it was checked" in capsys.readouterr().err
    assert fake.calls == []


def test_the_kits_arithmetic_is_the_products(jetson_bundle: Path) -> None:
    """What Python 3.8 cannot import is written anew in it: both must say the same."""
    whole = manifest.read(jetson_bundle)
    kits = bundle.Bundle(jetson_bundle)
    recorded = golden.load(whole)
    assert kits.digest == whole.digest and kits.target == whole.content.target
    assert store.root() == cache.root() / "tensorrt"
    assert (bundle.VALUES, bundle.SCHEMA, bundle.GOLDEN) == (golden.VALUES, manifest.SCHEMA, manifest.GOLDEN)
    for variant, model in zip(whole.content.variants, kits.models):
        own = golden.of_variant(recorded, variant.name)
        theirs = kits.recorded(model)
        assert all(
            np.array_equal(own[a], theirs[b])
            for a, b in (("frames", "frames"), ("torch", "torch"), (variant.name, "own"))
        )
        assert bundle.limit(theirs, model, variant.precision) == golden.tolerance(
            variant.precision, own[variant.name], own["torch"]
        )
        for colour in ("rgb", "bgr"):
            spec = ModelSpec(**{**vars(variant.spec), "colour": colour})
            changed = bundle.Model(**{**vars(model), "colour": colour})
            frame = own["frames"][0]
            assert np.array_equal(bundle.preprocess(frame, changed), data_frames.preprocess(frame, spec))


def test_grey_is_opencvs_grey() -> None:
    import cv2

    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (64, 48, 3), np.uint8)
    spec = ModelSpec("m", TensorSpec("f", (1, 1, 64, 48)), ("a",), colour="grey", mean=(0.0,), std=(1.0,))
    variant = Variant(
        "m", "tensorrt", "fp32", "window", "m.onnx", "", spec, None, {"f": "f"}, {"logits": "l"}
    )
    model = bundle.model_of(encode(variant))
    grey = np.rint(bundle.preprocess(frame, model)[0, 0] * 255)
    assert np.array_equal(grey, cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY))


def test_the_benchmark_for_a_board_notes_what_came_out_and_what_was_refused(
    jetson_bundle: Path,
    on_jetson: OnJetson,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("benchmark_jetson", ROOT / "benchmarks" / "jetson.py")
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "OUT", tmp_path / "jetson.json")
    for machine in ({}, {"devices": 0}):
        on_jetson(**machine)
        monkeypatch.setattr("sys.argv", ["jetson.py", str(jetson_bundle), "--calls", "2"])
        script.main()
    result = json.loads((tmp_path / "jetson.json").read_text())
    assert missing(result) == set(), "it can be committed as it is"
    rows = result["rows"]
    assert rows[0]["found"]["variant"] in rows[0]["said"][-1] and "no GPU for TensorRT" in rows[1]["refused"]
    lines = script.table(rows).splitlines()
    assert len(lines) == 5 and sum(line.endswith("| yes | kept |") for line in lines) == 1
    assert "not known, not known, 10.3.0, not known | tensorrt-int8 |" in lines[3]
    assert benchmark("results").says_jetson(result).endswith(f"; {jetson_bundle.name}: refused")


def test_the_tests_that_wait_for_a_gpu_pass_on_the_fakes(
    jetson_bundle: Path, on_jetson: OnJetson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They run nowhere else until a GPU is at hand, and a slip in them would be found only there."""
    on_jetson()
    path = ROOT / "tests" / "hardware" / "test_gpu.py"
    spec = importlib.util.spec_from_file_location("waiting_for_a_gpu", path)
    assert spec and spec.loader
    waiting = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(waiting)
    try:
        waiting.test_the_driver_records_copies_and_replays_them()
        waiting.test_a_bundle_is_built_proven_and_run(jetson_bundle, tmp_path, monkeypatch)
    except pytest.skip.Exception as e:
        pytest.fail(f"it would be skipped on the device: {e}")
