"""Bad input is one clear line with the right exit code, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from support import TINY, Run, Tiny

from edgepv.cli import show
from edgepv.cli.app import main
from edgepv.data.video import read_video
from edgepv.types import Latency, PairedTime, Ratio


def refused(result: tuple[int, str, str], code: int, *words: str) -> None:
    """The command ended with ``code`` and one line on stderr that holds every word."""
    got, _, err = result
    lines = [line for line in err.splitlines() if line.startswith("edgepv:")]
    assert got == code, err
    assert len(lines) == 1 and "Traceback" not in err, err
    for word in words:
        assert word in lines[0], lines[0]


@pytest.mark.slow
def test_running_a_bundle_imports_no_torch(step_bundle: Path, a_clip: Path) -> None:
    code = (
        "import sys; from edgepv.cli import main\n"
        f"assert main(['run', {str(step_bundle)!r}, '--source', {str(a_clip)!r}]) == 0\n"
        "print(sorted({'torch', 'nncf', 'litert_torch', 'onnx'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_unknown_names_suggest_the_right_one(run: Run, tmp_path: Path) -> None:
    refused(run("export", "--target", "jetsn"), 2, "unknown target 'jetsn'", "Did you mean 'jetson'?")
    refused(run("export", "pv-conv-smal"), 2, "unknown model", "Did you mean 'pv-conv-small'?")
    refused(run("exprt"), 2, "invalid choice")
    refused(run("export", "--precision", "int4"), 2, "cpu has no precision 'int4'", "fp32")
    refused(run("export", "--target", "cpu,cpu"), 2, "different names")
    refused(run(), 2, "COMMAND")


def test_missing_files_are_named(run: Run, tmp_path: Path, tiny_step: Tiny) -> None:
    none = tmp_path / "none"
    refused(run("run", none, "--source", "x.mp4"), 2, "does not exist")
    refused(run("verify", none), 2, "does not exist")
    refused(run("report", none), 2, "none")
    refused(
        run("export", f"{none}.py:f", "--weights", tiny_step.weights, "--spec", tiny_step.spec), 2, "none.py"
    )
    refused(run("export", f"{TINY}:stepper", "--weights", none, "--spec", tiny_step.spec), 2, "--weights")
    refused(run("export", f"{TINY}:stepper", "--weights", tiny_step.weights, "--spec", none), 2, "--spec")
    refused(run("export", f"{TINY}:stepper"), 2, "needs its weights")
    refused(run("export", "--clips", none), 2, "not a folder")
    refused(run("export", "person-detector", "--clips", none), 2, "--clips wants a folder of", "pictures")
    refused(run("export", "--clips", ""), 2, "--clips is empty. Give it a folder of")
    refused(run("export", "--footage", ""), 2, "--footage is empty. Give it a folder of")
    refused(run("export", "--config", none), 2, "--config")
    refused(run("export", f"{none}.onnx", "--spec", tiny_step.spec), 2, "does not exist")


def test_a_bundle_runs_only_on_videos(run: Run, step_bundle: Path, tmp_path: Path) -> None:
    text = tmp_path / "x.txt"
    text.write_text("hello")
    refused(run("run", step_bundle, "--source", text), 2, "not a video suffix")
    junk = tmp_path / "x.mp4"
    junk.write_bytes(b"junk" * 1000)
    refused(run("run", step_bundle, "--source", junk), 2, "x.mp4")
    refused(run("run", step_bundle, "--source", tmp_path / "none.mp4"), 2, "does not exist")


def test_bad_builders_are_named(run: Run, tiny_clip: Tiny) -> None:
    rest = ["--weights", tiny_clip.weights, "--spec", tiny_clip.spec]
    refused(run("export", f"{TINY}:broken", *rest), 12, "raised RuntimeError: the config file is missing")
    refused(run("export", f"{TINY}:not_a_module", *rest), 12, "returned str, not a torch module")
    refused(run("export", f"{TINY}:nothing", *rest), 2, "has no function 'nothing'")
    refused(run("export", "no.such.package:f", *rest), 2, "cannot be imported")
    refused(run("export", f"{TINY}:stepper", *rest), 2, "does not fit")


def test_bad_specs_are_named(run: Run, tiny_step: Tiny, tmp_path: Path) -> None:
    good = tiny_step.spec.read_text()
    for old, new, word in [
        ("labels", "lables", "Did you mean 'labels'?"),
        ("frames = 4", "frames = 'x'", "expected a int"),
        ("[1, 3, 32, 32]", "[1, 3, 32]", "does not fit layout"),
        ("[0.225, 0.225, 0.225]", "[0.0, 0.225, 0.225]", "above 0"),
        ('["fight", "no_fight"]', '["fight"]', "two different names"),
        ('["fight", "no_fight"]', '["a", "b", "c"]', "3 labels need (1, 3)"),
        ("name =", "name", "not valid TOML"),
    ]:
        spec = tmp_path / "spec.toml"
        spec.write_text(good.replace(old, new))
        result = run(
            "export", tiny_step.model, "--weights", tiny_step.weights, "--spec", spec, "--out", tmp_path / "o"
        )
        refused(result, 2, word)
    assert not (tmp_path / "o").exists()


def test_bad_weights_are_named(run: Run, tiny_step: Tiny, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    good = load_file(tiny_step.weights)
    rest = ["--spec", tiny_step.spec, "--out", tmp_path / "o", "--weights"]
    nan = tmp_path / "nan.safetensors"
    save_file({**good, "head.bias": np.array([np.nan, 0], np.float32)}, nan)
    refused(run("export", tiny_step.model, *rest, nan), 12, "'head.bias' has values that are not finite")
    short = tmp_path / "short.safetensors"
    short.write_bytes(tiny_step.weights.read_bytes()[:-10])
    refused(run("export", tiny_step.model, *rest, short), 2, "cannot be read")
    missing = tmp_path / "missing.safetensors"
    save_file({k: v for k, v in good.items() if k != "head.bias"}, missing)
    refused(run("export", tiny_step.model, *rest, missing), 2, "head.bias")
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_a_pickle_is_refused_unless_trusted(run: Run, tiny_step: Tiny, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    pickled = tmp_path / "w.pt"
    torch.save(load_file(tiny_step.weights), pickled)
    arguments = [
        "export",
        tiny_step.model,
        "--weights",
        pickled,
        "--spec",
        tiny_step.spec,
        "--out",
        tmp_path / "o",
    ]
    refused(run(*arguments), 2, "--trust-pickle")
    precision = "--precision", "fp32"
    plain = "export", *tiny_step.arguments, *precision, "--out", tmp_path / "plain"
    assert run(*plain)[0] == 0  # the same weights in another file: what was kept of it serves both
    code, _, err = run(*arguments, "--trust-pickle", *precision)
    assert code == 0, err
    manifest = json.loads((tmp_path / "o" / "manifest.json").read_bytes())
    assert manifest["content"]["steps"][0]["name"] == "load"


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch evil",)


def test_a_trusted_pickle_still_runs_no_code(
    run: Run, tiny_step: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pickle

    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"x": _Evil()}))
    result = run(
        "export", tiny_step.model, "--weights", "evil.pt", "--spec", tiny_step.spec, "--trust-pickle"
    )
    refused(result, 2, "evil.pt")
    assert not (tmp_path / "evil").exists()


@pytest.mark.slow
def test_an_operator_no_converter_takes_is_named(run: Run, tiny_clip: Tiny, tmp_path: Path) -> None:
    result = run(
        "export", f"{TINY}:fourier", "--weights", tiny_clip.weights, "--spec", tiny_clip.spec,
        "--out", tmp_path / "o",
    )  # fmt: skip
    refused(result, 12, "cannot convert", "svd")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_never_overwritten(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    refused(run("export", "--out", out), 2, "already exists")
    refused(run("export", "--out", out, "--force"), 2, "is not a bundle; --force replaces bundles only")
    assert (out / "thesis.txt").read_text() == "years of work"
    (tmp_path / "b.zip").write_text("precious")
    refused(run("export", "--out", tmp_path / "b"), 2, "b.zip already exists")


def test_an_original_that_overflows_on_real_clips_is_named(run: Run, tiny_step: Tiny, tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("Mul", ["frame", "big"], ["loud"]),
        onnx.helper.make_node("GlobalAveragePool", ["loud"], ["mean"]),
        onnx.helper.make_node("Flatten", ["mean"], ["flat"]),
        onnx.helper.make_node("MatMul", ["flat", "head"], ["logits"]),
    ]
    sides = {"frame": [1, 3, 32, 32], "logits": [1, 2]}
    frame, logits = (onnx.helper.make_tensor_value_info(n, 1, shape) for n, shape in sides.items())
    big = [np.array(1e38, np.float32), np.full((3, 2), 1e30, np.float32)]
    weights = [onnx.numpy_helper.from_array(a, n) for a, n in zip(big, ("big", "head"))]
    graph = onnx.helper.make_graph(nodes, "g", [frame], [logits], weights)
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, ir_version=9, opset_imports=opset), tmp_path / "loud.onnx")
    arguments = ["--spec", tiny_step.spec, "--precision", "fp32", "--out", tmp_path / "b"]
    refused(run("export", tmp_path / "loud.onnx", *arguments), 12, "the original itself answers NaN or inf")
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_force_replaces_a_bundle(run: Run, tiny_step: Tiny, tmp_path: Path) -> None:
    arguments = ["export", *tiny_step.arguments, "--precision", "fp32", "--out", tmp_path / "b"]
    assert run(*arguments)[0] == 0
    refused(run(*arguments), 2, "already exists")
    assert run(*arguments, "--force")[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "b.zip"]


@pytest.mark.slow
def test_int8_of_ones_own_labels_needs_ones_own_clips(run: Run, tiny_step: Tiny, tmp_path: Path) -> None:
    spec = tmp_path / "s.toml"
    spec.write_text(tiny_step.spec.read_text().replace('"fight", "no_fight"', '"open", "shut"'))
    arguments = [
        "export",
        tiny_step.model,
        "--weights",
        tiny_step.weights,
        "--spec",
        spec,
        "--out",
        tmp_path / "b",
    ]
    refused(run(*arguments, "--precision", "int8"), 2, "needs clips like those its camera will see")
    code, out, err = run(*arguments)
    assert code == 0, err
    assert "-int8" not in out and "not measured" in out  # nothing was labelled, so no accuracy is claimed


def test_pruning_without_training_clips_is_refused(run: Run, tmp_path: Path) -> None:
    done = run("export", "--prune", 0.25, "--out", tmp_path / "b")
    refused(done, 2, "--prune, --tune-epochs and --qat need training clips")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (["--max-drop", "0"], 6, ""),
        (["--latency-ms", "0.000001"], 4, "no artifact answers within"),
        (["--max-drop", "-1"], 2, "0 or more"),
        (["--seed", "x"], 2, "is no whole number"),
    ],
)
def test_gates_end_with_their_own_exit_code(
    run: Run, tiny_step: Tiny, tmp_path: Path, options: list[str], code: int, word: str
) -> None:
    """No number of clips can show that INT8 loses nothing at all, so that gate is inconclusive."""
    precision = ["--precision", "int8"] if code == 6 else ["--precision", "fp32"]
    got, _, err = run("export", *tiny_step.arguments, *options, *precision, "--out", tmp_path / "b")
    assert got == code, err
    assert word in err
    assert (tmp_path / "b").exists() == (code == 6)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (
            ["--min-sqnr", "30", "--target", "jetson,mobile"],
            "--min-sqnr is heeded by INT8 for cpu and firmware only",
        ),
        (["--keep-float", "2", "--target", "jetson"], "--keep-float is heeded"),
        (["--ranges", "mse", "--target", "mobile"], "--ranges is heeded"),
        (["--min-sqnr", "inf"], "--min-sqnr inf"),
        (["--latency-ms", "inf"], "--latency-ms inf"),
        (
            ["--prefer", "speeed"],
            "unknown --prefer 'speeed'. Known: memory, size, speed. Did you mean 'speed'?",
        ),
        (["--size", "100000"], "--size 100000"),
        (["--every", "9" * 30], "--every 999"),
        (["--multiple", "9" * 30], "--multiple 999"),
        (["--tune-epochs", "10001"], "--tune-epochs 10001: give a number up to 10000"),
        (["--out", "/"], "--out /: give a name of its own"),
        (["--out", "x" * 201], "of at most 200 bytes"),
        (["--out", "/dev/null", "--force"], "--out /dev/null is a pipe or a device"),
        (["--out", "a\0b"], "holds a character that no name can have"),
        (["--clips", "\ud800"], "holds a character that no name can have"),
        (["--out", "link"], "--out link is a link that leads nowhere"),
    ],
)
def test_options_that_cannot_be_kept_are_refused_before_the_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("nowhere")
    refused(run("export", "pv-conv-nano-fight", *options), 2, word)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link"]


def test_a_target_whose_tools_are_missing_is_exit_7(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from edgepv.pipeline import options

    monkeypatch.setattr(options, "present", lambda module: module != "litert_torch")
    result = run("export", "--target", "mobile", "--out", tmp_path / "b")
    refused(result, 7, "needs litert_torch", "pip install 'edgepv[compress]'")


@pytest.mark.parametrize(
    "arguments",
    [
        ["stream", f"{TINY}:clip", "--clip", f"{10**30}x32"],
        ["stream", f"{TINY}:clip", "--clip", f"{'9' * 5000}x32"],
        ["stream", f"{TINY}:clip", "--clip", "4x32", "--every", "9" * 30],
        ["run", "bundle", "--source", ".", "--cpus", "9" * 5000],
        ["keygen", "/"],
        ["keygen", "k\0.pem"],
        ["verify", "\ud800", "--key", "k"],
        ["update", "root", "bundle", "--p99-ms", "nan"],
        ["ladder", "a", "b", "--out", "/dev/null", "--force"],
        ["export", "--config", "huge.toml"],
        ["export", "--config", "deep.toml"],
        ["export", "--config", "nul.toml"],
    ],
)
def test_what_no_name_and_no_number_can_be_is_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("huge.toml").write_text(f"seed = {'9' * 5000}\n")
    Path("deep.toml").write_text(f"prune = {'[' * 5000}\n")
    Path("nul.toml").write_text('out = "a\\u0000b"\n')
    refused(run(*arguments), 2)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["os._exit(0)", "__import__('posix')._exit(0)"])
def test_a_builder_that_ends_the_process_is_no_success(tmp_path: Path, call: str) -> None:
    (tmp_path / "net.py").write_text(f"import os\ndef build():\n    {call}\n")
    process = _start(["stream", f"{tmp_path}/net.py:build", "--clip", "4x32"])
    out, err = process.communicate(timeout=60)
    refused((process.returncode, out, err), 12, "called sys.exit or os._exit")


@pytest.mark.parametrize("odd", ["SystemExit(0)", "GeneratorExit", "BaseException"])
def test_a_model_that_raises_anything_when_it_runs_is_one_line(run: Run, tmp_path: Path, odd: str) -> None:
    forward = f"    def forward(self, x):\n        raise {odd}\n"
    (tmp_path / "net.py").write_text(f"import torch\nclass Net(torch.nn.Module):\n{forward}")
    code, _, err = run("stream", f"{tmp_path}/net.py:Net", "--clip", "4x32")
    assert code in (1, 12) and [line[:7] for line in err.splitlines()][-1] == "edgepv:"


def test_a_command_keeps_its_temporary_files_in_a_folder_that_goes(run: Run, tmp_path: Path) -> None:
    says = "import tempfile\ndef build():\n    raise ValueError(tempfile.mkdtemp())\n"
    (tmp_path / "net.py").write_text(says)
    _, _, err = run("stream", f"{tmp_path}/net.py:build", "--clip", "4x32")
    folder = Path(err.split("ValueError: ")[1].partition(". Fix")[0])
    assert folder.parent.name.startswith(".scratch.") and not folder.parent.exists()


def test_children_of_a_command_end_by_os_exit_as_ever() -> None:
    from edgepv.cli.app import _no_silent_end

    with _no_silent_end():
        child = os.fork()
        if child == 0:
            os._exit(5)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
        with pytest.raises(SystemExit):
            os._exit(5)


def test_an_internal_error_is_one_line_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgepv.base.registry import Registry

    monkeypatch.setattr(Registry, "every", lambda self: 1 / 0)
    refused(run("targets"), 1, "internal error: ZeroDivisionError", "EDGEPV_DEBUG=1")


def test_a_dry_run_prints_the_plan_and_makes_nothing(run: Run, tiny_step: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "b"
    code, text, _ = run(
        *("export", *tiny_step.arguments, "--dry-run", "--json", "--out", out),
        *("--target", "cpu,mobile", "--prefer", "size"),
    )
    plan = json.loads(text)
    assert code == 0 and plan["model"] == "tiny-step" and plan["prune"] == "off"
    assert plan["prefer"] == "size"
    assert plan["bundles"] == f"{out}/cpu, {out}/mobile" and not out.exists()


def test_a_config_file_gives_options_and_the_command_line_wins(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('targets = ["mobile"]\nprecision = "int8"\nmax_drop = 2.0\n')
    _, text, _ = run("export", "--config", config, "--precision", "fp32", "--dry-run", "--json")
    plan = json.loads(text)
    assert plan["precisions"] == "mobile: fp32" and plan["gate"].startswith("at most 2 points")
    config.write_text("precison = 'int8'\n")
    refused(run("export", "--config", config, "--dry-run"), 2, "Did you mean 'precision'?")


@pytest.mark.slow
def test_json_is_the_only_thing_on_stdout(run: Run, tiny_step: Tiny, tmp_path: Path) -> None:
    code, text, _ = run(
        "export", *tiny_step.arguments, "--precision", "fp32", "--json", "--out", tmp_path / "b"
    )
    found = json.loads(text)
    assert code == 0 and found[0]["target"] == "cpu" and len(found[0]["digest"]) == 64


def test_every_command_ends_with_what_to_paste_next(run: Run, step_bundle: Path, a_clip: Path) -> None:
    for command in (["targets"], ["models"], ["doctor"], ["inspect", step_bundle], ["verify", step_bundle]):
        code, _, err = run(*command)
        assert code == 0
        assert "next:\n  edgepv " in err or "next:\n  pip install" in err, command


def test_models_lead_with_cross_validation_and_say_what_the_test_clips_show(run: Run) -> None:
    code, out, _ = run("models")
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert code == 0 and "not measured" in rows["pv-conv-nano-handwash"]
    small = rows["pv-conv-small-handwash"]
    assert small.index("57.7 % (folds of 53.2 to 64.7 %") < small.index("89.7 % (79.5 to 95.2, n 146 in 16 g")
    assert "one sink that trained" in small and "renders" in rows["pv-track-nano"]


def test_run_prints_json_lines_and_a_summary(
    run: Run, step_bundle: Path, a_clip: Path, tmp_path: Path
) -> None:
    code, out, err = run(
        "run", step_bundle, "--source", a_clip, "--deadline-ms", 1000, "--video", tmp_path / "o.mp4"
    )
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    answers, summary = lines[:-1], lines[-1]
    assert {a["type"] for a in answers} == {"answer"} and summary["type"] == "summary"
    assert [a["valid"] for a in answers[:4]] == [False, False, False, True]
    assert summary["frames_answered"] == len(answers) and summary["missed"] == 0
    assert summary["p50_ms"] > 0 and len(answers) < 130
    assert summary["p95_ms"] is summary["p99_ms"] is None, "so few answers tell of no such percentile"
    assert f"p50 {summary['p50_ms']:.2f} ms on 1 thread" in err
    assert len(read_video(tmp_path / "o.mp4").frames) == summary["frames_read"]


def test_nothing_is_written_over_an_input(run: Run, step_bundle: Path, a_clip: Path, tmp_path: Path) -> None:

    clip = Path(shutil.copy(a_clip, tmp_path / "c.mp4"))
    refused(run("run", step_bundle, "--source", clip, "--video", clip), 2, "is the source itself")
    assert clip.read_bytes() == a_clip.read_bytes()
    refused(run("report", step_bundle, "--html", step_bundle / "report.html"), 2, "would change a bundle")
    measured = Path(shutil.copy(step_bundle / "measured.json", tmp_path / "measured.json"))
    refused(
        run("report", measured, "--html", tmp_path / "measured.html"), 2, "would change a bundle or an input"
    )
    refused(run("report", step_bundle, "--html", tmp_path / "x.md"), 2, "three different files")


def test_inspect_as_json_is_the_manifest(run: Run, step_bundle: Path) -> None:
    code, out, _ = run("inspect", step_bundle, "--json")
    assert code == 0 and json.loads(out)["content"]["target"] == "cpu"


def test_unknown_variants_and_engines_of_a_bundle(run: Run, step_bundle: Path, a_clip: Path) -> None:
    refused(run("run", step_bundle, "--source", a_clip, "--variant", "x"), 2, "unknown variant 'x'")
    refused(run("run", step_bundle, "--source", a_clip, "--engine", "litert"), 2, "unknown engine 'litert'")
    refused(run("run", step_bundle, "--source", a_clip, "--threads", "0"), 2, "--threads 0")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--threads", "0"),
        ("--threads", "100000"),
        ("--deadline-ms", "0"),
        ("--rate", "inf"),
        ("--rate", "nan"),
        ("--limit", "0"),
    ],
)
def test_a_bench_of_nothing_is_refused(run: Run, step_bundle: Path, option: str, value: str) -> None:
    refused(run("bench", step_bundle, "--live", option, value), 2, option)


def test_inspect_says_what_the_variant_was_chosen_by(run: Run, step_bundle: Path) -> None:
    _, out, _ = run("inspect", step_bundle)
    (line,) = (line for line in out.splitlines() if line.startswith("runs "))
    assert "; chosen by speed; accuracy gate: " in line


def test_bench_shows_shares_of_the_fastest_float_and_what_is_not_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    busy = "machine was busy (load 3.1 on 2 cores, others used 1.4 of them, steal 12 %)"
    pairs = (PairedTime("slow-fp32", Ratio(0.2, 0.1, 0.3)), PairedTime("fast-fp32", Ratio(0.43, 0.41, 0.45)))
    show.latencies(
        {
            "slow-fp32": Latency(9.0, 9.5, None, 201, 6, 1, cpu_ms=9.0),
            "fast-fp32": Latency(4.0, 4.5, None, 201, 6, 1, cpu_ms=4.1),
            "int8": Latency(1.7, 1.9, 2.5, 663, 6, 1, cpu_ms=1.8, ratios=pairs, inconclusive=busy),
        }
    )
    head, _, slow, fast, int8, last = capsys.readouterr().out.splitlines()
    assert "of fast-fp32 (95 %)" in head
    assert slow.split()[4:7] == ["measured", "9.000", "not"] and fast.split()[6:] == ["1", "201", "1"]
    assert "1.800   0.43 (0.41 to 0.45)" in int8
    assert last == f"inconclusive: {busy}. Measure again on an idle machine"


def test_what_is_next_can_be_pasted(run: Run, step_bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(step_bundle, tmp_path / "front door")
    _, _, err = run("inspect", copy)
    assert f"  edgepv verify '{copy}'" in err.splitlines()


def _start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgepv", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_listen_to_ctrl_c,
    )


def _listen_to_ctrl_c() -> None:
    """A shell starts what runs in the background with SIGINT ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing_half_written(tiny_step: Tiny, tmp_path: Path, how: signal.Signals) -> None:
    process = _start(["export", *tiny_step.arguments, "--out", str(tmp_path / "b")])
    assert process.stderr
    for line in process.stderr:
        if "lower" in line or "running" in line:
            break
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped" in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_killed_export_goes_on_to_the_same_bundle(
    tiny_step: Tiny, step_bundle: Path, tmp_path: Path
) -> None:
    from edgepv.bundle.manifest import read

    arguments = ["export", *tiny_step.arguments, "--out", str(tmp_path / "b")]
    process = _start(arguments)
    assert process.stderr
    for line in process.stderr:
        if "int8" in line:
            break
    process.kill()
    process.wait()
    assert not (tmp_path / "b").exists()
    assert main(arguments) == 0
    assert read(tmp_path / "b").digest == read(step_bundle).digest


def test_a_video_is_finished_when_nobody_reads_the_lines(
    step_bundle: Path, a_clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "seen.mp4"
    process = _start(["run", str(step_bundle), "--source", str(a_clip), "--video", str(out)])
    assert process.stdout and process.stderr
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) == 0 and "Traceback" not in err
    assert len(read_video(out).frames) == len(read_video(a_clip).frames)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_one_line_and_leaves_nothing(run: Run, tiny_step: Tiny, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("this container may not mount a tmpfs")
    try:
        result = run("export", *tiny_step.arguments, "--precision", "fp32", "--out", small / "b")
        refused(result, 14, "No space left on device", "Free disk space")
        assert list(small.iterdir()) == []
    finally:
        time.sleep(0.1)
        subprocess.run(["umount", str(small)], check=True)


def test_stream_tells_a_conversion_layer_by_layer(run: Run) -> None:
    """A 3-frame convolution with padding and a mean over 4 frames: 4 + 2 frames, the last of them late."""
    code, out, err = run("stream", f"{TINY}:clip", "--clip", "4x32")
    assert code == 0, err
    (conv,) = [line.split() for line in out.splitlines() if line.startswith("conv")]
    assert conv[:8] == ["conv", "conv3d", conv[2], "1", "1", "2", "x", "3x32x32"]
    assert conv[2].startswith("tiny.py:")
    (frame,) = [line.split() for line in out.splitlines() if line.startswith("1 frame ")]
    assert frame[4:6] == ["4.0x", "4x"]
    words = " ".join(out.split())
    assert "exact after a delay of 1 frame, away from the ends" in words
    assert "not valid before 6 frames" in words and "next:" in err


def test_stream_takes_weights_and_a_spec_and_then_knows_seconds(run: Run, tiny_clip: Tiny) -> None:
    code, out, err = run("stream", *tiny_clip.arguments)
    assert code == 0, err
    words = " ".join(out.split())
    assert "a delay of 1 frame (0.1 s)" in words and "before 6 frames (0.6 s)" in words


def test_stream_as_json_is_the_only_thing_on_stdout(run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "time.png"
    code, out, err = run(
        "stream", f"{TINY}:clip", "--clip", "4x32", "--every", 4, "--json", "--picture", picture
    )
    found = json.loads(out)
    assert code == 0, err
    assert (found["tier"], [s["every"] for s in found["streams"]]) == ("stream", [4])
    assert found["streams"][0]["layers"][0]["rows"] == [3, 2, 1, 0]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_a_builder_prints_is_not_on_the_stdout_of_json(run: Run, tmp_path: Path) -> None:
    builder = tmp_path / "loud.py"
    builder.write_text(f"""import sys; sys.path.insert(0, {str(TINY.parent)!r})
import tiny
print("imported")
def build():
    print("built")
    net = tiny.clip()
    net.register_forward_pre_hook(lambda *_: print("called"))
    return net
""")
    code, out, err = run("stream", f"{builder}:build", "--clip", "4x32", "--json")
    assert code == 0 and json.loads(out)["tier"] == "stream"
    assert "imported" in err and "built" in err


def test_stream_with_a_running_mean_says_that_it_is_approximate(run: Run) -> None:
    _, out, _ = run("stream", f"{TINY}:clip", "--clip", "4x32", "--pool", "running")
    assert "approximate, because of aten.mean (tiny.py:" in " ".join(out.split())


def test_stream_of_a_model_that_steps_says_so(run: Run, tiny_step: Tiny) -> None:
    """States of 1 x 8 x 1 x 256 and 1 x 3 x 8 floats."""
    code, out, _ = run("stream", *tiny_step.arguments)
    assert code == 0 and "nothing to convert" in out
    assert "2 states, 8.1 KB" in out and "not valid before 4 frames" in out


def test_stream_of_a_model_that_cannot_says_why_and_what_the_window_costs(run: Run, tmp_path: Path) -> None:
    code, out, err = run("stream", f"{TINY}:fourier", "--clip", "4x32", "--picture", tmp_path / "x.png")
    assert code == 0 and "aten.linalg_svd (tiny.py:" in out
    assert "computes each frame 4 times" in " ".join(out.split())
    assert "no picture" in err and list(tmp_path.iterdir()) == []


def test_bad_options_of_stream_are_one_line(run: Run, tiny_clip: Tiny, tmp_path: Path) -> None:
    clip = f"{TINY}:clip"
    refused(run("stream"), 2, "MODEL")
    refused(run("stream", "pv-c3"), 2, "Did you mean 'pv-c3d'?")
    refused(run("stream", "pv-c3d", "--clip", "16x112"), 2, "drop --clip")
    refused(run("stream", "net.onnx"), 2, "Give the builder")
    refused(run("stream", clip), 2, "--spec FILE.toml, or --clip FRAMESxSIZE")
    refused(run("stream", clip, "--clip", "4x32", "--spec", tiny_clip.spec), 2, "or --clip")
    for wrong in ("16", "0x112", "ax112", "16x112x3"):
        refused(run("stream", clip, "--clip", wrong), 2, f"--clip {wrong}: give frames and size")
    refused(run("stream", clip, "--clip", "4x32", "--every", 0), 2, "--every 0")
    refused(run("stream", clip, "--clip", "4x32", "--pool", "max"), 2, "invalid choice: 'max'")
    refused(run("stream", clip, "--clip", "4x32", "--picture", tmp_path / "x.gif"), 2, ".png or .svg")
    refused(run("stream", f"{TINY}:not_a_module", "--clip", "4x32"), 12, "not a torch module")
    refused(run("stream", f"{TINY}:stepper", "--clip", "4x32"), 12, "does not run on an input of shape")
    refused(run("stream", clip, "--spec", tiny_clip.spec, "--weights", tmp_path / "none"), 2, "--weights")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_layer_that_never_fires_costs_the_int8_and_says_so(
    run: Run, tiny_step: Tiny, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(tiny_step.weights)
    weights["last.weight"].zero_()
    weights["last.bias"].zero_()
    dead = tmp_path / "dead.safetensors"
    save_file(weights, dead)
    model = ("export", tiny_step.model, "--weights", dead, "--spec", tiny_step.spec)
    refused(run(*model, "--precision", "int8", "--out", tmp_path / "b"), 12, "layer", "no range for INT8")
    assert run(*model, "--out", tmp_path / "b")[0] == 0
    report = (tmp_path / "b" / "report.md").read_text()
    assert "no INT8" in report and "onnxruntime-int8" not in report


def test_the_2_4_pattern_is_told_layer_by_layer(run: Run, tiny_step: Tiny) -> None:
    code, out, _ = run("sensitivity", *tiny_step.arguments, "--sparsity")
    assert code == 0 and "0 of" in out.splitlines()[-1]
    assert "stem" in out and "not possible" in out  # three colours are no group of four
