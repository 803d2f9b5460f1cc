"""Checkpoints of other libraries: names of layers and arithmetic are theirs, and what is written is used as
it is."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402

from edgepv.cli.app import main  # noqa: E402
from edgepv.errors import TargetUnavailableError, UsageError  # noqa: E402
from edgepv.importers import KINETICS, LIBRARY, NETS, find, read_labels  # noqa: E402
from edgepv.model.checkpoint import build, from_files  # noqa: E402
from edgepv.model.spec import read_spec  # noqa: E402

pytestmark = pytest.mark.slow

NAMES = {
    "torchvision:r3d_18": (122, "bcf06ca66922c7d6"),
    "torchvision:mc3_18": (122, "c308c089d25d1f12"),
    "torchvision:r2plus1d_18": (224, "bb54361f71d38590"),
    "torchvision:s3d": (464, "9f19e402ab948fed"),
    "pytorchvideo:x3d_xs": (563, "2617d02127ab9e9e"),
    "pytorchvideo:x3d_s": (563, "2617d02127ab9e9e"),
    "pytorchvideo:x3d_m": (563, "2617d02127ab9e9e"),
    "pytorchvideo:x3d_l": (1141, "0c4697765377bf39"),
    "pytorchvideo:slow_r50": (320, "ad055811e9bd8016"),
    "pytorchvideo:c2d_r50": (320, "936079ad222e9c94"),
    "pytorchvideo:i3d_r50": (320, "23cfaf912ffea1ca"),
    "pytorchvideo:r2plus1d_r50": (416, "dbf7839d7b77f3e4"),
    "pytorchvideo:slowfast_r50": (662, "555841f32f8ad777"),
    "pytorchvideo:slowfast_r101": (1274, "9f0361170d89380b"),
    "mmaction2:tsn_r50": (320, "64786e4b79b2de6e"),
    "mmaction2:tsm_r50": (320, "78804ef6f59ca24d"),
    "mmaction2:i3d_r50": (320, "4fa1a4acfd1e95af"),
    "mmaction2:slowonly_r50": (320, "9100204bc1ccb35c"),
}
"""How many tensors the state dict of the library's own net has, and a digest of their names and shapes:
torchvision 0.28.0, pytorchvideo 0.1.5, mmaction2 1.2.0."""

LOGITS: dict[str, tuple[tuple[int, int], list[float]]] = {
    "torchvision:r3d_18": ((8, 32), [1.48, -0.139, -0.528]),
    "torchvision:mc3_18": ((8, 32), [1.097, -1.108, 0.752]),
    "torchvision:r2plus1d_18": ((8, 32), [-1.055, -0.929, 0.055]),
    "torchvision:s3d": ((16, 224), [-0.511, 0.837, -0.635]),
    "pytorchvideo:x3d_xs": ((4, 160), [25.432, 1.703, -8.973]),
    "pytorchvideo:c2d_r50": ((8, 64), [-46.966, 18.755, 18.902]),
    "pytorchvideo:i3d_r50": ((8, 64), [-31.572, 28.445, 4.875]),
    "pytorchvideo:slow_r50": ((8, 64), [-32.16, 23.887, 45.544]),
    "pytorchvideo:r2plus1d_r50": ((8, 64), [-4.265, -10.439, 17.906]),
    "pytorchvideo:slowfast_r50": ((32, 64), [-44.808, 30.003, 46.914]),
    "mmaction2:tsn_r50": ((8, 64), [9.242, -32.465, 9.948]),
    "mmaction2:tsm_r50": ((8, 64), [6.497, -29.948, 9.93]),
    "mmaction2:i3d_r50": ((16, 64), [16.055, -24.432, -3.947]),
    "mmaction2:slowonly_r50": ((8, 64), [19.374, -32.94, 11.247]),
}
"""(frames, pixels) -> the first three logits of the library's own net with the weights of ``filled``, its
last pooling over the whole clip and without a softmax."""

EDGE = "pytorchvideo:x3d_xs"


def net(name: str, classes: int = 400) -> Any:
    """Our net of that name, its weights not yet there."""
    file, _, function = NETS[name].source.partition(":")
    with torch.device("meta"):
        return getattr(importlib.import_module(f"edgepv.importers.{file}"), function)(classes)


def uniform(shape: tuple[int, ...], seed: int) -> Any:
    """Numbers from 0 to 1 that any machine makes alike."""
    count = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    wave = torch.sin(count * 12.9898 + seed) * 43758.5453
    return (wave - wave.floor()).float().reshape(shape)


def filled(state: dict[str, Any]) -> dict[str, Any]:
    """A state dict of the same shapes; convolutions keep the scale of what passes through."""
    made = {}
    for i, name in enumerate(sorted(state)):
        shape, u = tuple(state[name].shape), uniform(tuple(state[name].shape), i)
        made[name] = u * 0.2 - 0.1
        if not state[name].is_floating_point():
            made[name] = torch.zeros(shape, dtype=state[name].dtype)
        elif len(shape) > 1:
            made[name] = (u - 0.5) * (19.2 / state[name][0].numel()) ** 0.5
        elif name.endswith(("weight", "var")):
            made[name] = 0.8 + 0.4 * u
    return made


@pytest.mark.parametrize("name", NETS)
def test_every_tensor_has_the_librarys_name_and_shape(name: str) -> None:
    state = net(name).state_dict()
    lines = sorted(f"{key} {list(value.shape)}" for key, value in state.items())
    assert (len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]) == NAMES[name]


@pytest.mark.parametrize("name", LOGITS)
def test_logits_are_those_of_the_librarys_net(name: str) -> None:
    (frames, size), logits = LOGITS[name]
    made = net(name).eval()
    made.load_state_dict(filled(made.state_dict()), assign=True)
    with torch.no_grad():
        answers = made(2 * uniform((1, 3, frames, size, size), 0) - 1)
    assert answers[0, :3].tolist() == pytest.approx(logits, abs=5e-3, rel=1e-4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An X3D-XS for three labels as pytorchvideo's training leaves it."""
    file = tmp_path_factory.mktemp("ptv") / "x3d.pyth"
    torch.save({"epoch": 3, "model_state": filled(net(EDGE, 3).state_dict())}, file)
    return file


def run(*arguments: object) -> int:
    return main(["import", *map(str, arguments)])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 2) -> str:
    assert run(*arguments) == code
    said = capsys.readouterr().err
    assert said.startswith("edgepv: ") and said.count("\n") == 1
    return said


def test_an_import_is_a_builder_weights_and_a_spec_that_export_takes(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    out, labels = tmp_path / "x3d", tmp_path / "labels.txt"
    labels.write_text("fall\n\nwalk\nsit\n")
    assert run(EDGE, checkpoint, "--out", out, "--labels", labels, "--trust-pickle") == 0
    said = capsys.readouterr().err
    assert "weights: taken from 'model_state'" in said and f"edgepv export {out}/model.py:build" in said
    assert sorted(p.name for p in out.iterdir()) == ["model.py", "spec.toml", "weights.safetensors"]
    spec = read_spec(out / "spec.toml")
    assert (spec.name, spec.labels, spec.frames) == ("x3d_xs", ("fall", "walk", "sit"), 4)
    assert (float(spec.fps), spec.mean[0], spec.std[0], spec.input.shape[-1]) == (2.5, 0.45, 0.225, 160)
    given = torch.load(checkpoint, weights_only=True)["model_state"]
    assert all(torch.equal(value, given[name]) for name, value in built(out).state_dict().items())
    assert "import edgepv" not in (out / "model.py").read_text()


def built(folder: Path) -> Any:
    """The module of an import, as export builds it."""
    weights, spec = folder / "weights.safetensors", read_spec(folder / "spec.toml")
    return build(from_files(f"{folder / 'model.py'}:build", weights, spec, trust_pickle=False))


def test_labels_of_the_checkpoint_come_before_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "w.pth", tmp_path / "a"
    state = {f"module.{k}": v for k, v in filled(net(EDGE, 2).state_dict()).items()}
    torch.save({"state_dict": state, "meta": {"dataset_meta": {"classes": ("up", "down")}}}, file)
    assert run(EDGE, file, "--out", out, "--trust-pickle", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["spec"]["labels"] == ["up", "down"]
    assert "labels are those in the checkpoint" in told["notes"]
    torch.save(state, file)
    assert run(EDGE, file, "--out", out, "--trust-pickle", "--force") == 0
    assert read_spec(out / "spec.toml").labels == ("label 0", "label 1")
    assert "the file does not name its 2 labels" in capsys.readouterr().err


def test_400_labels_are_taken_for_those_of_kinetics_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(filled(net(EDGE).state_dict()), tmp_path / "w.safetensors")
    assert run(EDGE, tmp_path / "w.safetensors", "--out", tmp_path / "a") == 0
    assert "400 labels: taken for Kinetics-400's" in capsys.readouterr().err
    assert read_spec(tmp_path / "a" / "spec.toml").labels[:2] == ("abseiling", "air drumming")
    names = KINETICS.read_text().splitlines()
    assert len(set(names)) == 400 and names == sorted(names)


def test_what_cannot_be_imported_is_one_line_and_leaves_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, labels = tmp_path / "out", tmp_path / "l.txt"
    rest = (checkpoint, "--out", out, "--trust-pickle")
    assert "pass --trust-pickle" in refused(capsys, EDGE, checkpoint, "--out", out)
    said = refused(capsys, "pytorchvideo:x3d_l", *rest)
    assert "does not fit pytorchvideo:x3d_l: of the builder's 1141 weights 491 are missing: 'blocks.1" in said
    assert "No name agrees" in refused(capsys, "mmaction2:tsm_r50", *rest)
    assert "Did you mean 'x3d_s'?" in refused(capsys, "pytorchvideo:x3ds", *rest)
    assert "Known: mmaction2, pytorchvideo, torchvision." in refused(capsys, "x3d_s", *rest)
    assert "weights of movinet are not imported. Give a builder" in refused(capsys, "movinet:a0", *rest)
    labels.write_text("a\nb\n")
    assert "names 2, the weights are for 3" in refused(capsys, EDGE, *rest, "--labels", labels)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["l.txt"]
    out.mkdir()
    assert "already exists. Choose another --out" in refused(capsys, EDGE, *rest)
    (out / "thesis.tex").touch()
    assert "holds other things than an earlier import" in refused(capsys, EDGE, *rest, "--force")


def test_weights_of_a_wider_net_of_the_same_names_are_another_net(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(checkpoint, weights_only=True)["model_state"]
    name = "blocks.1.res_blocks.0.branch2.conv_a.weight"
    save_file({**state, name: torch.zeros(72, 24, 1, 1, 1)}, tmp_path / "w.safetensors")
    said = refused(capsys, EDGE, tmp_path / "w.safetensors", "--out", tmp_path / "out")
    assert f"1 of 563 weights differ in shape, '{name}' is (72, 24, 1, 1, 1) there" in said


def test_a_net_that_its_library_builds_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(importlib.import_module("sys").modules, "torchvision", None)
    with pytest.raises(TargetUnavailableError, match="built by torchvision itself, which is not installed"):
        find("torchvision:mvit_v2_s")
    assert all(name.startswith("torchvision:") for name in LIBRARY)


@pytest.mark.parametrize(
    "text",
    ["a\nb\n", '["a", "b"]', '{"a": 0, "b": 1}', '{"1": "b", "0": "a"}', '{"\\"b\\"": 1, "\\"a\\"": 0}'],
)
def test_labels_come_as_lines_or_as_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "l").write_text(text)
    assert read_labels(tmp_path / "l") == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe", "is not UTF-8 text"),
        (b'{"a": "x", "b": "y"}', "gives no number to each label"),
        (b"[1, 2]", "holds other values than labels"),
        (b"[", "is not valid JSON"),
    ],
)
def test_what_is_no_list_of_labels_is_told(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "l").write_bytes(content)
    with pytest.raises(UsageError, match=says):
        read_labels(tmp_path / "l")


def test_an_import_may_be_moved(checkpoint: Path, tmp_path: Path) -> None:
    assert run(EDGE, checkpoint, "--out", tmp_path / "a", "--trust-pickle") == 0
    state = load_file(tmp_path / "a" / "weights.safetensors")
    assert built((tmp_path / "a").rename(tmp_path / "b")).state_dict().keys() == state.keys()
