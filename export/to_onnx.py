"""Lower a torch module to ONNX: its step function with explicit states, or its clip forward."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import numpy as np

from edgepv.base.blame import named_in, raised_at
from edgepv.base.files import sha256, whole_file
from edgepv.base.optional import need, plain_attention
from edgepv.base.quiet import hush
from edgepv.errors import ModelError, UsageError
from edgepv.export.plain import in_parts
from edgepv.types import ModelSpec, StateSpec, StreamSpec, TensorSpec, Variant

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 18  # the lowest that torch's dynamo exporter really implements
MOST_WARMUP = 4096  # frames
PROBED_FRAMES = 64  # steps that are run at most to see a first valid answer
STATE_DTYPES: tuple[str, ...] = get_args(get_type_hints(StateSpec)["dtype"])


def has_step(module: nn.Module) -> bool:
    """Whether the module streams by itself: ``init_state()`` and ``step(frame, *states)``."""
    return callable(getattr(module, "step", None)) and callable(getattr(module, "init_state", None))


def stream_spec(module: nn.Module, spec: ModelSpec) -> StreamSpec | None:
    """States of a module that steps, by itself or converted; None for a clip model.

    Raises UsageError if the spec's input layout contradicts what the module offers, ModelError for states
    or a ``warmup`` that no host can keep.
    """
    if spec.input.layout == "NCTHW":
        return None
    converted = getattr(module, "stream", None)
    if isinstance(converted, StreamSpec):
        return converted
    if not has_step(module) and spec.frames == 1:
        return StreamSpec((), warmup=1, receptive_field=1)
    if not has_step(module):
        raise UsageError(
            f"{spec.name}: a per-frame input (NCHW) needs a module with init_state() and step(frame, "
            "*states). For a clip model give the input as (1, C, T, H, W) with layout NCTHW"
        )
    taken = {spec.input.name, *(a.name for a in spec.answers)}
    states = tuple(_state_spec(name, value, taken) for name, value in _first_states(module, spec).items())
    warmup = getattr(module, "warmup", spec.frames)
    if not isinstance(warmup, int) or not 1 <= warmup <= MOST_WARMUP:
        raise ModelError(f"{spec.name}: its warmup is {warmup!r}; give 1 to {MOST_WARMUP} frames")
    return StreamSpec(states, warmup=warmup, receptive_field=getattr(module, "receptive_field", None))


def _first_states(module: Any, spec: ModelSpec) -> dict[str, Any]:
    """What ``init_state`` gives. Raises ModelError if it raises or gives no dict of named tensors."""
    torch = need("torch", extra="compress")
    try:
        states = module.init_state()
    except Exception as e:
        raise ModelError(f"{spec.name}: init_state() raised {type(e).__name__}: {refusal(e)}") from e
    named = isinstance(states, dict) and all(isinstance(name, str) for name in states)
    if not named or not all(isinstance(value, torch.Tensor) for value in states.values()):
        raise ModelError(
            f"{spec.name}: init_state() gives no dict of named tensors but a {type(states).__name__}. "
            'Return {"NAME": tensor, ...}, in the order that step(frame, *states) takes them'
        )
    return dict(states)


def _state_spec(name: str, value: Any, taken: set[str]) -> StateSpec:
    """A state as ``init_state`` gives it. taken: names of the graph's input and answers.

    Raises ModelError if no host can keep it, or if its start is not one number throughout.
    """
    dtype: Any = str(value.dtype).removeprefix("torch.")
    if name in taken:
        raise ModelError(f"state '{name}' has the name of the input or of an answer. Rename it")
    if not value.numel() or value.ndim > 4:
        raise ModelError(
            f"state '{name}' is {tuple(value.shape)}; a state has 1 to 4 axes, none of them empty"
        )
    if dtype not in STATE_DTYPES:
        raise ModelError(
            f"state '{name}' is {dtype}; a state is {', '.join(STATE_DTYPES)}. "
            "Return it so from init_state() and from step()"
        )
    start = float(value.flatten()[0])
    if not bool((value == start).all()):
        raise ModelError(
            f"state '{name}' starts with different values; a state starts with one number everywhere. "
            "Add the pattern inside step()"
        )
    return StateSpec(name, f"{name}_next", tuple(value.shape), dtype, init=start)


def lower(module: nn.Module, spec: ModelSpec, out: Path) -> Variant:
    """Write ``module`` as opset-18 float ONNX at ``out`` and describe it as a Variant.

    A clip model with a step is lowered as its step when the spec's input is one frame.

    Raises ModelError naming the operator if torch.onnx refuses the model, and if its answers are not finite;
    UsageError if it does not answer what the spec says.
    """
    torch = need("torch", extra="compress")
    stream = stream_spec(module, spec)
    inputs, outputs = tensor_names(spec, stream)
    example = tuple(torch.from_numpy(v) for v in example_inputs(spec, stream).values())
    target = step_module(module) if stream else module
    fresh = check_answers(target, example, spec)
    if not isinstance(getattr(module, "stream", None), StreamSpec):
        _check_fresh(fresh, stream.states if stream else (), spec)
        _check_finite(target, example[0], stream, spec)
    with whole_file(out) as tmp, hush(), plain_attention():
        try:
            _export(target, example, tmp, inputs, outputs)
        except Exception as e:
            try:
                _export(_in_parts(target, example), example, tmp, inputs, outputs)
            except Exception:
                raise ModelError(
                    f"torch.onnx cannot convert {spec.name}: {_untaken(target, example, e)}"
                ) from e
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


def _in_parts(target: Any, example: tuple[Any, ...]) -> Any:
    """The program in operators that torch.onnx takes; see ``plain``."""
    torch = need("torch", extra="compress")
    with in_parts():
        return torch.export.export(target, example, strict=False).run_decompositions()


def _untaken(target: Any, example: tuple[Any, ...], error: Exception) -> str:
    """Why a program has no ONNX form: the operator and the user's line, or what else the error says."""
    torch = need("torch", extra="compress")
    match = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", str(error))
    if match is None:
        return refusal(error)
    line = ""
    with contextlib.suppress(Exception):
        program = torch.export.export(target, example, strict=False).run_decompositions()
        nodes = (n for n in program.graph.nodes if str(n.target).startswith(match[1]))
        line = next((named_in(n.meta.get("stack_trace") or "") for n in nodes), "")
    where = f" ({line})" if line else ""
    return f"it has no form of the operator {match[1]}{where}. Write that line with other operators"


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


def step_module(module: nn.Module) -> nn.Module:
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
            stepped: Any = self.module
            return stepped.step(frame, *states)

    return Step().eval() if has_step(module) else module


def answers_of(result: Tensor | tuple[Tensor, ...] | list[Tensor]) -> tuple[Tensor, ...]:
    """What a module returned, as a tuple."""
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def check_answers(module: nn.Module, example: tuple[Tensor, ...], spec: ModelSpec) -> tuple[Tensor, ...]:
    """What a module answers behind the answers of its spec: its new states.

    Raises ModelError if it raises or answers no float tensors, UsageError if their shapes are not those of
    the spec; names the user's line, and the cure where that can be told.
    """
    torch = need("torch", extra="compress")
    try:
        with hush(), torch.no_grad(), plain_attention():
            values = answers_of(module(*(x.clone() for x in example)))
    except Exception as e:
        where = raised_at(e)
        raise ModelError(
            f"{spec.name} raised {type(e).__name__} on an input of shape {tuple(example[0].shape)}"
            f"{f' ({where})' if where else ''}: {refusal(e).rstrip('.')}{_cure(module, example, spec, e)}"
        ) from e
    _check_kinds(values, spec)
    got = [tuple(value.shape) for value in values[: len(spec.answers)]]
    if got != [a.shape for a in spec.answers]:
        labels = len(spec.labels)
        wanted = f"the spec wants {_told(spec)}" if spec.outputs else f"{labels} labels need (1, {labels})"
        cure = _reshape(got[0], spec) or "Correct the labels or outputs in the spec, or the model's head"
        raise UsageError(f"{spec.name} answers {', '.join(map(str, got))}; {wanted}. {cure}")
    return values[len(spec.answers) :]


def _check_kinds(values: tuple[Any, ...], spec: ModelSpec) -> None:
    """Raise ModelError for answers that are no tensors, or not of float32."""
    torch = need("torch", extra="compress")
    if not all(isinstance(value, torch.Tensor) for value in values):
        kinds = ", ".join(type(value).__name__ for value in values)
        cure = "return a tensor or a tuple of tensors"
        if isinstance(values[0], Mapping) and values[0]:
            names = [str(name) for name in values[0]]
            first = "logits" if "logits" in names else names[0]
            kinds, cure = f"{kinds} of {', '.join(names)}", f"return the tensor alone: ...['{first}']"
        elif not isinstance(values[0], torch.Tensor) and hasattr(values[0], "__dict__"):
            cure = f"return the tensor alone: ....{next(iter(vars(values[0])), 'logits')}"
        raise ModelError(f"{spec.name} answers {kinds}; {cure}")
    for value, answer in zip(values, spec.answers):
        kind = str(value.dtype).removeprefix("torch.")
        if not value.is_floating_point():
            raise ModelError(
                f"{spec.name} answers '{answer.name}' in whole numbers, {kind} {tuple(value.shape)}. "
                "Return the scores of all labels themselves, without argmax or a threshold"
            )
        if value.dtype != torch.float32:
            raise ModelError(
                f"{spec.name} answers '{answer.name}' in {kind}; answers are float32. Return .float() of it, "
                "or build the model in float32: net.float()"
            )


def _reshape(got: tuple[int, ...], spec: ModelSpec) -> str:
    """What to change in a model whose first answer has a wrong shape; "" if that is not clear."""
    wanted, frames = spec.answer.shape, spec.frames
    if got == wanted[1:]:
        return "Keep the axis of the batch: no squeeze(0) and no [0] at its end"
    if len(wanted) == 2 and got in ((frames, *wanted[1:]), (1, frames, *wanted[1:])):
        return f"That is one row for each frame: take their mean over axis {len(got) - 2} in forward()"
    if got == (1, 1) and wanted == (1, 2):
        return (
            "For one logit z of the second label return torch.cat([torch.zeros_like(z), z], 1), for one "
            "probability p of it torch.cat([1 - p, p], 1)"
        )
    return ""


LAYOUTS: dict[str, tuple[tuple[str, tuple[int, ...]], ...]] = {
    "NCTHW": (("N, T, C, H, W", (0, 2, 1, 3, 4)), ("N, T, H, W, C", (0, 2, 3, 4, 1))),
    "NCHW": (("N, H, W, C", (0, 2, 3, 1)),),
}
"""Layout of a spec -> others that models eat, as they are made of it."""


def _cure(module: Any, example: tuple[Any, ...], spec: ModelSpec, error: Exception) -> str:
    """What to do about an error in forward(), where trying something or the error tells; else nothing."""
    torch = need("torch", extra="compress")
    text = f"{type(error).__name__}: {error}"
    if re.search(r"CUDA|NVIDIA|cuda|same device", text):
        return ". Leave devices to the caller: no .cuda() and no device='cuda' in forward() or step()"
    odd = [(n, p.dtype) for n, p in module.named_parameters() if p.dtype != torch.float32]
    if odd and "type" in text:
        name, kind = odd[0]
        return f". Its weight '{name}' is {str(kind)[6:]}; let the builder return it in float32: net.float()"
    video, *states = example
    known = LAYOUTS.get(spec.input.layout, ())
    tries: list[Any] = [(f"({names})", order, video.permute(order)) for names, order in known]
    if spec.input.layout == "NCTHW":
        tries.append(("(T, C, H, W), the frames of one clip", (), video[0].transpose(0, 1)))
    for names, order, other in tries:
        with contextlib.suppress(Exception), hush(), torch.no_grad():
            values = answers_of(module(other, *states))
            if isinstance(values[0], torch.Tensor):
                how = f"x.permute{order}" if order else "x[0].transpose(0, 1)"
                layout = ", ".join(spec.input.layout)
                return f". It takes {names}, and is given ({layout}): begin forward() with x = {how}"
    return ""


def _check_fresh(fresh: tuple[Any, ...], states: tuple[StateSpec, ...], spec: ModelSpec) -> None:
    """Raise ModelError if what ``step`` returns behind its answers is not its states, each as it came in."""
    wanted = [f"{s.dtype} {s.shape}" for s in states]
    got = [f"{str(v.dtype).removeprefix('torch.')} {tuple(v.shape)}" for v in fresh]
    more = len(got) - len(wanted)
    if states and more > 0 and got[more:] == wanted:
        raise ModelError(
            f"{spec.name}: step returns {', '.join(got[:more])} before its states, and the spec has no such "
            f"output. It has {_told(spec)}: add the rest as [[outputs]]"
        )
    if got != wanted and states:
        raise ModelError(
            f"{spec.name}: step returns the states {', '.join(got) or 'none'}; "
            f"init_state has {', '.join(wanted)}. Return each as it came in, in the same order"
        )


def _check_finite(module: Any, frame: Any, stream: StreamSpec | None, spec: ModelSpec) -> None:
    """Raise ModelError if a model answers NaN or infinity to noise, and so can be compared with nothing.

    module: as it is lowered. frame: one input. A model that steps is stepped from its first states until its
    answers count; one that needs more than ``PROBED_FRAMES`` is not tried.
    """
    torch = need("torch", extra="compress")
    states = (
        [torch.full(s.shape, s.init, dtype=getattr(torch, s.dtype)) for s in stream.states] if stream else []
    )
    warmup = stream.warmup if stream else 1
    if warmup > PROBED_FRAMES:
        return
    with torch.no_grad():
        for _ in range(warmup):
            result = module(frame, *states)
            values = result if isinstance(result, tuple | list) else (result,)
            states = list(values[len(spec.answers) :])
    if not all(bool(value.isfinite().all()) for value in values[: len(spec.answers)]):
        raise ModelError(
            f"{spec.name}: the original itself answers NaN or infinity. "
            "Check its weights: very large ones, or a running_var below 0; and divisions or roots of 0"
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
    """The one line of a converter's error that names the operator or the cause, without colour codes."""
    texts = []
    chain: BaseException | None = error
    while chain is not None:
        texts.append(re.sub(r"\x1b\[[0-9;]*m", "", str(chain)))
        chain = chain.__cause__
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    depends = next((text for text in texts if "data-dependent" in text), None)
    if depends is not None:
        return _depends_on_data(depends)
    named = [x for x in lines if any(key in x for key in ("aten", "No ONNX function", "Unsupported", "op "))]
    roots = [text.strip().splitlines()[0].strip() for text in texts if text.strip()]
    return (named or roots[-1:] or [repr(error)])[0][:300]


def _depends_on_data(text: str) -> str:
    """What torch's error about an ``if`` or a shape that depends on a tensor's values means to its author."""
    place = re.search(r'following call raised this error:\s+File "([^"]+)", line (\d+), in \w+\s+(.*)', text)
    where = f" ({Path(place[1]).name}:{place[2]}: {place[3].strip()[:80]})" if place else ""
    return (
        f"its control flow or a shape depends on data{where}. Compute both ways and choose with torch.where, "
        "or keep the shape fixed"
    )
