"""Lower a torch module to ONNX: its step function with explicit states, or its clip forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgepv.console import hush
from edgepv.errors import UsageError
from edgepv.files import sha256, whole_file
from edgepv.optional import need
from edgepv.types import ModelSpec, StateSpec, StreamSpec, TensorSpec, Variant

OPSET = 18  # the lowest that torch's dynamo exporter really implements


def has_step(module: Any) -> bool:
    """Whether the module streams by itself: ``init_state()`` and ``step(frame, *states)``."""
    return callable(getattr(module, "step", None)) and callable(getattr(module, "init_state", None))


def stream_spec(module: Any, spec: ModelSpec) -> StreamSpec | None:
    """States of a module that steps, by itself or converted; None for a clip model.

    Raises UsageError if the spec's input layout contradicts what the module offers.
    """
    if spec.input.layout == "NCTHW":
        return None
    if isinstance(getattr(module, "stream", None), StreamSpec):
        return module.stream
    if not has_step(module) and spec.frames == 1:
        return StreamSpec((), warmup=1, receptive_field=1)
    if not has_step(module):
        raise UsageError(
            f"{spec.name}: a per-frame input (NCHW) needs a module with init_state() and step(frame, "
            "*states). For a clip model give the input as (1, C, T, H, W) with layout NCTHW"
        )
    states = tuple(_state_spec(name, value) for name, value in module.init_state().items())
    return StreamSpec(
        states,
        warmup=int(getattr(module, "warmup", spec.frames)),
        receptive_field=getattr(module, "receptive_field", None),
    )


def _state_spec(name: str, value: Any) -> StateSpec:
    """A state as ``init_state`` gives it. Raises UsageError if its start is not one number throughout."""
    start = float(value.flatten()[0])
    if not bool((value == start).all()):
        raise UsageError(
            f"state '{name}' starts with different values; a state starts with one number everywhere. "
            "Add the pattern inside step()"
        )
    dtype: Any = str(value.dtype).removeprefix("torch.")
    return StateSpec(name, f"{name}_next", tuple(value.shape), dtype, init=start)


def lower(module: Any, spec: ModelSpec, out: Path) -> Variant:
    """Write ``module`` as opset-18 float ONNX at ``out`` and describe it as a Variant.

    A clip model with a step is lowered as its step when the spec's input is one frame.

    Raises UsageError naming the operator if torch.onnx refuses the model, and if it does not answer what
    the spec says.
    """
    torch = need("torch", extra="compress")
    stream = stream_spec(module, spec)
    inputs, outputs = tensor_names(spec, stream)
    example = tuple(torch.from_numpy(v) for v in example_inputs(spec, stream).values())
    target = step_module(module) if stream else module
    _check_answers(target, example, spec)
    with whole_file(out) as tmp, hush():
        try:
            _export(target, example, tmp, inputs, outputs)
        except Exception as e:
            try:
                _export(_attention_in_parts(target, example), example, tmp, inputs, outputs)
            except Exception:
                raise UsageError(f"torch.onnx cannot convert {spec.name}: {refusal(e)}") from e
        _strip_origin(tmp)
    return float_variant(out, spec, stream, {n: n for n in inputs}, {n: n for n in outputs})


def _export(target: Any, example: tuple[Any, ...], out: Path, inputs: list[str], outputs: list[str]) -> None:
    torch = need("torch", extra="compress")
    torch.onnx.export(
        target,
        example,
        str(out),
        dynamo=True,
        opset_version=OPSET,
        external_data=False,
        verbose=False,
        input_names=inputs,
        output_names=outputs,
    )


def _attention_in_parts(target: Any, example: tuple[Any, ...]) -> Any:
    """The program with attention as two products and a softmax: torch.onnx takes it whole in 4-D only."""
    torch = need("torch", extra="compress")
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        return torch.export.export(target, example, strict=False).run_decompositions()


def float_variant(
    path: Path,
    spec: ModelSpec,
    stream: StreamSpec | None,
    inputs: dict[str, str],
    outputs: dict[str, str],
) -> Variant:
    """A float ONNX file as a Variant."""
    return Variant(
        name="onnx-fp32",
        engine="onnxruntime",
        precision="fp32",
        form="step" if stream else "window",
        path=path.name,
        sha256=sha256(path),
        spec=spec,
        stream=stream,
        inputs=inputs,
        outputs=outputs,
    )


def read_onnx(path: Path, spec: ModelSpec) -> Variant:
    """A user's own ONNX file as a Variant.

    Its first input is the video; every other input NAME is a state fed from the output NAME_next; the other
    outputs are the answers, by the names of the spec; one alone may have any name. Raises UsageError for
    anything else, and for shapes unlike the spec.
    """
    onnx = need("onnx", extra="compress")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as e:
        raise UsageError(f"{path} is not a whole ONNX file: {refusal(e)}") from e
    if any(i.data_location == onnx.TensorProto.EXTERNAL for i in model.graph.initializer):
        raise UsageError(f"{path} keeps its weights in another file. Save it as one: external_data=False")
    constants = {i.name for i in model.graph.initializer}
    inputs = {i.name: _shape(i) for i in model.graph.input if i.name not in constants}
    outputs = {o.name: _shape(o) for o in model.graph.output}
    video, *states = inputs
    if inputs[video] != spec.input.shape:
        raise UsageError(f"{path}: input '{video}' is {inputs[video]}, the spec says {spec.input.shape}")
    lost = [s for s in states if f"{s}_next" not in outputs]
    answers = [o for o in outputs if o.removesuffix("_next") not in states]
    wanted = {a.name: a.shape for a in spec.answers}
    alone = len(answers) == len(wanted) == 1
    named = dict(zip(wanted, answers)) if alone else {name: name for name in wanted}
    if lost or len(answers) != len(wanted) or any(outputs.get(named[n]) != s for n, s in wanted.items()):
        raise UsageError(
            f"{path}: expected the answers {_told(spec)}, and an output NAME_next "
            f"for every state input NAME; found inputs {', '.join(inputs)} and outputs {outputs}"
        )
    stream = None
    if spec.input.layout == "NCHW":
        specs = tuple(StateSpec(s, f"{s}_next", inputs[s]) for s in states)
        stream = StreamSpec(specs, warmup=spec.frames)
    names_in = {spec.input.name: video, **{s: s for s in states}}
    names_out = {**named, **{f"{s}_next": f"{s}_next" for s in states}}
    return float_variant(path, spec, stream, names_in, names_out)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)


def tensor_names(spec: ModelSpec, stream: StreamSpec | None) -> tuple[list[str], list[str]]:
    """(input names, output names) of the graph, in order."""
    states = stream.states if stream else ()
    fresh = dict.fromkeys(s.output for s in states if s.output != spec.input.name)
    return [spec.input.name, *(s.name for s in states)], [*(a.name for a in spec.answers), *fresh]


def _told(spec: ModelSpec) -> str:
    return ", ".join(f"{a.name} {a.shape}" for a in spec.answers)


def example_inputs(spec: ModelSpec, stream: StreamSpec | None, seed: int = 0) -> dict[str, np.ndarray]:
    """Distinct, non-zero random inputs.

    torch.export silently merges example inputs that are the same tensor, and a check on zero states
    cannot see swapped ones; so every state gets numbers of its own.
    """
    rng = np.random.default_rng(seed)
    wanted: list[tuple[str, TensorSpec | StateSpec]] = [(spec.input.name, spec.input)]
    wanted += [(s.name, s) for s in (stream.states if stream else ())]
    return {name: rng.standard_normal(tensor.shape).astype(tensor.dtype) for name, tensor in wanted}


def step_module(module: Any) -> Any:
    """The module whose ``forward`` is the graph: ``step`` where there is one, else itself.

    Exporters capture ``forward`` only, so a ``step`` is presented as one.
    """
    from torch import nn

    class Step(nn.Module):
        """``forward`` is ``module.step``."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, frame: Any, *states: Any) -> Any:
            return self.module.step(frame, *states)

    return Step().eval() if has_step(module) else module


def _check_answers(module: Any, example: tuple[Any, ...], spec: ModelSpec) -> None:
    import torch

    try:
        with torch.no_grad():
            result = module(*example)
    except Exception as e:
        shapes = ", ".join(str(tuple(x.shape)) for x in example[:1])
        raise UsageError(
            f"{spec.name} raised {type(e).__name__} on an input of shape {shapes}: {refusal(e)}"
        ) from e
    values = result if isinstance(result, tuple | list) else (result,)
    got = [tuple(value.shape) for value in values[: len(spec.answers)]]
    if got != [a.shape for a in spec.answers]:
        labels = len(spec.labels)
        wanted = f"the spec wants {_told(spec)}" if spec.outputs else f"{labels} labels need (1, {labels})"
        raise UsageError(
            f"{spec.name} answers {', '.join(map(str, got))}; {wanted}. "
            "Correct the labels or outputs in the spec, or the model's head"
        )


def _strip_origin(path: Path) -> None:
    """Drop source paths and stack traces, so equal models give equal bytes on every machine."""
    import onnx

    model = onnx.load(path)
    model.doc_string = ""
    del model.metadata_props[:]
    graph = model.graph
    graph.doc_string = ""
    for item in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    del graph.metadata_props[:]
    path.write_bytes(model.SerializeToString(deterministic=True))


def refusal(error: BaseException) -> str:
    """The one line of a converter's error that names the operator or the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    chain: BaseException | None = error.__cause__
    while chain is not None:
        lines += [line.strip() for line in str(chain).splitlines() if line.strip()]
        chain = chain.__cause__
    named = [x for x in lines if any(key in x for key in ("aten", "No ONNX function", "Unsupported", "op "))]
    return (named or lines or [repr(error)])[0][:300]
