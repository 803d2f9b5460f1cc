"""Is a model what it seems? Asked on noise, before any work is done with it.

A graph answers the same input alike, whatever it was asked before, and leaves the input as it is. A module
may do otherwise without a word: dropout that eval() does not switch off, a hidden state in an attribute, an
operator that works in place. And its answers may be probabilities where logits are expected.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepv.base.blame import running_at
from edgepv.base.optional import need, plain_attention
from edgepv.base.quiet import hush
from edgepv.base.tasks import task_of
from edgepv.errors import ModelError, UsageError
from edgepv.export.to_onnx import answers_of, check_answers, example_inputs, step_module, stream_spec
from edgepv.stream import Infer
from edgepv.types import ModelSpec, Scores, StreamSpec, Variant

if TYPE_CHECKING:
    from torch import nn

FRAMES = 2
"""Frames of a probe of a model that steps."""
VIDEOS = 3
"""Different inputs, of a classifier: few enough for the largest of nets, and no three logits add up to 1."""
SAME_TOLERANCE = 1e-5
"""Answers closer than this share of the largest are the same: threads may add in another order."""
WHOLE = 1e-3
"""How far from 1 probabilities may add up to, with float16 inside."""
DEPTH, MOST_ITEMS = 3, 1000
"""How deep, and how far into each list, a module's attributes are looked at for what it keeps between
calls."""
ENDS = {"_softmax": "softmax", "sigmoid": "sigmoid", "sigmoid_": "sigmoid"}
"""ATen operators that answer probabilities. The softmax of a log_softmax is right as it is."""
DROPS = ("bernoulli_", "native_dropout")
ONNX_ENDS = {"Softmax": "softmax", "Sigmoid": "sigmoid"}
ONNX_PASSING = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class ProbeResult:
    """scores: what the model answers (see ``ModelSpec.scores``). why: what that was seen by, for a person."""

    scores: Scores = "logits"
    why: str = ""


def probe(module: nn.Module, spec: ModelSpec) -> ProbeResult:
    """Ask a torch module, in eval mode and as it was built, whether it is what it seems.

    The module may keep what it is asked: use another one for work. Raises in one line that names the
    user's line or the attribute, and the cure: ModelError if it raises, draws at random, keeps something
    between calls, or changes its input in place; UsageError if it answers what the spec does not say.
    """
    torch = need("torch", extra="compress")
    _refuse_training(module, spec)
    stream = stream_spec(module, spec)
    call = step_module(module) if stream else module
    check_answers(call, _inputs(spec, stream, 0), spec)
    watch, before = _watch(), _Kept(module)
    with torch.no_grad(), hush(), plain_attention():
        first = _seeded(0, lambda: _asked(watch.over(call), spec, stream, 0))
        again = _seeded(1, lambda: _asked(call, spec, stream, 0))
        count = VIDEOS if task_of(spec).classifies else 2
        others = [_asked(call, spec, stream, seed) for seed in range(1, count)]
        last = _seeded(0, lambda: _asked(call, spec, stream, 0))
    if watch.written:
        operator, line = watch.written
        raise ModelError(
            f"{spec.name}: it changes its input in place: {operator} ({line}). The frames are needed again; "
            "write a new tensor there, as in x = x - mean"
        )
    kept, drawn = _apart(first, last), _apart(first, again)
    if kept or drawn:
        changed = before.changed(_Kept(module)) if kept else []
        raise ModelError(f"{spec.name}: {_told(watch, changed, kept or drawn)}")
    _refuse_training(module, spec)
    rows = [v[0].flatten().double().numpy() for v in (first, *others)]
    return _found(spec, rows, watch.end, watch.at)


def of_onnx(path: Path, base: Variant, infer: Infer) -> ProbeResult:
    """What an ONNX file answers: by its last operator, else by its answers to noise. infer: runs it."""
    onnx = need("onnx", extra="compress")
    makers = {name: node for node in onnx.load(path).graph.node for name in node.output}
    node = makers.get(base.outputs[base.spec.answer.name])
    while node is not None and node.op_type in ONNX_PASSING:
        node = makers.get(node.input[0])
    end = ONNX_ENDS.get(node.op_type, "") if node is not None else ""
    asked = (infer(example_inputs(base.spec, base.stream, seed)) for seed in range(VIDEOS))
    rows = [said[base.spec.answer.name].astype(np.float64).ravel() for said in asked]
    return _found(base.spec, rows, end, f"node '{node.name}'" if node is not None else "")


def _found(spec: ModelSpec, rows: Sequence[np.ndarray], end: str, at: str) -> ProbeResult:
    """Whether answers (classes,) to several inputs are probabilities. end, at: what made them, and where.

    Raises UsageError if the spec says that they are, and one of them cannot be.
    """
    if not task_of(spec).classifies:
        return ProbeResult()
    low, high = (pick([edge(r) for r in rows]) for pick, edge in ((min, np.min), (max, np.max)))
    if not (low >= -WHOLE and high <= 1 + WHOLE):
        if spec.scores == "probabilities":
            raise UsageError(
                f"{spec.name}: the spec says scores = 'probabilities', and noise is answered {low:.3g} to "
                f"{high:.3g}. Leave scores out: the softmax of logits is taken for you"
            )
        return ProbeResult()
    if spec.scores == "probabilities":
        return ProbeResult("probabilities", "as the spec says")
    if end:
        return ProbeResult("probabilities", f"{end} at its end ({at})")
    whole = all(abs(r.sum() - 1) <= WHOLE for r in rows)
    if whole and not np.array_equal(rows[0], rows[1]):
        return ProbeResult("probabilities", "softmax inside: they add up to 1 whatever it is shown")
    return ProbeResult()


def _refuse_training(module: Any, spec: ModelSpec) -> None:
    """Raise ModelError for a layer that is in training mode after eval() and answers otherwise then."""
    from torch.nn.modules.batchnorm import _NormBase
    from torch.nn.modules.dropout import _DropoutNd

    for name, layer in module.named_modules():
        normalises = isinstance(layer, _NormBase) and layer.track_running_stats
        drops = isinstance(layer, _DropoutNd) and layer.p > 0
        if layer.training and (normalises or drops):
            what = "normalises with the statistics of each clip" if normalises else "draws at random"
            raise ModelError(
                f"{spec.name}: layer '{name}' ({type(layer).__name__}) is in training mode after eval(), so "
                f"it {what}. Take out the train() or eval() of the model's own that keeps it so"
            )


def _told(watch: Any, changed: Sequence[str], apart: float) -> str:
    """What a person is told of answers that differ by ``apart``, and the cure. changed: attributes."""
    share = f"by {apart:.1g} of the largest"
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        return (
            f"the same input is answered otherwise after another one, {share}: it keeps {changed[0]}{more} "
            "between calls, which no graph does. Make that an input and an output: init_state() and "
            "step(frame, *states), see docs/spec.md"
        )
    if not watch.drawn and not watch.rolled:
        return (
            f"the same input is answered twice differently, {share}, and no attribute of a module changed. "
            "Let forward() depend on its input alone: on no global variable, no file and no clock"
        )
    operator, line = watch.drawn or ("Python's or NumPy's generator", "in forward()")
    cure = "Leave it out in eval mode: if self.training"
    if operator in DROPS or "drop" in line.lower():
        cure = "Dropout takes the mode of the model: F.dropout(x, p, self.training)"
    return (
        f"the same input is answered twice differently, {share}: {operator} draws at random after eval() too "
        f"({line}). {cure}"
    )


def _inputs(spec: ModelSpec, stream: StreamSpec | None, seed: int) -> tuple[Any, ...]:
    """The arguments of a first call: a video whose pixels are noise in [0, 1], and states as they begin."""
    torch = need("torch", extra="compress")
    mean, std = (np.reshape(v, (-1, *[1] * (len(spec.input.shape) - 2))) for v in (spec.mean, spec.std))
    noise = ((np.random.default_rng(seed).random(spec.input.shape) - mean) / std).astype(np.float32)
    states = stream.states if stream else ()
    fresh = (torch.full(s.shape, s.init, dtype=getattr(torch, s.dtype)) for s in states)
    return (torch.from_numpy(noise), *fresh)


def _asked(call: Any, spec: ModelSpec, stream: StreamSpec | None, seed: int) -> list[Any]:
    """What a module answers to one probe: the answers to every frame, then the last states."""
    frame, *states = _inputs(spec, stream, seed)
    count, answers = len(spec.answers), []
    for i in range(FRAMES if states else 1):
        values = answers_of(call(frame.flip(-1) if i % 2 else frame.clone(), *(s.clone() for s in states)))
        answers += [v.clone() for v in values[:count]]
        states = list(values[count:]) if states else []
    return answers + [s.clone() for s in states]


def _apart(one: Sequence[Any], other: Sequence[Any]) -> float:
    """Largest difference of two lists of tensors, as a share of the largest value; 0 for rounding."""
    worst = 0.0
    for a, b in zip(one, other, strict=True):
        if tuple(a.shape) != tuple(b.shape):
            return 1.0
        a, b = (v.double().nan_to_num() for v in (a, b))
        apart = float((a - b).abs().max() / a.abs().max().clamp(min=1e-30))
        worst = max(worst, apart if apart > SAME_TOLERANCE else 0.0)
    return worst


def _seeded(seed: int, run: Callable[[], list[Any]]) -> list[Any]:
    """``run`` with every common generator begun at ``seed``; afterwards they go on as if nothing had been."""
    torch = need("torch", extra="compress")
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        return run()
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class _Kept:
    """What the modules of a model hold besides their weights, to be compared with a later look."""

    def __init__(self, module: Any) -> None:
        self._alive: list[Any] = []  # while they are, no other object gets their id
        self._marks: dict[str, Any] = {}
        for path, part in module.named_modules():
            own = {key: value for key, value in vars(part).items() if key not in _module_attributes()}
            for key, value in own.items():
                self._marks[f"'{_joined(path, key)}' ({type(part).__name__})"] = self._mark(value, DEPTH)
            for key, value in part._buffers.items():
                self._marks[f"its buffer '{_joined(path, key)}'"] = self._mark(value, 0)

    def changed(self, later: _Kept) -> list[str]:
        """Names of what is new or another in a later look, tensors first."""
        names = [n for n, mark in later._marks.items() if self._marks.get(n) != mark]
        return sorted(names, key=lambda n: later._marks[n][0] != "tensor")

    def _mark(self, value: Any, depth: int) -> tuple[Any, ...]:
        """Equal for what did not change. Tensors by identity and version, others by their values."""
        torch = need("torch", extra="compress")
        if isinstance(value, torch.Tensor):
            self._alive.append(value)
            return "tensor", id(value), value._version
        if isinstance(value, np.ndarray):
            return "array", hash(value.tobytes())
        if isinstance(value, bool | int | float | complex | str | bytes | None):
            return "value", value
        if depth and isinstance(value, Mapping):
            return "mapping", tuple((str(k), self._mark(v, depth - 1)) for k, v in _some(value.items()))
        if depth and isinstance(value, list | tuple | deque | AbstractSet):
            return "items", len(value), tuple(self._mark(v, depth - 1) for v in _some(value))
        self._alive.append(value)
        inside = vars(value) if hasattr(value, "__dict__") and not isinstance(value, torch.nn.Module) else {}
        if not depth or callable(value):
            return "object", id(value)
        return "object", id(value), tuple((k, self._mark(v, depth - 1)) for k, v in _some(inside.items()))


def _some(items: Any) -> list[Any]:
    return [item for _, item in zip(range(MOST_ITEMS), items)]


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _module_attributes() -> AbstractSet[str]:
    """What every module has: its tables of weights, parts and hooks."""
    from torch import nn

    return vars(nn.Module()).keys()


def _watch() -> Any:
    """What looks on while a module runs; made in here, as its base class is torch's."""
    torch = need("torch", extra="compress")
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        """Notes what a forward pass draws, writes and answers, operator by operator.

        drawn, written: (operator, the user's line) of what first drew at random, and wrote into the input.
        rolled: whether Python's or NumPy's generator was used. end, at: the operator behind the answer that
        makes probabilities, "" for another, and its line.
        """

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]  # of torch
            self.drawn: tuple[str, str] | None = None
            self.written: tuple[str, str] | None = None
            self.rolled, self.end, self.at = False, "", ""
            self._input = 0
            self._makers: dict[int, tuple[str, str]] = {}

        def over(self, call: Any) -> Any:
            """The same call, watched."""

            def watched(video: Any, *states: Any) -> Any:
                self._input = _memory(video)
                before = _generators()
                with self:
                    result = call(video, *states)
                self.rolled = self.rolled or before != _generators()
                self.end, self.at = self._makers.get(_memory(answers_of(result)[0]), ("", ""))
                self._makers.clear()
                return result

            return watched

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            output = func(*args, **(kwargs or {}))
            name = func._schema.name.partition("::")[2]
            if torch.Tag.nondeterministic_seeded in func.tags and self.drawn is None:
                self.drawn = name, running_at()
            if func._schema.is_mutable and self.written is None and self._input in _written(func, args):
                self.written = name, running_at()
            for tensor in output if isinstance(output, tuple | list) else (output,):
                if isinstance(tensor, torch.Tensor) and not func.is_view:
                    self._makers[_memory(tensor)] = (ENDS[name], running_at()) if name in ENDS else ("", "")
            return output

    return Watch()


def _generators() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tobytes()


def _memory(tensor: Any) -> int:
    """Where a tensor's values lie; 0 for one that has no memory of its own."""
    try:
        return int(tensor.untyped_storage().data_ptr())
    except (NotImplementedError, RuntimeError):  # sparse, or of another device
        return 0


def _written(func: Any, args: Sequence[Any]) -> set[int]:
    """Memory that an operator writes into."""
    torch = need("torch", extra="compress")
    changed = (a for a, s in zip(args, func._schema.arguments) if s.alias_info and s.alias_info.is_write)
    return {_memory(a) for a in changed if isinstance(a, torch.Tensor)}
