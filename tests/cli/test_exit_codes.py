"""Who can cure an error is told by its exit code: one real case for each, by the command line.

The engine's (13), a converter that crashes, is in tests/pipeline/test_targets_apart.py with what it costs.
"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from null_bundle import write_null_bundle
from support import ROOT, TINY, Run, Tiny

from edgepv import errors
from edgepv.cli.arguments import EXIT_CODES


def test_a_wrong_name_is_for_who_typed_it(run: Run) -> None:
    code, _, err = run("export", "pv-conv-smal")
    assert code == 2 and "Did you mean 'pv-conv-small'?" in err


def test_a_builder_that_raises_is_for_the_models_author(run: Run, tiny_clip: Tiny) -> None:
    code, _, err = run("export", f"{TINY}:broken", *tiny_clip.arguments[1:])
    assert code == 12 and "raised RuntimeError: the config file is missing" in err


def test_a_camera_that_is_not_there_is_for_the_devices_owner(run: Run, tmp_path: Path) -> None:
    bundle = write_null_bundle(tmp_path / "b")
    code, _, err = run("run", bundle, "--source", "v4l2:97")
    assert code == 14 and "/dev/video97 does not exist. Plug the camera in" in err


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "b.zip"),
            14,
            "b.zip: No space left on device. Free",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 14, "x: Permission denied. Check perm"),
        (OSError(errno.EIO, "Input/output error"), 14, "Input/output error. Check the disk"),
        (MemoryError(), 14, "not enough memory. Free some"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
            2,
            "x: No such file or directory",
        ),
        (RuntimeError("odd"), 1, "internal error: RuntimeError: odd"),
    ],
)
def test_an_error_of_the_system_is_the_devices_where_its_owner_can_cure_it(
    error: BaseException, code: int, says: str
) -> None:
    line, got = errors.told(error)
    assert got == code and line.startswith(says)


def test_every_error_has_its_code_in_both_tables() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.EdgepvError)]
    readme = (ROOT / "README.md").read_text().partition("## Exit codes")[2].partition("## ")[0]
    for code in sorted({kind.exit_code for kind in kinds}):
        assert f" {code} " in EXIT_CODES.replace("\n", " "), code
        assert f" {code} " in readme.replace("\n", " "), code
