"""Steps on codes of eight bits: what they mean, and that the C gives the same codes on every machine."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from building import ARM64, ARMV7, CORTEX_M7, SANITIZED, Machine
from generated import Generated, answers, any_compiler, compiled
from step_graphs import Net

from edgepv.base.optional import ort_options, ort_session
from edgepv.cli.firmware import exact_golden
from edgepv.errors import ParityError
from edgepv.firmware import generate
from edgepv.firmware.compiler import cpu_flags
from edgepv.firmware.exact import ExactEngine
from edgepv.firmware.graph import Code
from edgepv.stream import Stepper
from edgepv.types import Variant

FRAMES = 5
FEW = 0.002
"""Of all codes: so many may be one off from ONNX Runtime's float sums, where those end at a half."""


def net_of_codes() -> tuple[Variant, bytes]:
    """Every kernel there is for codes: few and many channels, borders, rings, means, factors, sums."""
    net = Net((1, 3, 9, 11))
    x = net.coded("frame", 0.04, 117)
    x = net.coded(net.coded_conv(x, 0.04, 20, pads=[1, 1, 1, 1], strides=[2, 2]), 0.02, 0)
    x = net.coded(
        net.coded_conv(x, 0.02, 20, group=20, pads=[1, 1, 1, 1], float_bias=True), 0.03, -11, np.int8
    )
    ring = net.state((1, 20, 2, 30))
    flat = net.coded(net.add("Reshape", x, net.whole(1, 20, 1, 30)), 0.03, -11, np.int8)
    joined = net.add("Concat", net.coded(ring, 0.03, -11, np.int8), flat, axis=2)
    joined = net.coded(joined, 0.03, -11, np.int8)
    net.keep(ring, net.add("Slice", joined, net.whole(1), net.whole(2**62), net.whole(2), net.whole(1)))
    y = net.coded(net.add("Relu", net.coded_conv(joined, 0.03, 20, (3, 1), 20)), 0.02, 7)
    y = net.add("Reshape", y, net.whole(1, 20, 5, 6))
    small = net.conv(net.add("ReduceMean", y, net.whole(2, 3), keepdims=1), 6, (1, 1))
    gate = net.conv(net.add("Relu", small), 20, (1, 1))
    gate = net.coded(net.add("HardSigmoid", gate, alpha=1 / 6, beta=0.5), 1 / 255, 0)
    y = net.coded(net.add("Mul", y, gate), 0.015, 3)
    y = net.coded(net.coded_conv(y, 0.015, 20, (1, 1)), 0.02, 130)
    x = net.coded(net.add("Relu", net.add("Add", x, y)), 0.03, 0)
    old = net.state((1, 20, 5, 6), init=0.5)
    net.keep(old, x)
    both = net.add("Concat", net.coded(old, 0.03, 0), x, axis=1)
    both = net.coded(net.add("MaxPool", both, kernel_shape=[2, 2], strides=[2, 2]), 0.05, 4)
    kept = net.coded(net.conv(both, 12, (2, 2)), 0.1, 120)  # a layer in float between codes
    last = net.coded_conv(kept, 0.1, 5, (1, 1), float_bias=True)
    mean = net.add("ReduceMean", net.coded(last, 0.01, 128), net.whole(2, 3), keepdims=0)
    hidden = net.add("Relu", net.add("MatMul", mean, net.constant(5, 11)))
    variant, data = net.finish(net.add("Gemm", hidden, net.constant(11, 3), net.constant(3)), last, x)
    return replace(variant, precision="int8"), data


def net_that_rounds_what_it_reads() -> tuple[Variant, bytes]:
    """Q/DQ as TensorRT wants it: signed, on inputs alone, float biases; a ring is rounded when it is read."""
    net = Net((1, 3, 9, 11))
    x = net.coded_conv(net.coded("frame", 0.04, 0, np.int8), 0.04, 12, pads=[1, 1, 1, 1], float_bias=True)
    x = net.add("Relu", x)
    x = net.coded_conv(net.coded(x, 0.02, 0, np.int8), 0.02, 12, group=12, pads=[1, 1, 1, 1], float_bias=True)
    ring = net.state((1, 12, 2, 99))
    joined = net.add("Concat", ring, net.add("Reshape", x, net.whole(1, 12, 1, 99)), axis=2)
    net.keep(ring, net.add("Slice", joined, net.whole(1), net.whole(2**62), net.whole(2), net.whole(1)))
    y = net.coded_conv(net.coded(joined, 0.03, 0, np.int8), 0.03, 12, (3, 1), 12, float_bias=True)
    y = net.add("Reshape", net.add("Relu", y), net.whole(1, 12, 9, 11))
    y = net.coded_conv(net.coded(y, 0.02, 0, np.int8), 0.02, 12, (1, 1), float_bias=True)
    variant, data = net.finish(net.add("Add", y, net.coded(net.add("Relu", x), 0.025, 0, np.int8)))
    return replace(variant, precision="int8"), data


NETS = {"codes": net_of_codes, "rounds what it reads": net_that_rounds_what_it_reads}


def frames_of(variant: Variant, count: int = FRAMES) -> np.ndarray:
    """Numbers that every machine makes by itself, (count, 1, C, H, W)."""
    return np.stack([made_frame(variant.spec.input.shape, n) for n in range(count)])


def made_frame(shape: Sequence[int], number: int) -> np.ndarray:
    n, c, h, w = shape
    at = np.arange(h * w * c, dtype=np.int64).reshape(n, h, w, c)
    return ((at * 7919 + number * 104729) % 641 - 320).transpose(0, 3, 1, 2).astype(np.float32) / 64


def wanted(variant: Variant, data: bytes) -> list[np.ndarray]:
    stepper = Stepper(ExactEngine(variant, data).infer, variant.spec, variant.stream)
    return [answers(variant, stepper.step(frame)) for frame in frames_of(variant)]


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """To the bit."""
    return one.astype(np.float32).tobytes() == other.astype(np.float32).tobytes()


def test_codes_are_rounded_halves_to_even_and_saturated() -> None:
    assert Code(0.5, 3).of([0.25, 0.75, -0.25, -100, 1000, np.nan]).tolist() == [3, 5, 3, 0, 255, 0]
    assert Code(0.5, 3).means(np.array([0, 3, 5], np.uint8)).tolist() == [-1.5, 0.0, 1.0]


@pytest.mark.parametrize("net", NETS)
def test_what_is_exact_is_what_onnx_runtime_computes_without_rewrites(net: str) -> None:
    """Code for code, each layer from the same codes; sums of floats may end on the other side of a half."""
    variant, data = NETS[net]()
    ours = ExactEngine(variant, data).step
    codes = sorted(name for node in ours.graph.nodes for name in node.outputs if name in ours.graph.codes)
    model = onnx.load_model_from_string(data)
    inside = [n for n in codes if any(n in node.output for node in model.graph.node)]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inside)
    session = ort_session(model.SerializeToString(), ort_options(rewrites="none"))
    stepper = Stepper(ExactEngine(variant, data).infer, variant.spec, variant.stream)
    off = total = 0
    for frame in frames_of(variant):
        feeds = stepper.feeds(frame)
        assert feeds is not None
        inputs = {variant.inputs[name]: value for name, value in feeds.items()}
        mine = ours.codes(inputs)
        for name, theirs in zip(inside, session.run(inside, inputs), strict=True):
            signed = 128 if theirs.dtype == np.int8 else 0
            apart = np.abs(mine[name].astype(np.int64) - theirs - signed)
            assert apart.max() <= 1, name
            off, total = off + int((apart > 0).sum()), total + apart.size
        stepper.run(feeds)
    assert len(inside) >= 3 and off <= FEW * total


def test_states_that_are_read_as_codes_are_kept_as_such() -> None:
    made = generate(*net_of_codes(), "0")
    ring, old = 3 * (30 * 24 + 4), 2 * (30 * 24 + 4)  # places of bytes, channels filled up to 24
    assert ring + old <= made.state_bytes <= ring + old + 6 * 64
    assert made.liveness_bound <= made.arena_bytes


BUILDS = [
    ("gcc", "plain C99", ("-DEDGEPV_LANES=1", "-std=c99", "-pedantic"), ()),
    ("clang", "plain C99", ("-DEDGEPV_LANES=1",), ()),
    ("gcc", "AVX2", ("-march=x86-64-v3",), ("avx2", "fma")),
    ("clang", "AVX2", ("-march=x86-64-v3",), ("avx2", "fma")),
    ("gcc", "AVX2 with VNNI", ("-march=native", "-DEDGEPV_LANES=8"), ("avx512_vnni", "avx512vl")),
    ("gcc", "AVX-512 without VNNI", ("-march=native", "-mno-avx512vnni"), ("avx512bw", "avx512vl")),
    ("gcc", "this CPU", ("-march=native",), ()),
    ("clang", "this CPU", ("-march=native",), ()),
]
"""Compiler, what it is told, and what this CPU must have for that."""


def test_a_ring_that_is_rounded_when_it_is_read_holds_codes() -> None:
    made = generate(*net_that_rounds_what_it_reads(), "0")
    place = 99 * 16 + 4
    assert 3 * place <= made.state_bytes <= 3 * place + 5 * 64


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
def test_states_that_a_host_writes_become_the_codes_that_they_are(net: str, tmp_path: Path) -> None:
    """Rings of codes and of floats, filled with the floats that they stand for, before each step."""
    variant, data = NETS[net]()
    made = Generated(compiled(generate(variant, data, "0"), tmp_path, any_compiler(), ("-O1",)))
    stepper = Stepper(ExactEngine(variant, data).infer, variant.spec, variant.stream)
    assert variant.stream is not None
    for frame in frames_of(variant):
        feeds = stepper.feeds(frame)
        assert feeds is not None
        made.reset()
        for index, state in enumerate(variant.stream.states):
            made.write(index, feeds[state.name])
        assert same(made.step(frame), answers(variant, stepper.run(feeds)))


@pytest.mark.slow
def test_the_c_of_what_is_rounded_when_it_is_read_gives_the_same_bits(tmp_path: Path) -> None:
    variant, data = net_that_rounds_what_it_reads()
    built = compiled(generate(variant, data, "0"), tmp_path, any_compiler(), ("-march=native", "-O1"))
    net = Generated(built)
    for frame, expected in zip(frames_of(variant), wanted(variant, data)):
        assert same(net.step(frame), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compiler", "name", "options", "needs"), BUILDS, ids=[f"{row[0]}, {row[1]}" for row in BUILDS]
)
def test_the_c_gives_the_same_bits(
    compiler: str, name: str, options: Sequence[str], needs: Sequence[str], tmp_path: Path
) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    if not cpu_flags() >= set(needs):
        pytest.skip(f"this CPU has no {name}")
    variant, data = net_of_codes()
    net = Generated(compiled(generate(variant, data, "0"), tmp_path, compiler, (*options, "-O1")))
    for frame, expected in zip(frames_of(variant), wanted(variant, data)):
        assert same(net.step(frame), expected)


MAIN = """
#include "edgepv_model.h"
#include <stdio.h>
extern const edgepv_model edgepv_model_small_net;
static float state[STATE / 4] __attribute__((aligned(64))), arena[ARENA / 4] __attribute__((aligned(64)));
static float outputs[VALUES];
int main(void)
{
    const edgepv_model *const m = &edgepv_model_small_net;
    volatile uint32_t cancel = 0;
    m->reset(m, state);
    for (uint32_t frame = 0; frame < FRAMES; frame++) {
        float *const x = arena + m->input.offset / 4;
        for (uint32_t y = 0, at = 0; y < m->height; y++)
            for (uint32_t i = 0; i < m->width * m->channels; i++, at++)
                x[y * m->input.row_values + i]
                    = (float)((int32_t)((at * 7919u + frame * 104729u) % 641u) - 320) / 64.0f;
        if (m->run(m, state, arena, outputs, &cancel) != EDGEPV_OK)
            return 1;
        m->commit(m, state);
        for (size_t i = 0; i < m->output_values; i++) {
            uint32_t bits;
            memcpy(&bits, &outputs[i], sizeof bits);
            printf("%08lx ", (unsigned long)bits);
        }
    }
    return 0;
}
"""
WATCHED = replace(SANITIZED, compiler=(*SANITIZED.compiler, "-march=native"))
DOTPROD = replace(ARM64, name="arm64 with SDOT", compiler=(*ARM64.compiler, "-march=armv8.2-a+dotprod"))


@pytest.mark.slow
@pytest.mark.parametrize("machine", [WATCHED, ARM64, DOTPROD, ARMV7, CORTEX_M7], ids=lambda m: m.name)
def test_other_machines_give_the_same_bits(machine: Machine, tmp_path: Path) -> None:
    variant, data = net_of_codes()
    made = generate(variant, data, "0")
    for name, source in made.sources.items():
        (tmp_path / name).write_bytes(source)
    (tmp_path / "main.c").write_text("#include <string.h>\n" + MAIN)
    expected = wanted(variant, data)
    numbers = {
        "STATE": made.state_bytes,
        "ARENA": made.arena_bytes,
        "FRAMES": FRAMES,
        "VALUES": expected[0].size,
    }
    sizes = [f"-D{name}={value}" for name, value in numbers.items()]
    sources = [tmp_path / "model.c", tmp_path / "main.c"]
    program = machine.build(tmp_path / "run", sources, *sizes, "-ffp-contract=fast")
    told = np.array([int(word, 16) for word in machine.run(program, folder=tmp_path).split()], np.uint32)
    assert same(told.view(np.float32), np.concatenate(expected))


def test_a_file_that_means_something_else_than_was_recorded_is_refused() -> None:
    variant, data = net_of_codes()
    frames = np.random.default_rng(0).integers(0, 256, (2, 9, 11, 3), dtype=np.uint8)
    recorded: dict[str, np.ndarray] = {"frames": frames, variant.name: np.zeros((2, 3), np.float32)}
    answers_, limit = exact_golden(variant, data, recorded, np.inf)
    assert answers_.shape == (2, 3) and 0 < limit < 1e-5
    assert (
        exact_golden(variant, data, {**recorded, variant.name: answers_}, 0.0)[0].tolist()
        == answers_.tolist()
    )
    with pytest.raises(ParityError, match="recorded with answers that are .* from what its file means"):
        exact_golden(variant, data, recorded, 1e-3)
