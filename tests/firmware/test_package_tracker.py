"""The folder of a tracker: particles begin and end in C as in a session in Python."""

from __future__ import annotations

import itertools
import platform
from pathlib import Path

import numpy as np
import pytest
from generated import lowered_net
from support import ROOT

from edgepv.cli.firmware import followed
from edgepv.data.frames import at_model_size
from edgepv.data.video import open_video
from edgepv.firmware import package
from edgepv.firmware.compiler import compiler
from edgepv.firmware.package import Golden, write_firmware

pytestmark = pytest.mark.slow
FRAMES = 12
LIMIT = 1e-3  # in image heights: a particle that is born elsewhere, or not, is off by a hundred times that


def test_a_trackers_self_test_follows_what_a_session_follows(
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    compiling: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Compiled for this machine alone: ``test_package.py`` has the sizes for others."""
    monkeypatch.setattr(
        package, "compiler_for", lambda one: compiler() if one.arch == platform.machine() else None
    )
    variant, place = lowered_net("pv-track-nano", tmp_path_factory)
    with open_video(ROOT / "edgepv" / "zoo" / "points" / "evaluation" / "pt0.mp4") as video:
        shown = [at_model_size(f.pixels, variant.spec) for f in itertools.islice(video, FRAMES)]
    frames = np.stack(shown)
    answers = followed(variant, place, frames)
    assert answers.reshape(FRAMES, -1, 3)[-1, :, 2].max() > 0.5  # some are seen

    folder = tmp_path / "fw"
    folder.mkdir()
    golden = Golden(frames, answers, variant.name, LIMIT)
    sizes = write_firmware(folder, variant, (place / variant.path).read_bytes(), "0" * 64, golden)
    assert sizes.selftest_rmse is not None and sizes.selftest_rmse < 1e-5
    assert sizes.ram.session_bytes["tensors"] is not None  # a host may place particles by itself
