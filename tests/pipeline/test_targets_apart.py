"""With several targets, and with several variants of one, what can be made is made; the rest says why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support import TINY, Run, Tiny, drifts

from edgepv.base import isolated
from edgepv.bundle.manifest import check, read
from edgepv.errors import AccuracyGateError
from edgepv.export import for_cpu
from edgepv.metrics import choice

pytestmark = pytest.mark.slow

KILLED = """
import os, signal, sys
from tiny import TinyStep

class Killed(TinyStep):
    def step(self, *a):
        alone = getattr(sys.modules["__main__"].__spec__, "name", "") == "edgepv.base.isolated"
        if alone and "litert_torch" in sys.modules:
            os.kill({who}, signal.{name})
            signal.pause()
        return super().step(*a)

def build():
    return Killed()
"""
"""A model whose conversion to LiteRT, in a process of its own, sends a signal: to that or to its parent."""
CONVERTER = "def convert(module, arguments):\n    module(*arguments)\n"
"""What such a conversion imports as litert_torch, whose own import takes longer than all else here."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drifts(tmp_path_factory.mktemp("drifts"), ("fight", "no_fight"))


@pytest.fixture
def converting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Conversions in a process of their own, as users have it, import ``CONVERTER`` from this folder."""
    folder = tmp_path / "converter"
    folder.mkdir()
    (folder / "litert_torch.py").write_text(CONVERTER)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr("edgepv.export.to_tflite.call", isolated.call)
    return str(folder)


def killed(tiny: Tiny, folder: Path, clips: Path, who: str, name: str) -> list[str]:
    """Arguments that name the tiny step model, which dies on its way to LiteRT."""
    file = folder / "net.py"
    file.write_text(KILLED.format(who=who, name=name))
    wanted = ["--clips", str(clips), "--precision", "fp32", "--out", str(folder / "b")]
    return ["export", f"{file}:build", *tiny.arguments[1:], *wanted]


@pytest.mark.usefixtures("converting")
def test_a_killed_converter_costs_its_own_target_only(
    run: Run, tiny_step: Tiny, clips: Path, tmp_path: Path
) -> None:
    arguments = killed(tiny_step, tmp_path, clips, "os.getpid()", "SIGKILL")
    code, out, err = run(*arguments, "--target", "mobile,cpu,jetson", "--json")
    assert code == 10, err
    found = {row["target"]: row for row in json.loads(out)}
    assert found["mobile"]["exit_code"] == 13 and "crashed with SIGKILL" in found["mobile"]["why"]
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["cpu", "cpu.zip", "jetson", "jetson.zip"]
    for target in ("cpu", "jetson"):
        assert found[target]["digest"] == read(tmp_path / "b" / target).digest
        check(read(tmp_path / "b" / target))
    code, _, err = run(*arguments[:-1], tmp_path / "alone", "--target", "mobile")
    assert code == 13 and "mobile: nothing could be made (litert-fp32). litert-torch failed" in err
    assert not (tmp_path / "alone").exists()


def test_what_is_whole_stays_when_the_rest_is_stopped(
    tiny_step: Tiny, clips: Path, tmp_path: Path, converting: str
) -> None:
    arguments = killed(tiny_step, tmp_path, clips, "os.getppid()", "SIGINT")
    command = [sys.executable, "-m", "edgepv", *arguments, "--target", "jetson,mobile"]
    path = {**os.environ, "PYTHONPATH": os.pathsep.join((converting, str(TINY.parent)))}
    done = subprocess.run(command, capture_output=True, text=True, env=path, check=False, timeout=300)
    assert done.returncode == 130, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last == (
        f"edgepv: stopped. Whole and kept: {tmp_path}/b/jetson. For the rest run it again with "
        f"--target mobile --out {tmp_path}/b/mobile"
    )
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["jetson", "jetson.zip"]
    check(read(tmp_path / "b" / "jetson"))


def test_a_gate_that_fails_for_one_target_is_named_and_the_others_ship(
    run: Run, tiny_step: Tiny, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = choice.choose

    def strict(rows: Sequence[Any], **limits: Any) -> Any:
        if rows[0].target == "jetson":
            raise AccuracyGateError("no artifact may be shipped")
        return chosen(rows, **limits)

    monkeypatch.setattr(choice, "choose", strict)
    arguments = ["export", *tiny_step.arguments, "--clips", clips, "--precision", "fp32"]
    arguments += ["--out", tmp_path / "b"]
    code, out, err = run(*arguments, "--target", "jetson,cpu")
    assert code == 10 and "jetson: not made: no artifact may be shipped" in err
    assert out.splitlines()[-2:] == ["jetson", "  not made: no artifact may be shipped"]
    assert not (tmp_path / "b" / "jetson").exists() and (tmp_path / "b" / "cpu.zip").is_file()
    before = read(tmp_path / "b" / "cpu").digest
    monkeypatch.setattr(choice, "choose", lambda rows, **limits: 1 / 0)
    code, _, err = run(*arguments, "--target", "cpu", "--force", "--out", tmp_path / "b" / "cpu")
    assert code == 1 and "internal error: ZeroDivisionError" in err
    assert read(tmp_path / "b" / "cpu").digest == before, "the old bundle is as it was"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--target", "cpu,mobile", "--variant", "openvino-int8"], "mobile: unknown variant 'openvino-int8'"),
        (["--variant", "openvino-int8", "--precision", "fp32"], "is none of --precision fp32. Leave one out"),
        (["--variant", "openvino-int9"], "cpu: unknown variant 'openvino-int9'"),
        (["--target", "cpu,jetson", "--precision", "bf16"], "jetson has no precision 'bf16'"),
        (["--target", "cpu,jetson", "--latency-ms", "9"], "--latency-ms: jetson is not timed on this host"),
    ],
)
def test_what_the_options_tell_of_one_target_is_refused_before_any_work(
    run: Run, tmp_path: Path, options: list[str], says: str
) -> None:
    code, _, err = run("export", "pv-conv-nano", "--out", tmp_path / "b", *options)
    assert code == 2 and err.startswith("edgepv:") and says in err and len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [["--variant", "openvino-bf16"], ["--precision", "bf16"]])
def test_a_cpu_without_bfloat16_is_named_not_the_model(
    run: Run, tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(for_cpu, "cpu_has_bf16", lambda: False)
    code, _, err = run("export", "pv-conv-nano", "--out", tmp_path / "b", *options)
    assert code == 7 and "this CPU has no bfloat16" in err and len(err.splitlines()) == 1


def test_a_variant_that_an_engine_refuses_leaves_its_target_with_the_others(
    run: Run, tiny_clip: Tiny, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgepv.runtimes.engines import ov

    def refusing(*_: Any) -> Any:
        raise RuntimeError("Operator 'Odd' is not supported\nat node 7")

    monkeypatch.setattr(ov, "open", refusing)
    arguments = ["export", *tiny_clip.arguments, "--clips", clips, "--stream", "off", "--precision", "fp32"]
    code, out, err = run(*arguments, "--out", tmp_path / "b")
    assert code == 0, err
    said = "openvino-fp32 was not made: RuntimeError: Operator 'Odd' is not supported at node 7"
    assert said in out and said in " ".join(read(tmp_path / "b").measured.reasons)
    assert [v.name for v in read(tmp_path / "b").content.variants] == ["onnxruntime-fp32"]
    code, _, err = run(*arguments, "--variant", "openvino-fp32", "--out", tmp_path / "c")
    assert code == 13 and "cpu: nothing could be made (openvino-fp32). RuntimeError: Operator 'Odd'" in err
