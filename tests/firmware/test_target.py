"""``--target firmware``: a bundle of C, compiled and judged here like any other variant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from building import GCC
from support import Run, Tiny

from edgepv import bundle
from edgepv.bundle import golden

pytestmark = pytest.mark.slow


def test_a_bundle_of_c_is_judged_and_becomes_a_folder(
    tiny_step: Tiny, tmp_path: Path, run: Run, compiling: None
) -> None:
    out, folder = tmp_path / "b", tmp_path / "fw"
    assert run("export", *tiny_step.arguments, "--target", "firmware", "--out", out)[0] == 0
    opened = bundle.read(out)
    bundle.check(opened)
    made = {v.name: v.engine for v in opened.content.variants}
    assert made == {"native-fp32": "native", "native-int8": "native"}
    assert {"models/model.c", "models/edgepv_core.c", "models/edgepv.h"} <= set(opened.content.files)
    assert all(one.error is not None and one.error < 1e-6 for one in golden.replay(opened))
    symbol = re.search(r"const edgepv_model (\w+) =", (out / "models" / "model.c").read_text())
    assert symbol and symbol[1] == "edgepv_model_tiny_step"
    GCC.build(tmp_path / "model.so", sorted((out / "models").glob("*.c")), "-shared", "-fPIC")

    assert run("firmware", out, "--out", folder)[0] == 0
    assert opened.digest in (folder / "model.c").read_text()

    code, _, said = run("firmware", out, "--variant", "native-int8", "--out", tmp_path / "int8")
    assert code == 0 and "self-test: rmse 0, limit" in said
    assert "EDGEPV_EXACT" in (tmp_path / "int8" / "model.c").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 7, "no C compiler is on this machine, or EDGEPV_CC is none. Install gcc or clang"),
        (["--variant", "native-int4"], 2, "unknown variant 'native-int4'"),
        (["--precision", "bf16"], 2, "firmware has no precision 'bf16'"),
    ],
)
def test_what_cannot_be_made_is_said(
    tiny_step: Tiny, tmp_path: Path, run: Run, arguments: list[str], code: int, message: str
) -> None:
    given = ["export", *tiny_step.arguments, "--target", "firmware", "--out", tmp_path / "b", *arguments]
    ended, _, said = run(*given)
    assert ended == code and message in said.splitlines()[-1]
    assert not (tmp_path / "b").exists()
