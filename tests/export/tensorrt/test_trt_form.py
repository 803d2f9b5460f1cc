"""A small streamed net, packed for TensorRT: where Q/DQ pairs sit and what the files compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepv.base.optional import present
from edgepv.errors import UsageError
from edgepv.export.tensorrt import form, fp16
from edgepv.export.tensorrt.graph import quantize_nodes, shapes, weighted_nodes
from edgepv.export.tensorrt.opset import opset_of, to_opset
from edgepv.export.tensorrt.parser import parse_with_nvidia
from edgepv.export.tensorrt.plan import calibration_table, precision_plan
from edgepv.export.tensorrt.rules import check

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

Feed = dict[str, np.ndarray]

STATES = (("z1", "n1"), ("z2", "n2"))
EMPTY = np.zeros((1, 32, 2, 256), np.float32)
SQUEEZED = {"node_conv2d_4", "node_conv2d_5", "node_conv2d_10", "node_conv2d_11"}


@pytest.fixture(scope="module")
def float_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two streamed blocks: 1x1, depthwise, (k, 1) over the state, squeeze-excite, 1x1, residual."""
    torch = pytest.importorskip("torch")
    path = tmp_path_factory.mktemp("trt") / "float.onnx"
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.onnx.export(
        _net(torch).eval(),
        (torch.randn(1, 3, 32, 32), torch.randn(1, 32, 2, 256), torch.randn(1, 32, 2, 256)),
        str(path),
        dynamo=True,
        opset_version=18,
        external_data=False,
        verbose=False,
        input_names=["frame", "z1", "z2"],
        output_names=["logits", "n1", "n2"],
    )
    return path


def _net(torch: Any) -> Any:
    nn: Any = torch.nn
    F = nn.functional

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Conv2d(16, 32, 1)
            self.space = nn.Conv2d(32, 32, 3, padding=1, groups=32)
            self.time = nn.Conv2d(32, 32, (3, 1), groups=32)
            self.squeeze, self.excite = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)
            self.down = nn.Conv2d(32, 16, 1)

        def forward(self, x: Any, state: Any) -> Any:
            y = F.hardswish(self.space(F.hardswish(self.up(x))))
            y = torch.cat([state, y.flatten(2).unsqueeze(2)], 2)
            new = y[:, :, 1:]
            y = F.hardswish(self.time(y)).reshape(1, -1, 16, 16)
            gate = self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True))))
            return x + self.down(y * F.hardsigmoid(gate)), new

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 16, 3, 2, 1), nn.Linear(16, 5)
            self.one, self.two = Block(), Block()

        def forward(self, frame: Any, z1: Any, z2: Any) -> Any:
            x, n1 = self.one(F.hardswish(self.stem(frame)), z1)
            x, n2 = self.two(x, z2)
            return self.head(x.mean((2, 3))), n1, n2

    return Net()


@pytest.fixture(scope="module")
def feeds(float_onnx: Path) -> list[Feed]:
    """Calibration feeds with the states that really come up, rolled over 24 frames."""
    return _rolled(onnx.load(float_onnx), _clip(24, seed=1))[0]


@pytest.fixture(scope="module")
def int8(float_onnx: Path, feeds: list[Feed]) -> Any:
    out = float_onnx.with_name("int8.onnx")
    form.quantize_for_tensorrt(float_onnx, out, feeds, state_pairs=STATES)
    return onnx.load(out)


def _clip(frames: int, *, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((1, 3, 32, 32)).astype(np.float32) for _ in range(frames)]


def _session(model: Any) -> Any:
    """ONNX Runtime on one thread which computes the graph as it is written."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options)


def _rolled(model: Any, clip: list[np.ndarray]) -> tuple[list[Feed], list[np.ndarray]]:
    """Step over a clip from empty states: what was fed each time, and the logits."""
    session, z1, z2 = _session(model), EMPTY, EMPTY
    fed, logits = [], []
    for frame in clip:
        fed.append({"frame": frame, "z1": z1, "z2": z2})
        answer, z1, z2 = session.run(None, fed[-1])
        logits.append(answer)
    return fed, logits


def _sqnr_db(right: Any, got: Any) -> float:
    right, got = np.concatenate(right), np.concatenate(got)
    return float(10 * np.log10(np.sum(right**2) / np.sum((right - got) ** 2)))


def _inputs_of(model: Any, kind: str) -> list[Any]:
    return [node for node in model.graph.node if node.op_type == kind]


def test_every_convolution_over_a_picture_is_int8_and_the_vector_ones_stay_float(int8: Any) -> None:
    plan = {row["node"]: row for row in precision_plan(int8)}
    floats = {name for name, row in plan.items() if row["precision"] != "int8"}
    assert floats == SQUEEZED | {"node_linear"}
    assert all("one vector per frame" in plan[name]["why"] for name in floats)
    assert len(plan) - len(floats) == 9  # the stem and four in each block


def test_no_pair_stands_between_a_convolution_and_what_follows_it(int8: Any) -> None:
    out_of_conv = {n.output[0] for n in _inputs_of(int8, "Conv")}
    assert not [q.name for q in _inputs_of(int8, "QuantizeLinear") if q.input[0] in out_of_conv]


def test_a_residual_add_reads_the_skip_from_a_pair_and_the_branch_from_its_convolution(
    int8: Any,
) -> None:
    makers = {out: node.op_type for node in int8.graph.node for out in node.output}
    sides = [sorted(makers[name] for name in add.input) for add in _inputs_of(int8, "Add")]
    assert sides == [["Conv", "DequantizeLinear"]] * 2


def test_weights_stay_float_behind_their_pair_for_tensorrt_8(int8: Any) -> None:
    kinds = {init.data_type for init in int8.graph.initializer if init.name.endswith("weight")}
    assert kinds == {TensorProto.FLOAT}
    assert len(quantize_nodes(int8, weights=True)) == 9


def test_biases_stay_float(int8: Any) -> None:
    assert {i.data_type for i in int8.graph.initializer if i.name.endswith("bias")} == {1}


def test_int8_follows_the_float_net_over_100_frames_of_its_own_states(float_onnx: Path, int8: Any) -> None:
    clip = _clip(100, seed=2)
    right, got = _rolled(onnx.load(float_onnx), clip)[1], _rolled(int8, clip)[1]
    assert _sqnr_db(right, got) > 40
    assert _sqnr_db(right[-20:], got[-20:]) > 40  # no drift


def _state_scales(model: Any, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, ...]]:
    """The scales of the Q/DQ pairs that each group of joined states passes through."""
    weights = {init.name: init for init in model.graph.initializer}
    groups = form.state_scale_names(model, pairs)
    return [tuple(float(numpy_helper.to_array(weights[name])) for name in names) for names in groups]


def test_a_state_is_rounded_once_when_it_is_read(int8: Any, feeds: list[Feed]) -> None:
    """It leaves in float, and rounding it by its one scale on the way changes nothing."""
    (first,), (second,) = _state_scales(int8, STATES)
    session = _session(int8)
    _, n1, n2 = session.run(None, feeds[-1])
    by_hand = {
        "z1": (np.rint(n1 / np.float32(first)) * np.float32(first)).astype(np.float32),
        "z2": (np.rint(n2 / np.float32(second)) * np.float32(second)).astype(np.float32),
    }
    assert not np.array_equal(by_hand["z1"], n1)
    unrounded, rounded = ({**feeds[0], "z1": n1, "z2": n2}, {**feeds[0], **by_hand})
    assert np.array_equal(session.run(None, unrounded)[0], session.run(None, rounded)[0])


def test_a_state_that_adds_up_small_steps_is_never_rounded(tmp_path: Path) -> None:
    """In INT8 with a range of 1.27 a code is 0.01, and steps of 0.001 would all be lost."""
    nodes = [
        helper.make_node("Add", ["z", "step"], ["n"], "add"),
        helper.make_node("Conv", ["n", "w"], ["y"], "conv"),
    ]
    model = _model(nodes, {"z": (1, 4, 2, 2)}, ["y", "n"])
    model.graph.initializer.append(numpy_helper.from_array(np.array([0.001], "f4"), "step"))
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    state = np.full((1, 4, 2, 2), 1.269, np.float32)
    form.quantize_for_tensorrt(path, path, [{"z": state}], state_pairs=[("z", "n")])
    quantized = onnx.load(path)
    assert precision_plan(quantized)[0]["precision"] == "int8"
    assert calibration_table(quantized) == pytest.approx({"n": 0.01})
    session, state = _session(quantized), np.zeros((1, 4, 2, 2), np.float32)
    for _ in range(100):
        answer, state = session.run(None, {"z": state})
    assert np.allclose(state, 0.1, atol=1e-6)
    assert np.allclose(answer, 0.1, atol=0.006)


def test_what_computes_in_float_reads_the_frame_as_it_is(tmp_path: Path) -> None:
    """A restorer adds what its convolution found to a picture that no code has rounded."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
        helper.make_node("Mul", ["x", "x"], ["square"], "square"),
        helper.make_node("Sub", ["square", "a"], ["y"], "sub"),
    ]
    quantized = _quantized(_model(nodes, {"x": (1, 4, 2, 2)}, ["y"]), tmp_path)
    makers = {out: node.op_type for node in quantized.graph.node for out in node.output}
    ((square,), (conv,)) = (_inputs_of(quantized, kind) for kind in ("Mul", "Conv"))
    assert list(square.input) == ["x", "x"]
    assert makers[conv.input[0]] == "DequantizeLinear"


@pytest.mark.parametrize(("width", "precision"), [(8, "fp16"), (256, "int8")])
def test_a_soft_argmax_stays_float_and_a_net_of_tokens_does_not(
    tmp_path: Path, width: int, precision: str
) -> None:
    """Behind the last convolution a matrix product is INT8 only where it is the net's work."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
        helper.make_node("MatMul", ["a", "grid"], ["y"], "places"),
    ]
    model = _model(nodes, {"x": (1, 4, 64, 16)}, ["y"], (1, 4, 64, width))
    grid = np.random.default_rng(0).standard_normal((16, width)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(grid, "grid"))
    eye = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.tile(eye, (1, 1, 3, 3)), "w"))
    model.graph.node[0].attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))
    conv, places = precision_plan(_quantized(model, tmp_path))
    assert (conv["precision"], places["precision"]) == ("int8", precision)
    assert places["why"].startswith("it turns features into" if precision == "fp16" else "its input and its")


def test_the_two_ends_of_a_state_get_the_larger_of_their_scales(tmp_path: Path) -> None:
    """The state is read by one convolution, written from another's input with a smaller range."""
    path = tmp_path / "m.onnx"
    onnx.save(_two_ended(), path)
    loud, soft = np.full((1, 4, 2, 2), 2.54, np.float32), np.full((1, 4, 2, 2), 1.27, np.float32)
    form.quantize_for_tensorrt(path, tmp_path / "q.onnx", [{"x": soft, "z": loud}], state_pairs=[("z", "r")])
    quantized = onnx.load(tmp_path / "q.onnx")
    assert _state_scales(quantized, [("z", "r")]) == [pytest.approx((0.02, 0.02))]
    untied = tmp_path / "untied.onnx"
    form.quantize_for_tensorrt(path, untied, [{"x": soft, "z": loud}], state_pairs=[])
    assert sorted(calibration_table(onnx.load(untied)).values()) == pytest.approx([0.01, 0.02])


def _two_ended() -> Any:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "w"], ["a"], "writes"),
        helper.make_node("Conv", ["z", "w"], ["b"], "reads"),
        helper.make_node("Sub", ["a", "b"], ["y"], "sub"),
    ]
    return _model(nodes, {"x": (1, 4, 2, 2), "z": (1, 4, 2, 2)}, ["y", "r"])


def _model(
    nodes: list[Any],
    inputs: dict[str, tuple[int, ...]],
    outputs: list[str],
    shape: tuple[int, ...] = (1, 4, 2, 2),
) -> Any:
    """A float graph whose outputs have ``shape``, with one 1x1 weight ``w`` that copies its channels."""
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()]
    out = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in outputs]
    eye = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    graph = helper.make_graph(nodes, "g", info, out, [numpy_helper.from_array(eye, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _quantized(model: Any, folder: Path) -> Any:
    """The INT8 form of a graph with one input ``x``, calibrated on a ramp from -1 to 1."""
    onnx.save(model, folder / "m.onnx")
    shape = shapes(model)["x"]
    feed = {"x": np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)}
    form.quantize_for_tensorrt(folder / "m.onnx", folder / "q.onnx", [feed], state_pairs=[])
    return onnx.load(folder / "q.onnx")


def test_an_add_that_cannot_fuse_has_both_its_sides_in_pairs(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Add", ["x", "r"], ["y"], "add"),
    ]
    quantized = _quantized(_model(nodes, {"x": (1, 4, 2, 2)}, ["y"]), tmp_path)
    makers = {out: node.op_type for node in quantized.graph.node for out in node.output}
    (add,) = _inputs_of(quantized, "Add")
    assert [makers[name] for name in add.input] == ["DequantizeLinear"] * 2


@pytest.mark.parametrize(
    ("groups", "channels", "expected", "reason"),
    [
        (4, 4, "int8", "4 groups fill an INT8 kernel's four lanes"),
        (6, 6, "fp16", "6 groups do not, and no INT8 kernel takes them"),
        (1, 3, "int8", "an ungrouped convolution may have any number of channels"),
    ],
)
def test_odd_groups_stay_float(
    tmp_path: Path, groups: int, channels: int, expected: str, reason: str
) -> None:
    weight = np.ones((channels, channels // groups, 1, 1), np.float32)
    shape = (1, channels, 2, 2)
    conv = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv", group=groups),
        helper.make_node("Conv", ["a", "v"], ["y"], "plain"),
    ]
    graph = helper.make_graph(
        conv,
        "g",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, shape)],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.ones((channels, channels, 1, 1), np.float32), "v"),
        ],
    )
    path = tmp_path / "m.onnx"
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    feed = {"x": np.ones(shape, np.float32)}
    form.quantize_for_tensorrt(path, path, [feed], state_pairs=[])
    assert precision_plan(onnx.load(path))[0]["precision"] == expected, reason


def test_a_file_that_cannot_be_read_is_an_error_and_not_a_log_line(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(UsageError, match="cannot be prepared for TensorRT"):
        form.prepare(path)


def test_a_node_named_to_stay_float_does(float_onnx: Path, feeds: list[Feed], tmp_path: Path) -> None:
    out = tmp_path / "q.onnx"
    form.quantize_for_tensorrt(float_onnx, out, feeds[:2], state_pairs=STATES, keep_float=["node_conv2d"])
    row = precision_plan(onnx.load(out))[0]
    assert (row["node"], row["precision"]) == ("node_conv2d", "fp16")
    assert row["why"] == "kept in float by request"


Wrong = Callable[[list[Feed]], dict[str, Any]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda f: {"feeds": []}, "ranges need calibration clips"),
        (lambda f: {"feeds": [{"frame": f[0]["frame"]}]}, "step 0 feeds"),
        (lambda f: {"feeds": [f[0], f[1] | {"z1": EMPTY * np.nan}]}, "step 1: 'z1' holds a NaN"),
        (lambda f: {"keep_float": ["node_conv2"]}, "Did you mean 'node_conv2d'"),
        (lambda f: {"state_pairs": [("z3", "n1")]}, "unknown state input 'z3'"),
        (lambda f: {"state_pairs": [("z1", "n3")]}, "unknown state output 'n3'"),
    ],
)
def test_a_wrong_request_is_one_clear_line(
    float_onnx: Path, feeds: list[Feed], tmp_path: Path, wrong: Wrong, message: str
) -> None:
    asked: dict[str, Any] = {"feeds": feeds[:2], "state_pairs": STATES} | wrong(feeds)
    with pytest.raises(UsageError, match=message):
        form.quantize_for_tensorrt(float_onnx, tmp_path / "q.onnx", **asked)
    assert not list(tmp_path.iterdir())


def test_keeping_everything_float_is_refused_and_never_quantizes_everything(
    float_onnx: Path, feeds: list[Feed], tmp_path: Path
) -> None:
    names = [node.name for node in weighted_nodes(onnx.load(float_onnx))]
    with pytest.raises(UsageError, match="none of the 14"):
        form.quantize_for_tensorrt(
            float_onnx, tmp_path / "q.onnx", feeds[:1], state_pairs=STATES, keep_float=names
        )


def test_opset_17_is_really_written_and_computes_the_same(int8: Any, feeds: list[Feed]) -> None:
    old = to_opset(int8, 17)
    assert (opset_of(old), old.ir_version) == (17, 8)
    assert all(len(node.input) == 1 for node in _inputs_of(old, "ReduceMean"))
    onnx.checker.check_model(old, full_check=True)
    for feed in feeds[::8]:
        right, got = _session(int8).run(None, feed), _session(old).run(None, feed)
        assert all(map(np.array_equal, right, got))


def test_the_float_fallback_goes_to_opset_17_too(float_onnx: Path, feeds: list[Feed]) -> None:
    old = to_opset(form.prepare(float_onnx), 17)
    assert opset_of(old) == 17
    assert "HardSwish" not in {node.op_type for node in old.graph.node}
    right = _session(onnx.load(float_onnx)).run(None, feeds[-1])
    got = _session(old).run(None, feeds[-1])
    assert all(np.allclose(r, g, atol=1e-6) for r, g in zip(right, got, strict=True))


@pytest.mark.parametrize(
    ("channels", "sizes", "reason"),
    [
        (4, [2, 2], "equal parts"),
        (5, [3, 2], "opset 18 rounds the size up and the last part gets the rest"),
    ],
)
def test_a_split_in_two_is_written_out(channels: int, sizes: list[int], reason: str) -> None:
    """A temporal shift is a Split, and the onnx package has no way down from opset 18 for it."""
    nodes = [
        helper.make_node("Split", ["x"], ["left", "right"], "split", axis=1, num_outputs=2),
        helper.make_node("Concat", ["right", "left"], ["y"], "cat", axis=1),
    ]
    shape = (1, channels, 2, 2)
    model = _model(nodes, {"x": shape}, ["y"], shape)
    old = to_opset(model, 17)
    (split,) = _inputs_of(old, "Split")
    (written,) = [i for i in old.graph.initializer if i.name == split.input[1]]
    assert numpy_helper.to_array(written).tolist() == sizes, reason
    x = np.arange(4 * channels, dtype=np.float32).reshape(shape)
    (right,), (got,) = (_session(m).run(None, {"x": x}) for m in (model, old))
    assert np.array_equal(right, got)


def test_an_operator_with_no_form_at_the_opset_is_an_error() -> None:
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], "r", antialias=1, mode="linear")
    model = _model([node], {"x": (1, 4, 2, 2)}, ["y"])
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "s"))
    with pytest.raises(UsageError, match=r"no form at opset 17 .*antialias"):
        to_opset(model, 17)


def test_the_strong_file_is_float16_inside_and_float32_outside(int8: Any) -> None:
    strong = fp16.to_fp16(int8)
    graph = strong.graph
    assert opset_of(strong) == 19
    assert {t.type.tensor_type.elem_type for t in [*graph.input, *graph.output]} == {1}
    inits = {init.name: init for init in graph.initializer}
    assert TensorProto.FLOAT not in {init.data_type for init in graph.initializer}
    for node in quantize_nodes(strong, weights=False) + _inputs_of(strong, "DequantizeLinear"):
        assert inits[node.input[1]].data_type == TensorProto.FLOAT16
    weights = [inits[n.input[0]] for n in _inputs_of(strong, "DequantizeLinear") if n.input[0] in inits]
    assert [w.data_type for w in weights] == [TensorProto.INT8] * 9
    for weight in weights:
        assert 100 < np.abs(numpy_helper.to_array(weight).astype(int)).max() <= 127


def test_the_strong_file_follows_the_weak_one(int8: Any, float_onnx: Path) -> None:
    clip = _clip(30, seed=3)
    weak, strong = (_rolled(m, clip)[1] for m in (to_opset(int8, 17), fp16.to_fp16(int8)))
    assert _sqnr_db(weak, strong) > 45
    plain = form.prepare(float_onnx)
    right, got = (_rolled(m, clip)[1] for m in (plain, fp16.to_fp16(plain)))
    assert _sqnr_db(right, got) > 65


def test_the_state_keeps_one_scale_in_float16(int8: Any) -> None:
    groups = _state_scales(fp16.to_fp16(int8), STATES)
    assert [len(set(scales)) for scales in groups] == [1, 1]


def test_a_float16_scale_never_shrinks_and_never_vanishes() -> None:
    scale = np.array([0.5, 0.1, 1e-9], np.float32)
    half = fp16.fp16_scale(scale)
    assert half[0] == 0.5
    assert 0.1 <= half[1] < 0.1001  # 0.1 is no float16: the next one up
    assert half[2] == np.float32(2.0**-14)


def test_an_activation_too_quiet_for_float16_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv")]
    onnx.save(_model(nodes, {"x": (1, 4, 2, 2)}, ["y"]), path)
    feed = {"x": np.full((1, 4, 2, 2), 1.27e-4, np.float32)}
    form.quantize_for_tensorrt(path, path, [feed], state_pairs=[])
    with pytest.raises(UsageError, match=r"'x' never exceeded 0\.00013"):
        fp16.to_fp16(onnx.load(path))


def test_the_same_input_gives_the_same_bytes(
    float_onnx: Path, feeds: list[Feed], int8: Any, tmp_path: Path
) -> None:
    again = tmp_path / "again.onnx"
    form.quantize_for_tensorrt(float_onnx, again, feeds, state_pairs=STATES)
    assert again.read_bytes() == float_onnx.with_name("int8.onnx").read_bytes()
    for make in (lambda m: to_opset(m, 17), fp16.to_fp16):
        assert make(int8).SerializeToString() == make(onnx.load(again)).SerializeToString()


def test_making_a_file_leaves_its_source_as_it_was(int8: Any) -> None:
    source = onnx.load_from_string(int8.SerializeToString())
    source.opset_import.append(helper.make_opsetid("com.microsoft", 1))  # unused, to be dropped
    before = source.SerializeToString()
    made = [to_opset(source, 17), fp16.to_fp16(source)]
    assert source.SerializeToString() == before
    assert [len(m.opset_import) for m in made] == [1, 1]


def _packed(int8: Any, float_onnx: Path) -> dict[str, tuple[Any, int]]:
    """The four files of a bundle, each with the opset its device reads."""
    plain = form.prepare(float_onnx)
    return {
        "weak-int8": (to_opset(int8, 17), 17),
        "strong-int8": (fp16.to_fp16(int8), 19),
        "weak-float": (to_opset(plain, 17), 17),
        "strong-float": (fp16.to_fp16(plain), 19),
    }


def test_our_rules_find_nothing_in_our_own_files(int8: Any, float_onnx: Path) -> None:
    for name, (model, opset) in _packed(int8, float_onnx).items():
        assert check(model, opset_limit=opset) == [], name


@pytest.mark.slow
@pytest.mark.skipif(not present("tensorrt_rtx"), reason="needs edgepv[trt-check]")
def test_nvidias_parser_takes_all_our_files(int8: Any, float_onnx: Path, tmp_path: Path) -> None:
    for name, (model, _) in _packed(int8, float_onnx).items():
        path = tmp_path / f"{name}.onnx"
        onnx.save(model, path)
        verdict = parse_with_nvidia(path)
        assert verdict.accepted, (name, verdict)
