"""A stream that sees far more than its clips learns to answer as its sliding window, without labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from support import SPEC  # noqa: E402

from edgepv.errors import UsageError  # noqa: E402
from edgepv.model.checkpoint import build, from_files  # noqa: E402
from edgepv.model.spec import read_spec  # noqa: E402
from edgepv.model.weights import save  # noqa: E402
from edgepv.quantize import stream_tune  # noqa: E402
from edgepv.quantize.step import Training, asked  # noqa: E402
from edgepv.stream.rolled import Rolled  # noqa: E402
from edgepv.types import Checkpoint  # noqa: E402

NET = """
from torch import nn

class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        parts = []
        for i in range(6):
            parts += [nn.Conv3d(8 if i else 3, 8, 3, (1, 2 if i == 0 else 1, 2 if i == 0 else 1), 1),
                      nn.BatchNorm3d(8), nn.ReLU()]
        self.body, self.head = nn.Sequential(*parts), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3, 4)))

def build():
    return Deep()
"""


def _film(count: int, seed: int) -> list[np.ndarray]:
    """Even pictures that grow brighter and darker, each clip at its own pace, with a little noise."""
    rng = np.random.default_rng(seed)
    film = []
    for _ in range(count):
        wave = np.sin(np.arange(20)[:, None, None, None] * rng.uniform(0.1, 1.5) + rng.uniform(0, 6))
        film.append((wave + 0.1 * rng.standard_normal((20, 3, 8, 8))).astype(np.float32))
    return film


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A net of 6 padded convolutions over clips of 4 frames: its stream sees 16."""
    folder = tmp_path_factory.mktemp("deep")
    (folder / "net.py").write_text(NET)
    (folder / "spec.toml").write_text(SPEC.format(name="deep", shape=[1, 3, 4, 8, 8], layout="NCTHW"))
    spec = read_spec(folder / "spec.toml")
    torch.manual_seed(0)
    namespace: dict[str, object] = {}
    exec(NET, namespace)
    module = namespace["build"]()  # type: ignore[operator]
    clips = torch.stack([torch.from_numpy(clip[:4]).transpose(0, 1) for clip in _film(64, 5)])
    for norm in module.body[1::3]:
        norm.momentum = None
    module.train()(clips)
    with torch.no_grad():
        answers = module.eval()(clips)
        module.head.weight /= answers.std(0)[:, None]
        module.head.bias -= module(clips).mean(0)
    save(module, folder / "w.safetensors")
    return from_files(f"{folder / 'net.py'}:build", folder / "w.safetensors", spec, trust_pickle=False)


def _distance(student: Checkpoint, teacher: Checkpoint, film: list[np.ndarray]) -> float:
    """Mean square of what the stream's answers differ from the window's, as a share of their variance.

    An answer of two classes is what its logits are apart.
    """
    spec = teacher.spec
    rolled, original = Rolled(build(student), spec), build(teacher)
    video = torch.from_numpy(np.concatenate(film))
    with torch.no_grad():
        got = rolled.answers(video).diff()
        clips = [video[b : b + spec.frames].transpose(0, 1) for b in rolled.begins(len(video))]
        wanted = original(torch.stack(clips)).diff()
    return float((got - wanted).square().mean() / wanted.var())


@pytest.mark.slow
def test_a_stream_comes_nearer_to_its_window_on_video_it_never_saw(deep: Checkpoint, tmp_path: Path) -> None:
    step = stream_tune.Step(epochs=12, learning_rate=3e-3)
    tuned = step(deep, tmp_path / "t.safetensors", Training(footage=_film(24, 1), teacher=deep))
    before, after = (_distance(one, deep, _film(12, 2)) for one in (deep, tuned))
    assert after < before / 2
    assert tuned.steps[-1].name == "stream_tune" and tuned.steps[-1].options["epochs"] == 12
    assert tuned.steps[-1].options["frames"] > 16 and tuned.sha256 != deep.sha256


def test_it_runs_when_it_is_asked_for_after_all_others_and_never_by_itself() -> None:
    assert asked({}, tuning=True) == ()
    names = [step.name for step in asked({"stream_tune": 2, "qat": 1, "tune_epochs": 1})]
    assert names == ["finetune", "qat", "stream_tune"]


def test_it_needs_video(deep: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--stream-tune needs video: --footage DIR"):
        stream_tune.Step(epochs=1)(deep, tmp_path / "t.safetensors", Training(teacher=deep))
    assert not (tmp_path / "t.safetensors").exists()


def test_it_is_for_classifiers(deep: Checkpoint, tmp_path: Path) -> None:
    tracker = replace(deep, spec=replace(deep.spec, task="tracking"))
    with pytest.raises(UsageError, match="tunes classifiers; deep is for tracking"):
        stream_tune.Step(epochs=1)(tracker, tmp_path / "t.safetensors", Training(footage=_film(1, 0)))


def test_scenes_are_as_long_as_the_video_and_go_to_and_fro() -> None:
    count = np.arange(6, dtype=np.float32)[:, None, None, None]
    (video,) = stream_tune.long_videos(np.random.default_rng(0), [count], 4, 50, 1)
    moves = np.abs(np.diff(video[:, 0, 0, 0]))
    assert len(video) == 50 and np.median(moves) == 1 and video.min() == 0 and video.max() == 5
