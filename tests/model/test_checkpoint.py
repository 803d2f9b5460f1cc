"""What a user's builder, weights and spec may not be, and that each is told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402
from support import Tiny  # noqa: E402
from torch import Tensor  # noqa: E402

from edgepv.errors import UsageError  # noqa: E402
from edgepv.model.builder import call_builder, find_function  # noqa: E402
from edgepv.model.checkpoint import build, from_files  # noqa: E402
from edgepv.model.spec import read_spec  # noqa: E402

SPEC = """
name = "net"
labels = ["a", "b"]
mean = [0.5, 0.5, 0.5]
std = [0.2, 0.2, 0.2]
frames = 1
fps = 10
[input]
name = "frame"
shape = [1, 3, 32, 32]
"""


def _refusal(call: object, *args: object, **named: object) -> str:
    """The message of the UsageError that a call ends in: one line."""
    assert callable(call)
    with pytest.raises(UsageError) as caught:
        call(*args, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _file(folder: Path, text: str) -> str:
    (folder / "net.py").write_text(text)
    return f"{folder / 'net.py'}:build"


def test_a_builder_that_exits_is_refused(tmp_path: Path) -> None:
    name = _file(tmp_path, "import sys\ndef build():\n    sys.exit(0)\n")
    assert _refusal(call_builder, name) == (
        f"builder {name} called sys.exit or os._exit; it must return a torch module"
    )


def test_a_file_that_exits_when_imported_is_refused(tmp_path: Path) -> None:
    name = _file(tmp_path, "raise SystemExit\n")
    assert "net.py cannot be imported: it called sys.exit or os._exit. Put" in _refusal(find_function, name)


@pytest.mark.parametrize(
    "odd", ["GeneratorExit", "BaseException('mine')", "type('Mine', (BaseException,), {})"]
)
def test_whatever_a_builder_raises_is_refused(tmp_path: Path, odd: str) -> None:
    assert " raised " in _refusal(call_builder, _file(tmp_path, f"def build():\n    raise {odd}\n"))
    assert "cannot be imported" in _refusal(find_function, _file(tmp_path, f"raise {odd}\n"))


def test_a_stop_while_a_builder_runs_is_a_stop(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        call_builder(_file(tmp_path, "def build():\n    raise KeyboardInterrupt\n"))


def test_a_builders_long_complaint_is_cut_to_its_first_line(tmp_path: Path) -> None:
    name = _file(tmp_path, "def build():\n    raise ValueError('no config\\nsecond\\nthird')\n")
    assert "raised ValueError: no config (net.py:2). Fix the builder" in _refusal(call_builder, name)


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("head.bias", torch.tensor([1e300, 0], dtype=torch.float64), "not finite in float32"),
        ("head.bias", torch.tensor([float("inf"), 0]), "'head.bias' has values that are not finite. Train"),
        (
            "head.weight",
            torch.ones(2, 16, dtype=torch.int32),
            "'head.weight' is int32, the builder's is float32",
        ),
        ("norm.bias", torch.zeros(16, dtype=torch.complex64), "'norm.bias' is complex64"),
    ],
)
def test_weights_that_are_no_float32_numbers_are_named(
    tiny_clip: Tiny, tmp_path: Path, name: str, values: Tensor, says: str
) -> None:
    file = tmp_path / "w.safetensors"
    save_file({**load_file(tiny_clip.weights), name: values}, file)
    checkpoint = from_files(tiny_clip.model, file, read_spec(tiny_clip.spec), trust_pickle=False)
    assert says in _refusal(build, checkpoint)


def test_doubles_that_fit_and_short_counters_are_taken(tiny_clip: Tiny, tmp_path: Path) -> None:
    file, given = tmp_path / "w.safetensors", load_file(tiny_clip.weights)
    doubled = {k: v.double() if v.is_floating_point() else v.to(torch.int32) for k, v in given.items()}
    save_file(doubled, file)
    module = build(from_files(tiny_clip.model, file, read_spec(tiny_clip.spec), trust_pickle=False))
    assert torch.equal(module.head.bias, given["head.bias"])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[0.5, 0.5, 0.5]", "[nan, 0.5, 0.5]", "mean (of pixels in [0, 1]) is nan; give -10 to 10"),
        ("[0.5, 0.5, 0.5]", "[0.5, inf, 0.5]", "mean (of pixels in [0, 1]) is inf"),
        ("[0.5, 0.5, 0.5]", "[123.7, 116.3, 103.5]", "mean (of pixels in [0, 1]) is 123.7"),
        ("[0.2, 0.2, 0.2]", "[0.2, nan, 0.2]", "std (of pixels in [0, 1]) is nan; give 0.0001 to 10"),
        ("[0.2, 0.2, 0.2]", "[0.2, inf, 0.2]", "std (of pixels in [0, 1]) is inf"),
        ("[0.2, 0.2, 0.2]", "[0.2, 1e-300, 0.2]", "std (of pixels in [0, 1]) is 1e-300"),
        ("fps = 10", "fps = 1e308", "fps is 1e+308; give 0.001 to 1000"),
        ("frames = 1", "frames = 1000000000", "frames is 1000000000; give 1 to 4096"),
        ("frames = 1", "particles = -1", "particles is -1; give 1 to 1024"),
        ("frames = 1", "particles = 0", "particles is 0; give"),
        ("frames = 1", "particles = 1000000000", "particles is 1000000000; give"),
        ("frames = 1", 'degrade = "half"', "degrade is for restoration, the task is classification"),
        ('"net"', '""', "name is ''; give 1 to 200 letters"),
        ('"net"', '"a\\nb"', "name is 'a\\nb'; give"),
        ('"net"', '"a\\u001b[31m"', "name is 'a\\x1b[31m'; give"),
        ('["a", "b"]', '["", "a"]', "label 1 is ''; give"),
        ('"frame"', '" "', "input name is ' '; give"),
        ("32, 32]", "1000000, 1000000]", "the input's height is 1000000; give 1 to 8192"),
    ],
)
def test_a_spec_that_no_camera_or_model_can_have_is_refused(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    (tmp_path / "spec.toml").write_text(SPEC.replace(old, new))
    assert says in _refusal(read_spec, tmp_path / "spec.toml")


def test_the_ends_of_the_ranges_are_taken(tmp_path: Path) -> None:
    text = SPEC.replace("32, 32]", "8192, 8192]").replace("[0.2, 0.2, 0.2]", "[1e-4, 1.0, 10]")
    (tmp_path / "spec.toml").write_text(text.replace("fps = 10", "fps = 1000"))
    spec = read_spec(tmp_path / "spec.toml")
    assert (spec.input.shape[-1], spec.std, float(spec.fps)) == (8192, (1e-4, 1.0, 10.0), 1000.0)


def test_a_clip_model_that_answers_nan_is_not_compared_with_its_stream(
    tiny_clip: Tiny, tmp_path: Path
) -> None:
    from edgepv.stream import convert
    from edgepv.stream.verify import verify

    file, given = tmp_path / "w.safetensors", load_file(tiny_clip.weights)
    save_file({**given, "norm.running_var": -torch.ones(16)}, file)
    spec = read_spec(tiny_clip.spec)
    module = build(from_files(tiny_clip.model, file, spec, trust_pickle=False))
    clip = torch.rand(3, 4, 32, 32).numpy()
    said = _refusal(verify, module, convert(module, spec), [clip])
    assert said.startswith("tiny-clip: the original itself answers NaN or infinity")
