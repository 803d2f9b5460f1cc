"""A torch module as a flat list of ATen operators, with the reasons why some modules cannot be one."""

from __future__ import annotations

import inspect
import operator
import traceback
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgepv.base.blame import named_in, raised_at
from edgepv.base.optional import plain_attention
from edgepv.base.quiet import hush
from edgepv.stream.values import RefusedError

BATCH_NORM = "aten::_native_batch_norm_legit_no_training"
PACKED = ("pack_padded_sequence", "pad_packed_sequence")
ONE_TENSOR = "wrap it: one video in, one tensor out"
CLIP_STATISTICS = (
    "normalises with the statistics of each clip (batch norm in training mode)",
    "train with track_running_stats=True, then call eval()",
)


@dataclass(frozen=True)
class Captured:
    """nodes: in order; the input is ``input``, the answer ``output``. constants: by placeholder name.

    loops: recurrences that are spelled as loops (see ``loops``). windows: whether what needs all frames of a
    clip may get them anew at every step; both are set by who rewrites.
    affine: batch norm folded into the convolution before it: convolution node -> (scale, shift) per
    channel; the folded batch norm nodes are in ``folded`` and pass their input on.
    """

    nodes: tuple[torch.fx.Node, ...]
    constants: dict[str, Tensor]
    input: torch.fx.Node
    output: torch.fx.Node
    affine: dict[str, tuple[Tensor, Tensor]]
    folded: frozenset[str]
    loops: tuple[Any, ...] = ()
    windows: bool = False


def capture(module: nn.Module, example: Tensor) -> Captured:
    """Trace ``module`` on one example input with torch.export.

    Raises RefusedError for a module in training mode, with data-dependent control flow or shapes, with
    state hidden in buffers, or with more than one input or output.
    """
    if module.training:
        raise RefusedError("is in training mode", "call eval() first")
    _check_inputs(module)
    program = _export(module, example)
    _check_state(program)
    signature = program.graph_signature
    if len(signature.user_outputs) != 1:
        count = len(signature.user_outputs)
        raise RefusedError(f"has several inputs or outputs (outputs: {count})", ONE_TENSOR)
    targets = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    targets |= signature.inputs_to_lifted_tensor_constants
    everything = {**program.state_dict, **program.constants}
    program.graph.eliminate_dead_code()
    nodes = tuple(n for n in program.graph.nodes if n.op != "call_function" or "val" in n.meta)
    _check_shapes(nodes)
    constants = {n.name: everything[targets[n.name]].detach() for n in nodes if n.name in targets}
    (start,) = (n for n in nodes if n.op == "placeholder" and n.name not in targets)
    end = nodes[-1].args[0][0]
    if not isinstance(end, torch.fx.Node):
        raise RefusedError("answers the same whatever the video shows", "let forward() use its input")
    affine, folded = _fold_batch_norms(nodes, constants)
    return Captured(nodes, constants, start, end, affine, folded)


class Modern(TorchFunctionMode):
    """Old spellings as what they mean today: ``x.data`` is ``x.detach()``, which torch.export follows."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__self__", None) is torch.Tensor.data and func.__name__ == "__get__":
            return args[0].detach()
        return func(*args, **(kwargs or {}))


def _export(module: nn.Module, example: Tensor) -> Any:
    try:
        with hush(), plain_attention(), Modern():
            return torch.export.export(module, (example,), strict=False).run_decompositions({})
    except Exception as e:
        text = str(e)
        if "data-dependent" in text or "DataDependent" in type(e).__name__ or ".item()" in text:
            raise RefusedError(
                f"decides by the content of its tensors (data-dependent control flow){_raised_at(e)}",
                "use torch.where instead of if, and a fixed number of rounds in loops",
            ) from e
        if _packs(e):
            raise RefusedError(
                f"packs sequences by their lengths (pack_padded_sequence){_raised_at(e)}",
                "give the recurrent layer the frames as they are: every clip has all of its own",
            ) from e
        line = next((x.strip() for x in text.splitlines() if x.strip()), type(e).__name__)
        raise RefusedError(
            f"cannot be captured by torch.export{_raised_at(e)}: {type(e).__name__}: {line[:200]}",
            "make torch.export.export(module, (clip,)) work",
        ) from e


def _packs(e: Exception) -> bool:
    """Whether it came from packed sequences: in their own functions, or in a layer that counts them."""
    frames = traceback.extract_tb(e.__traceback__)
    counts = "FakeTensor" in str(e) and any(f.filename.endswith("nn/modules/rnn.py") for f in frames)
    return counts or any(f.name in PACKED for f in frames)


def _raised_at(e: Exception) -> str:
    """The innermost line of the user's that an exception came through: " (net.py:31)"."""
    line = raised_at(e).partition(": ")[0]
    return f" ({line})" if line else ""


def _check_inputs(module: nn.Module) -> None:
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    wanted = [p.name for p in parameters if p.default is p.empty and p.kind in named]
    if len(wanted) > 1:
        raise RefusedError(f"has several inputs or outputs (inputs: {', '.join(wanted)})", ONE_TENSOR)


def _check_state(program: Any) -> None:
    """Raise RefusedError if forward() changes a buffer."""
    nodes = {n.name: n for n in program.graph.nodes}
    for node in nodes.values():
        if kind(node) == "aten::_native_batch_norm_legit_functional":
            raise RefusedError(f"{describe(node)} {CLIP_STATISTICS[0]}", CLIP_STATISTICS[1])
    for output, buffer in program.graph_signature.buffers_to_mutate.items():
        raise RefusedError(
            f"{describe(nodes[output])} keeps state in its buffer '{buffer}' and changes it in forward()",
            "pass the state as an input and return the new one: init_state() and step(frame, *states)",
        )


def _check_shapes(nodes: tuple[torch.fx.Node, ...]) -> None:
    """Raise RefusedError for a tensor whose shape is not known before it is computed."""
    for node in nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and not all(isinstance(size, int) for size in value.shape):
            raise RefusedError(
                f"{describe(node)} makes a tensor whose shape depends on what the video shows",
                "keep shapes fixed: torch.where instead of indexing with a condition",
            )


def _fold_batch_norms(
    nodes: tuple[torch.fx.Node, ...], constants: dict[str, Tensor]
) -> tuple[dict[str, tuple[Tensor, Tensor]], frozenset[str]]:
    """Scale and shift of every batch norm that stands directly behind a convolution."""
    affine: dict[str, tuple[Tensor, Tensor]] = {}
    known: dict[Any, tuple[Tensor, Tensor]] = {}  # one layer called twice is one pair
    folded = set()
    for node in nodes:
        if kind(node) != BATCH_NORM:
            continue
        source: Any = node.args[0]
        plain = all(not isinstance(a, torch.fx.Node) or a.name in constants for a in node.args[1:5])
        if plain and kind(source).startswith("aten::conv") and len(source.users) == 1:
            rest: list[Any] = [
                constants[a.name] if isinstance(a, torch.fx.Node) else a for a in node.args[1:]
            ]
            key = tuple(str(a) for a in node.args[1:])
            affine[source.name] = known.setdefault(key, scale_and_shift(*rest))
            folded.add(node.name)
    return affine, frozenset(folded)


def scale_and_shift(
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Batch norm in eval mode as x * scale + shift, per channel."""
    scale = torch.rsqrt(variance + eps) * (1.0 if weight is None else weight)
    return scale, (0.0 if bias is None else bias) - mean * scale


def kind(node: object) -> str:
    """Name of the operator a node calls, like "aten::conv3d"; "" for what is no operator."""
    target = getattr(node, "target", None)
    if target is operator.getitem:
        return "getitem"
    schema = getattr(target, "_schema", None)
    return schema.name if schema else ""


def place(node: torch.fx.Node) -> str:
    """Source line of the model that made this operator: "net.py:31", or "" when it is not known."""
    return named_in(node.meta.get("stack_trace") or "").partition(": ")[0]


def layer(node: torch.fx.Node) -> str:
    """The module path of an operator and its own name: "layer1.0.conv1", "layer1.0.add_2"."""
    stack = node.meta.get("nn_module_stack") or {}
    path, owner = next(reversed(stack.values()), ("", "")) if stack else ("", "")
    owner = owner if isinstance(owner, str) else owner.__name__
    if ".nn.modules." in owner and path:
        return str(path)
    return f"{path}.{node.name}" if path else node.name


def describe(node: torch.fx.Node) -> str:
    """An operator for a person: "aten.flip (net.py:31)", or its layer if no line of the model is known."""
    maker = node.args[0] if kind(node) == "getitem" else node
    return f"{kind(maker).replace('::', '.')} ({place(node) or layer(node)})"
