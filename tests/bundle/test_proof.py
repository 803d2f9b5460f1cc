"""On a CPU or engine that a bundle was not proven on, its golden answers decide what runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import edgepv
from edgepv import bundle
from edgepv.base import cache
from edgepv.base.machine import proof
from edgepv.bundle.manifest import Bundle
from edgepv.bundle.proof import proven
from edgepv.cli.app import main
from edgepv.errors import TargetUnavailableError
from edgepv.types import Proof

ELSEWHERE = Proof("x86_64", ("avx2", "avx512_vnni"), "an engine 1.0")


@pytest.fixture(autouse=True)
def nothing_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPV_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def moved(step_bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    """The bundle as if made on another CPU; the recorded answers of ``broken`` are what that one computed."""

    def make(broken: str = "", run: str = "") -> Path:
        folder = tmp_path / "moved"
        shutil.copytree(step_bundle, folder)
        found = bundle.read(folder)
        wrong = [v.name for v in found.content.variants if broken and v.name.startswith(broken)]
        golden = load_file(folder / bundle.GOLDEN)
        save_file(
            {k: v + 1.0 if k in wrong and v.dtype != np.uint8 else v for k, v in golden.items()},
            folder / bundle.GOLDEN,
        )
        files = {**found.content.files, **bundle.digests(folder, [bundle.GOLDEN])}
        elsewhere = {v.name: ELSEWHERE for v in found.content.variants}
        measured = replace(found.measured, proven=elsewhere, run=run or found.measured.run)
        bundle.write(folder, replace(found.content, files=files), measured)
        return folder

    return make


def remembered() -> int:
    return len(list((cache.root() / "proofs").glob("*.json")))


def of(folder: Path) -> Bundle:
    return bundle.read(folder)


def test_an_export_says_where_each_variant_was_proven(step_bundle: Path) -> None:
    found = of(step_bundle)
    assert found.measured.proven == {v.name: proof(v.engine) for v in found.content.variants}
    assert proof("onnxruntime").engine.startswith("onnxruntime 1.")
    assert proven(found, [found.variant()]).notes == () and remembered() == 0  # nothing to replay


def test_a_bundle_of_another_cpu_is_replayed_once_and_remembered(moved: Callable[..., Path]) -> None:
    found = of(moved())
    assert proven(found, [found.variant()]).variants == (found.variant(),)
    assert remembered() == 1
    (found.folder / bundle.GOLDEN).unlink()  # so a second replay could not pass
    assert proven(found, [found.variant()]).variants == (found.variant(),)


def test_a_bundle_of_before_proofs_is_replayed_too(moved: Callable[..., Path]) -> None:
    found = of(moved())
    found = replace(found, measured=replace(found.measured, proven={}))
    assert proven(found, [found.variant()]).notes == () and remembered() == 1


def test_what_answers_otherwise_here_is_replaced_and_the_reason_said(
    moved: Callable[..., Path], a_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = moved(broken="onnxruntime", run="onnxruntime-int8")
    assert main(["run", str(folder), "--source", str(a_clip)]) == 0
    said = capsys.readouterr()
    summary: dict[str, Any] = json.loads(said.out.splitlines()[-1])
    assert summary["engine"] == "openvino"
    assert "onnxruntime-int8 answers otherwise here than where the bundle was made" in said.err
    assert "another CPU (x86_64 with avx2 avx512_vnni)" in said.err
    assert summary["notes"][-1] == f"{summary['variant']} runs in its place."
    with pytest.warns(RuntimeWarning, match="runs in its place"), edgepv.open(folder) as session:
        assert session.variant.name == summary["variant"]


def test_with_nothing_left_the_exit_code_is_7(
    moved: Callable[..., Path], a_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = moved(broken="o")
    assert main(["run", str(folder), "--source", str(a_clip)]) == 7
    assert "nothing may run here. onnxruntime" in (said := capsys.readouterr().err) and said.count("\n") == 1
    assert main(["run", str(folder), "--source", str(a_clip), "--live"]) == 7


def test_a_variant_that_the_user_named_is_not_replaced(moved: Callable[..., Path]) -> None:
    folder = moved(broken="onnxruntime-fp32")
    with pytest.raises(TargetUnavailableError, match="onnxruntime-fp32 answers otherwise here"):
        edgepv.open(folder, variant="onnxruntime-fp32")


def test_verify_names_the_cpu_as_the_cause(
    moved: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(moved(broken="openvino"))]) == 5
    assert (
        "it was proven on another CPU (x86_64 with avx2 avx512_vnni) than this one" in capsys.readouterr().err
    )


def test_a_camera_that_cannot_remember_replays_again(
    moved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = of(moved())
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEPV_CACHE", str(tmp_path / "file"))
    assert proven(found, [found.variant()]).notes == ()
