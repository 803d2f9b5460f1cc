"""The generator: a streamed step graph in, the C of its model out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgepv.errors import UsageError
from edgepv.firmware import emission, window
from edgepv.firmware.graph import Graph, read
from edgepv.firmware.integers import answer_names, coded_states, to_integers
from edgepv.firmware.lowering import Lowering
from edgepv.firmware.planning import plan
from edgepv.firmware.states import ring_of
from edgepv.types import Variant

C = Path(__file__).resolve().parent / "c"
KERNELS = ("edgepv_kernels.h", "edgepv_lanes.h")
CODE_KERNELS = ("edgepv_codes.h", "edgepv_code_lanes.h")
"""Headers that model.c includes, beside edgepv_model.h and edgepv.h; CODE_KERNELS: those of INT8 models."""
PRECISIONS = ("fp32", "int8")
"""Of files that C is made of."""
FLAGS = ("-std=gnu99", "-O3", "-fno-unroll-loops", "-ffp-contract=fast")
"""What a compiler needs to be told: -std=c99 alone would keep products and sums apart, and tiles are unrolled
in the C already."""


@dataclass(frozen=True)
class Firmware:
    """One model as C.

    sources: file name -> its bytes: model.c, the kernels it includes, and the weights where they are a file
    of their own, which the assembler must find (-Wa,-I and the folder). symbol: of the ``const
    edgepv_model``. state_bytes, arena_bytes: RAM of a session beside its outputs. liveness_bound: bytes below
    which no arena can be. weight_bytes: constants, in flash.
    """

    sources: dict[str, bytes]
    symbol: str
    state_bytes: int
    arena_bytes: int
    liveness_bound: int
    weight_bytes: int


def generate(variant: Variant, onnx_bytes: bytes, digest: str) -> Firmware:
    """The C of an ONNX file that steps, float or with Q/DQ, or is a float window (see ``window``).

    digest: what the model says it was made from. The same input gives the same bytes. Raises UsageError, with
    operator and node, for what cannot be made.
    """
    windowed = variant.form == "window"
    if windowed:
        variant, onnx_bytes = window.stepped(variant, onnx_bytes)
    stream = variant.stream
    if stream is None:
        raise UsageError(f"{variant.name} neither steps nor is a window over frames. Export it again")
    graph = read(onnx_bytes)
    _check_states(variant, graph)
    names = [(variant.inputs[state.name], _output(variant, state.output)) for state in stream.states]
    graph, kept = to_integers(graph, coded_states(variant), answer_names(variant))
    rings = [
        ring_of(graph, state, name, kept.get(output, output))
        for state, (name, output) in zip(stream.states, names)
    ]
    answers, offset = {}, 0
    for answer in variant.spec.answers:
        name = variant.outputs[answer.name]
        answers[name] = offset
        offset += _values(graph.shapes[name])
    lowering = Lowering(graph, variant.inputs[variant.spec.input.name], rings, answers)
    lowering.run()
    placed = plan(lowering.layers, lowering.input.buffer, keep=stream.chunk > 1)
    symbol = emission.symbol_of(variant.spec.name)
    model = emission.Model(symbol, digest, variant.spec, stream, lowering, placed, windowed)
    sources = {"model.c": emission.source(model).encode()}
    used = (*KERNELS, *CODE_KERNELS) if graph.codes else KERNELS
    sources |= {name: (C / name).read_bytes() for name in used}
    weights = emission.weights_bytes(model)
    if emission.in_file(model):
        sources[emission.weights_file(model)] = weights
    return Firmware(sources, symbol, model.state_bytes, placed.bytes, placed.bound, len(weights))


def _values(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


def _output(variant: Variant, name: str) -> str:
    """A state's output in the file; the model's own input where the host keeps the frames it fed."""
    return variant.outputs.get(name) or variant.inputs[name]


def _check_states(variant: Variant, graph: Graph) -> None:
    """Raise UsageError for states that are not float32, or whose shapes are not those of the file."""
    assert variant.stream is not None
    if variant.precision not in PRECISIONS:
        raise UsageError(
            f"{variant.name} is {variant.precision}; C is generated of fp32 and int8 files in ONNX"
        )
    wanted = {variant.inputs[state.name]: state for state in variant.stream.states}
    for name, state in wanted.items():
        if state.dtype != "float32" or graph.shapes.get(name) != state.shape:
            raise UsageError(f"state '{state.name}' is {state.dtype} {state.shape}, not as the file has it")
    unknown = set(graph.inputs) - set(wanted) - {variant.inputs[variant.spec.input.name]}
    if unknown:
        raise UsageError(f"input '{sorted(unknown)[0]}' is neither the frame nor a state")
