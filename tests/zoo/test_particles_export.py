"""Every particle operator through every converter, alone and in the example, with the numbers of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import onnx
import torch
from support import assert_static_4_d
from torch import Tensor, nn

from edgepv.base.optional import present
from edgepv.export.tensorrt.parser import parse_with_nvidia
from edgepv.export.tensorrt.rules import check
from edgepv.export.to_onnx import lower
from edgepv.export.to_tflite import to_tflite
from edgepv.model.builder import find_function
from edgepv.model.checkpoint import build, from_files
from edgepv.runtimes import open_engine
from edgepv.runtimes.engines.eager import EagerEngine
from edgepv.stream import Stepper
from edgepv.types import Checkpoint, ModelSpec, TensorSpec, Variant
from edgepv.zoo.particles.decompose import Region
from edgepv.zoo.particles.describe import (
    ColourHistogram,
    Fused,
    LocalMoments,
    OrientationHistogram,
    ShapeMoments,
    TextureEnergy,
)
from edgepv.zoo.particles.interact import Force, Messages, integrate
from edgepv.zoo.particles.reconstruct import Generator, Splat

EXAMPLE = Path(__file__).parents[2] / "examples" / "particles.py"
CHAIN = find_function(f"{EXAMPLE}:build")
pytestmark = pytest.mark.slow

SIZE, CELL, K, DIM = 32, 4, 5, 16
SIDE = SIZE // CELL
UNWANTED = {"Col2Im", "Einsum", "GridSample", "NonZero", "OneHot", "ScatterElements", "ScatterND"}


def example(net: nn.Module) -> nn.Module:
    """The module in eval mode, with no parameter at a value of which a mistake would not show."""
    at = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data.add_(0.1 * torch.randn(p.shape, generator=at))
    return net.eval()


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Variant, Path]:
    """The chain as a user's checkpoint, and as a float ONNX file."""
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("chain")
    save_file(example(CHAIN()).state_dict(), folder / "w.safetensors")
    spec = ModelSpec(
        name="chain",
        input=TensorSpec("frame", (1, 3, SIZE, SIZE), "NCHW"),
        labels=("usual", "unusual"),
        frames=4,
        fps=Fraction(10),
    )
    source = from_files(f"{EXAMPLE}:build", folder / "w.safetensors", spec, trust_pickle=False)
    return source, lower(build(source), spec, folder / "m.onnx"), folder


def rolled(source: Checkpoint, variant: Variant, folder: Path, *, steps: int) -> float:
    """Largest difference of any output from torch's over ``steps`` frames, each engine on its own states."""
    assert variant.stream
    mine, theirs = (
        Stepper(engine.infer, variant.spec, variant.stream)
        for engine in (
            EagerEngine(build(source), variant.spec, variant.stream),
            open_engine(variant, folder),
        )
    )
    rng, worst = np.random.default_rng(0), 0.0
    for _ in range(steps):
        frame = rng.random((1, 3, SIZE, SIZE), dtype=np.float32)
        a, b = mine.step(frame), theirs.step(frame)
        worst = max(worst, *(float(np.abs(a[name] - b[name]).max()) for name in a))
    return worst


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_chain_steps_like_torch(lowered: tuple[Checkpoint, Variant, Path], engine: str) -> None:
    pytest.importorskip(engine)
    source, variant, folder = lowered
    assert rolled(source, replace(variant, engine=engine), folder, steps=50) < 1e-4


def test_the_chain_steps_like_torch_on_a_phone(lowered: tuple[Checkpoint, Variant, Path]) -> None:
    pytest.importorskip("litert_torch")
    source, variant, folder = lowered
    lite = to_tflite(source, variant, folder / "m.tflite")
    assert rolled(source, lite, folder, steps=50) < 1e-4


def test_the_chain_is_static_and_at_most_4_d(lowered: tuple[Checkpoint, Variant, Path]) -> None:
    _, variant, folder = lowered
    assert_static_4_d(folder / variant.path)
    assert not {node.op_type for node in onnx.load(folder / variant.path).graph.node} & UNWANTED


def test_the_chain_breaks_no_rule_of_tensorrt(lowered: tuple[Checkpoint, Variant, Path]) -> None:
    _, variant, folder = lowered
    assert [f for f in check(onnx.load(folder / variant.path), opset_limit=18) if f.severity != "info"] == []


@pytest.mark.skipif(not present("tensorrt_rtx"), reason="needs edgepv[trt-check]")
def test_nvidias_parser_takes_the_chain(lowered: tuple[Checkpoint, Variant, Path]) -> None:
    verdict = parse_with_nvidia(lowered[2] / lowered[1].path)
    assert (verdict.accepted, verdict.errors) == (True, ())


class Moved(nn.Module):
    """``integrate`` as a module."""

    def forward(self, position: Tensor, velocity: Tensor, acceleration: Tensor) -> tuple[Tensor, Tensor]:
        return integrate(position, velocity, acceleration, 0.5)


IMAGE, MAP, MASKS = (1, 3, SIZE, SIZE), (1, 12, SIDE, SIDE), (1, K, SIDE * SIDE)
PLACE, FEATURE, ALIVE = (1, K, 2), (1, K, DIM), (1, K)

OPERATORS: dict[str, tuple[Callable[[], nn.Module], list[tuple[int, ...]]]] = {
    "region": (lambda: Region(12, DIM, height=SIDE, width=SIDE), [MAP, PLACE, FEATURE, ALIVE]),
    "colour": (lambda: ColourHistogram(4, stride=CELL), [IMAGE, MASKS]),
    "texture": (lambda: TextureEnergy(stride=CELL), [IMAGE, MASKS]),
    "orientation": (lambda: OrientationHistogram(4, stride=CELL), [IMAGE, MASKS]),
    "shape": (lambda: ShapeMoments(SIDE, SIDE), [MASKS, PLACE]),
    "local": (lambda: LocalMoments(SIDE, SIDE), [MAP, MASKS, PLACE, ALIVE]),
    "fused": (lambda: Fused((2, DIM), DIM), [PLACE, FEATURE]),
    "force": (lambda: Force(DIM), [PLACE, FEATURE, ALIVE]),
    "messages": (lambda: Messages(DIM, 24), [PLACE, PLACE, FEATURE, ALIVE]),
    "integrate": (Moved, [PLACE, PLACE, PLACE]),
    "splat": (lambda: Splat(DIM, 3, height=SIDE, width=SIDE), [PLACE, ALIVE, FEATURE]),
    "generator": (lambda: Generator(12, 3, up=CELL, hidden=8), [MAP]),
}


def flat(values: Any) -> list[Tensor]:
    """All tensors of a result that may be nested."""
    return [values] if isinstance(values, Tensor) else [t for v in values for t in flat(v)]


@pytest.mark.parametrize("name", OPERATORS)
def test_each_operator_alone_agrees_in_two_engines(name: str, tmp_path: Path) -> None:
    ov, ort = pytest.importorskip("openvino"), pytest.importorskip("onnxruntime")
    make, shapes = OPERATORS[name]
    torch.manual_seed(1)
    net, inputs = example(make()), tuple(torch.rand(shape) for shape in shapes)
    names = [f"x{i}" for i in range(len(inputs))]
    path = tmp_path / "m.onnx"
    torch.onnx.export(
        net, inputs, str(path), dynamo=True, opset_version=18, external_data=False, verbose=False,
        input_names=names,
    )  # fmt: skip
    assert [f for f in check(onnx.load(path), opset_limit=18) if f.severity != "info"] == []
    fresh = tuple(torch.rand(shape) for shape in shapes)
    feed = {n: v.numpy() for n, v in zip(names, fresh, strict=True)}
    with torch.no_grad():
        wanted = [t.numpy() for t in flat(net(*fresh))]
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    compiled = ov.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for got in (session.run(None, feed), list(compiled(feed).values())):
        assert len(got) == len(wanted)
        for a, b in zip(got, wanted, strict=True):
            assert np.allclose(a, b, rtol=1e-4, atol=1e-4)
