"""Small step graphs as C: every operator, every kind of state, every width of vectors, every refusal."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generated import WARNINGS, C, Generated, answers, any_compiler, compiled, compilers, reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from step_graphs import Net

from edgepv.errors import UsageError
from edgepv.firmware import FLAGS, generate
from edgepv.types import Variant

CLOSE = 1e-5  # of the largest answer, and of 1 where all are smaller
QUICK = ("-march=native", "-O1")
CANCELLED = 23  # EDGEPV_CANCELLED


def agree(
    variant: Variant, data: bytes, folder: Path, frames: int = 7, options: Sequence[str] = QUICK
) -> Generated:
    """Compile, and hold every answer against ONNX Runtime's."""
    made = generate(variant, data, "d" * 64)
    net = Generated(compiled(made, folder, any_compiler(), options))
    stepper = reference(variant, data)
    assert variant.stream is not None
    rng = np.random.default_rng(1)
    waiting: list[np.ndarray] = []
    for _ in range(frames * variant.stream.chunk):
        frame = rng.standard_normal(variant.spec.input.shape).astype(np.float32)
        waiting.append(frame)
        outputs = stepper.step(frame)
        if len(waiting) < variant.stream.chunk:
            continue
        expected, got = answers(variant, outputs), net.step(np.concatenate(waiting))
        waiting.clear()
        assert np.abs(got - expected).max() <= CLOSE * max(1.0, float(np.abs(expected).max()))
    return net


# -- states ------------------------------------------------------------------------------------------------


def mixed(period: int = 1, first: int = 0, init: float = 0.0) -> tuple[Variant, bytes]:
    """A net with a state of every kind: moved by itself, by the host, replaced, and the frames themselves."""
    net = Net((1, 3, 6, 5))
    kind = {"period": period, "first": first, "init": init}
    x = net.add("Relu", net.conv("frame", 10, pads=[1, 1, 1, 1]))
    own = net.state((1, 10, 2, 30), **kind)
    flat = net.add("Reshape", x, net.whole(1, 10, 1, 30))
    joined = net.add("Concat", own, flat, axis=2)
    net.keep(own, net.add("Slice", joined, net.whole(1), net.whole(2**62), net.whole(2), net.whole(1)))
    w = net.constant(10, 1, 3, 1)
    y = net.add("Reshape", net.add("Conv", joined, w, net.constant(10), group=10), net.whole(1, 10, 6, 5))
    host = net.state((2, 10, 6, 5), update="shift", **kind)
    net.keep(host, y)
    rows = net.add("Reshape", net.add("Concat", host, y, axis=0), net.whole(1, 30, 6, 5))
    z = net.add("Relu", net.conv(rows, 9, pads=[1, 1, 1, 1]))
    old = net.state((1, 9, 6, 5), **kind)
    net.keep(old, net.add("Tanh", net.add("Add", z, old)))
    seen = net.state((2, 3, 6, 5), update="shift", **kind)
    net.keep(seen, "frame")
    frames = net.add("Reshape", net.add("Concat", seen, "frame", axis=0), net.whole(1, 9, 6, 5))
    last = net.add("Sub", net.add("Mul", frames, old), z)
    return net.finish(net.add("ReduceMean", last, net.whole(2, 3), keepdims=0))


@pytest.mark.slow
@pytest.mark.parametrize(("period", "first", "init"), [(1, 0, 0.0), (1, 2, 0.5), (3, 0, 0.0), (2, 4, -1.0)])
def test_states_are_what_the_host_would_keep(period: int, first: int, init: float, tmp_path: Path) -> None:
    agree(*mixed(period, first, init), tmp_path, frames=12)


@pytest.mark.slow
def test_a_step_that_is_not_kept_changes_nothing(tmp_path: Path) -> None:
    variant, data = mixed()
    library = compiled(generate(variant, data, "0"), tmp_path, any_compiler(), QUICK)
    calm, disturbed = Generated(library), Generated(library)
    rng = np.random.default_rng(2)
    for _ in range(5):
        frame, other = rng.standard_normal((2, 1, 3, 6, 5)).astype(np.float32)
        assert disturbed.run(other) == 0  # computed, but not committed
        assert disturbed.run(other, cancelled=1) == CANCELLED
        assert np.array_equal(calm.step(frame), disturbed.step(frame))


@pytest.mark.slow
def test_reset_forgets_all(tmp_path: Path) -> None:
    variant, data = mixed(period=2, first=1, init=0.5)
    net = Generated(compiled(generate(variant, data, "0"), tmp_path, any_compiler(), QUICK))
    frames = np.random.default_rng(3).standard_normal((5, 1, 3, 6, 5)).astype(np.float32)
    first = [net.step(frame) for frame in frames]
    net.reset()
    assert all(np.array_equal(net.step(frame), before) for frame, before in zip(frames, first))


@pytest.mark.slow
def test_several_frames_at_once(tmp_path: Path) -> None:
    """A chunk of two frames, convolved apart, beside those of the chunk before."""
    net = Net((2, 3, 5, 4))
    before = net.state((2, 8, 5, 4), update="shift", fresh=2)
    x = net.add("Relu", net.conv("frame", 8, pads=[1, 1, 1, 1]))
    net.keep(before, x)
    both = net.add("Concat", before, x, axis=0)
    y = net.conv(net.add("Reshape", both, net.whole(1, 32, 5, 4)), 3)
    agree(*net.finish(net.add("ReduceMax", y, net.whole(2, 3), keepdims=0), chunk=2), tmp_path)


@pytest.mark.slow
def test_a_state_in_rows_can_be_written_by_the_host(tmp_path: Path) -> None:
    net = Net((1, 1, 2, 2))
    place = net.state((1, 4, 2))
    rows = net.add("Reshape", "frame", net.whole(1, 4, 1))
    moved = net.add("Add", place, rows)
    net.keep(place, moved)
    variant, data = net.finish(net.add("Mul", moved, net.constant(1, 4, 2)))
    made = agree(variant, data, tmp_path)
    assert made.writable(0)
    frame = np.ones((1, 1, 2, 2), np.float32)
    made.write(0, np.full((1, 4, 2), 2.0, np.float32))
    assert np.allclose(made.step(frame), 3 * net.constants["c1"].reshape(-1))


# -- operators ---------------------------------------------------------------------------------------------


def picture(net: Net, draw: st.DrawFn, x: str) -> str:
    """One more operator over an image."""
    n, channels, height, width = net.shapes[x]
    kinds = [
        "conv",
        "depth",
        "grouped",
        "act",
        "residual",
        "squeeze",
        "pool",
        "concat",
        "slice",
        "state",
        "larger",
    ]
    kind = draw(st.sampled_from(kinds))
    if kind in ("conv", "depth", "grouped"):
        kernel = [draw(st.integers(1, 3)), draw(st.integers(1, 3))]
        pads = [draw(st.integers(0, 2)) for _ in range(4)]
        dilations = [draw(st.integers(1, 2)) for _ in range(2)]
        sizes = [height + pads[0] + pads[2], width + pads[1] + pads[3]]
        if any(size <= (k - 1) * d for size, k, d in zip(sizes, kernel, dilations)):
            return x
        strides = [draw(st.integers(1, 2)), draw(st.integers(1, 2))]
        group = {"conv": 1, "depth": channels, "grouped": 2 if channels % 2 == 0 else 1}[kind]
        count = channels if kind == "depth" else group * draw(st.integers(1, 17))
        return net.conv(x, count, kernel, group, pads=pads, strides=strides, dilations=dilations)
    if kind == "act":
        return activated(net, draw, x)
    if kind == "residual":
        return net.add("Add", net.conv(x, channels, pads=[1, 1, 1, 1]), x)
    if kind == "squeeze":
        mean = net.add("ReduceMean", x, net.whole(2, 3), keepdims=1)
        scale = net.add("HardSigmoid", net.conv(mean, channels, (1, 1)))
        return net.conv(net.add("Mul", x, scale), draw(st.integers(1, 17)), (1, 1))
    if kind == "pool":
        op = draw(st.sampled_from(["MaxPool", "AveragePool"]))
        more = {"count_include_pad": draw(st.integers(0, 1))} if op == "AveragePool" else {}
        if min(height, width) < 2:
            return x
        strides = [draw(st.integers(1, 2))] * 2
        return net.add(op, x, kernel_shape=[2, 2], pads=[1, 0, 1, 1], strides=strides, **more)
    if kind == "concat":
        return net.add("Concat", x, activated(net, draw, x), axis=1)
    if kind == "slice":
        ends = net.whole(max(1, channels - 1))
        return net.add("Slice", x, net.whole(0), ends, net.whole(1), net.whole(1))
    if kind == "state":
        state = net.state((n, channels, height, width))
        net.keep(state, x)
        return net.add("Sub", x, state)
    if max(height, width) > 12:
        return x
    mode = draw(st.sampled_from(["nearest", "linear"]))
    net.constants[name := f"c{len(net.constants)}"] = np.array([1, 1, 2, 2], np.float32)
    return net.add("Resize", x, "", name, mode=mode, coordinate_transformation_mode="half_pixel")


def activated(net: Net, draw: st.DrawFn, x: str) -> str:
    ops = ["Relu", "HardSigmoid", "Sigmoid", "Tanh", "Abs", "LeakyRelu", "HardSwish", "Neg", "Clip"]
    op = draw(st.sampled_from(ops))
    if op == "Clip":
        low, high = net.constant(), net.constant()
        net.constants[low], net.constants[high] = np.array(-0.5, np.float32), np.array(0.75, np.float32)
        return net.add("Clip", x, low, high)
    return net.add(op, x)


def rows(net: Net, draw: st.DrawFn, x: str) -> str:
    """One more operator over (1, rows, columns)."""
    _, count, width = net.shapes[x]
    kind = draw(
        st.sampled_from(["matmul", "turn", "softmax", "attend", "norm", "shift", "gather", "split", "state"])
    )
    if kind == "matmul":
        other = draw(st.integers(1, 17))
        product = net.add("MatMul", x, net.constant(width, other))
        return net.add("Relu", net.add("Add", product, net.constant(other)))
    if kind == "turn":
        return net.add("Transpose", x, perm=[0, 2, 1])
    if kind == "softmax":
        return net.add("Softmax", x, axis=draw(st.sampled_from([-1, 1])))
    if kind == "attend":
        likeness = net.add("MatMul", x, net.add("Transpose", x, perm=[0, 2, 1]))
        return net.add("MatMul", net.add("Softmax", likeness, axis=-1), x)
    if kind == "norm":
        mean = net.add("ReduceMean", x, net.whole(-1), keepdims=1)
        off = net.add("Sub", x, mean)
        spread = net.add("ReduceMean", net.add("Mul", off, off), net.whole(-1), keepdims=1)
        return net.add("Div", off, net.add("Sqrt", net.add("Add", spread, net.add("Abs", net.constant(1)))))
    if kind == "shift":
        state = net.state((1, 2, width))
        joined = net.add("Concat", state, x, axis=1)
        net.keep(
            state, net.add("Slice", joined, net.whole(count), net.whole(2**62), net.whole(1), net.whole(1))
        )
        return net.add("ReduceSum", joined, net.whole(1), keepdims=1)
    if kind == "gather":
        return net.add("Gather", x, net.whole(count - 1, 0, count // 2), axis=1)
    if kind == "split" and width > 1:
        first = net.add("Split", x, net.whole(1, width - 1), outputs=2, axis=2)
        return net.add("Mul", f"{first[:-1]}b", first)
    state = net.state((1, count, width))
    net.keep(state, net.add("Tanh", net.add("Add", x, state)))
    return net.add("Max", x, state)


@st.composite
def nets(draw: st.DrawFn) -> tuple[Variant, bytes]:
    """A few operators over images, then a few over rows."""
    side = st.integers(1, 17)
    net = Net((1, draw(st.sampled_from([1, 3])), draw(side), draw(side)), seed=draw(st.integers(0, 99)))
    x = net.conv("frame", draw(st.integers(1, 17)), (1, 1))
    for _ in range(draw(st.integers(1, 4))):
        x = picture(net, draw, x)
    _, channels, height, width = net.shapes[x]
    seen, y = x, net.add("Reshape", x, net.whole(1, channels, height * width))
    if channels * height * width > 600:  # rows times columns that products stay small over
        y = net.add("Reshape", net.add("GlobalAveragePool", x), net.whole(1, 1, channels))
    for _ in range(draw(st.integers(0, 3))):
        y = rows(net, draw, y)
    return net.finish(*dict.fromkeys((y, seen)))


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(net=nets())
def test_small_nets_of_any_operators_agree(net: tuple[Variant, bytes], tmp_path_factory: Any) -> None:
    agree(*net, tmp_path_factory.mktemp("net"), frames=4)


ELEMENTS = ("Exp", "Erf", "Floor", "Ceil", "Softplus", "Sigmoid", "Sqrt", "Log", "Reciprocal", "HardSwish")


@pytest.mark.slow
def test_every_element_by_element_operator_agrees(tmp_path: Path) -> None:
    net = Net((1, 3, 4, 5))
    x = net.add("Add", net.add("Abs", "frame"), net.add("Abs", net.constant(1, 3, 1, 1)))
    found = [net.add(op, x) for op in ELEMENTS]
    found += [net.add(op, x, net.constant(3, 1, 1)) for op in ("Min", "Max", "PRelu", "Div")]
    found.append(net.add("Pow", x, net.constant(1)))
    agree(*net.finish(*found), tmp_path)


@pytest.mark.slow
def test_what_moves_values_agrees(tmp_path: Path) -> None:
    net = Net((1, 8, 4, 6))
    x = net.conv("frame", 8, pads=[1, 1, 1, 1])
    found = [net.add("DepthToSpace", x, blocksize=2, mode=mode) for mode in ("CRD", "DCR")]
    found.append(net.add("Pad", x, net.whole(0, 1, 2, 0, 0, 0, 1, 3)))
    found.append(net.add("Expand", net.add("ReduceMax", x, net.whole(2), keepdims=1), net.whole(1, 8, 4, 6)))
    found.append(net.add("Slice", x, net.whole(3), net.whole(-10), net.whole(2), net.whole(-2)))
    found.append(net.add("Transpose", x, perm=[0, 3, 1, 2]))
    found.append(
        net.add("Gemm", net.add("Flatten", x), net.constant(192, 9), net.constant(9), alpha=0.5, beta=2.0)
    )
    found.append(net.add("ReduceL2", x, net.whole(1), keepdims=0))
    agree(*net.finish(*found), tmp_path)


# -- compilers ---------------------------------------------------------------------------------------------

WIDTHS = [
    pytest.param(("-DEDGEPV_LANES=1", "-std=c99", "-pedantic"), id="plain C99"),
    pytest.param(("-DEDGEPV_LANES=4",), id="4 lanes"),
    pytest.param(("-march=native",), id="this CPU"),
]


@pytest.mark.slow
@pytest.mark.parametrize("compiler", compilers())
@pytest.mark.parametrize("options", WIDTHS)
def test_every_width_of_vectors_agrees(options: Sequence[str], compiler: str, tmp_path: Path) -> None:
    variant, data = mixed()
    net = Generated(compiled(generate(variant, data, "0"), tmp_path, compiler, options))
    stepper = reference(variant, data)
    for frame in np.random.default_rng(4).standard_normal((6, 1, 3, 6, 5)).astype(np.float32):
        expected = answers(variant, stepper.step(frame))
        assert np.abs(net.step(frame) - expected).max() <= CLOSE * max(1.0, float(np.abs(expected).max()))


CROSS = ("aarch64-linux-gnu-gcc", "arm-linux-gnueabihf-gcc", "arm-none-eabi-gcc")


@pytest.mark.slow
@pytest.mark.parametrize("compiler", CROSS)
def test_other_processors_compile_it(compiler: str, tmp_path: Path) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    for name, data in generate(*mixed(), "0").sources.items():
        (tmp_path / name).write_bytes(data)
    cpu = ("-mcpu=cortex-m7", "-mfloat-abi=hard") if "none" in compiler else ()
    command = [
        compiler,
        *FLAGS,
        *WARNINGS,
        *cpu,
        f"-I{C}",
        "-c",
        tmp_path / "model.c",
        "-o",
        tmp_path / "model.o",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_nothing_is_read_or_written_outside(tmp_path: Path) -> None:
    """Sanitizers of addresses and of undefined behaviour, over a program, as shared objects have none."""
    for name, data in generate(*mixed(), "0").sources.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "main.c").write_text(MAIN)
    built = tmp_path / "main"
    sane = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-march=native")
    command: list[str | Path] = [
        any_compiler(),
        *FLAGS,
        *sane,
        f"-I{C}",
        tmp_path / "model.c",
        tmp_path / "main.c",
        "-o",
        built,
        "-lm",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "asan" in done.stderr:
        pytest.skip("the compiler has no sanitizers here")
    assert done.returncode == 0, done.stderr
    ran = subprocess.run([built], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


MAIN = """
#include "edgepv_model.h"
#include <stdlib.h>
extern const edgepv_model edgepv_model_small_net;
int main(void) {
    const edgepv_model *const m = &edgepv_model_small_net;
    volatile uint32_t cancel = 0;
    void *const state = aligned_alloc(EDGEPV_ALIGN, m->state_bytes);
    float *const arena = aligned_alloc(EDGEPV_ALIGN, m->arena_bytes);
    float *const outputs = malloc(m->output_values * sizeof(float));
    m->reset(m, state);
    for (int frame = 0; frame < 9; frame++) {
        for (uint32_t y = 0; y < m->height; y++) {
            for (uint32_t x = 0; x < m->width * m->channels; x++) {
                arena[m->input.offset / 4 + y * m->input.row_values + x] = (float)(x + y) * 0.01f;
            }
        }
        if (m->run(m, state, arena, outputs, &cancel) != EDGEPV_OK) {
            return 1;
        }
        m->commit(m, state);
    }
    free(state), free(arena), free(outputs);
    return 0;
}
"""


# -- what is told, and what is refused -----------------------------------------------------------------------


def test_a_model_tells_its_name_and_digest(tmp_path: Path) -> None:
    variant, data = mixed()
    odd = replace(variant, spec=replace(variant.spec, name='small "net" \\ ü ??/'))
    made = generate(odd, data, "d" * 64)
    assert made.symbol == "edgepv_model_small__net" + 9 * "_"
    net = Generated(compiled(made, tmp_path, any_compiler(), ("-O0",)))
    assert net.texts == ("d" * 64, 'small "net" \\ ü ??/')


def test_arena_and_states_are_as_large_as_told(tmp_path: Path) -> None:
    made = generate(*mixed(), "0")
    net = Generated(compiled(made, tmp_path, any_compiler(), ("-O0",)))
    assert (net.state.size, net.arena.size) == (made.state_bytes, made.arena_bytes)
    assert made.liveness_bound <= made.arena_bytes


def refused(net: Net, answer: str, why: str, **change: Any) -> None:
    variant, data = net.finish(answer)
    with pytest.raises(UsageError, match=why):
        generate(replace(variant, **change), data, "0")


def test_an_operator_without_c_is_named_with_its_node() -> None:
    net = Net((1, 3, 4, 4))
    refused(net, net.add("Sin", "frame"), "Sin 'n0' cannot be firmware: there is no C")


def test_an_operator_of_another_domain_is_refused() -> None:
    net = Net((1, 3, 4, 4))
    answer = net.add("Relu", "frame")
    net.nodes[0].domain = "com.microsoft"
    refused(net, answer, "Relu 'n0' cannot be firmware: it is of the domain 'com.microsoft'")


def test_only_steps_in_fp32_and_int8_are_taken() -> None:
    net = Net((1, 3, 4, 4))
    answer = net.add("Relu", "frame")
    refused(net, answer, "v is no window over several frames", form="window", stream=None)
    refused(net, answer, "v is fp16; C is generated of fp32 and int8 files", precision="fp16")


def test_weights_that_are_computed_are_refused() -> None:
    net = Net((1, 3, 4, 4))
    w = net.add("Add", net.state((2, 3, 1, 1)), net.constant(2, 3, 1, 1))
    net.keep("s0", w)
    refused(net, net.add("Conv", "frame", w), "Conv 'n1' cannot be firmware: its input 'v0a' is computed")


def test_padding_left_to_the_engine_is_refused() -> None:
    net = Net((1, 3, 4, 4))
    refused(net, net.conv("frame", 2, auto_pad="SAME_UPPER"), "auto_pad")


def test_constants_are_folded() -> None:
    net = Net((1, 3, 4, 4))
    scale = net.add("Exp", net.add("Neg", net.constant(1)))
    made = generate(*net.finish(net.add("Mul", "frame", scale)), "0")
    assert b"expf(" not in made.sources["model.c"]
