"""A trained model on disk, and the torch module rebuilt from it.

A checkpoint is a builder function plus safetensors weights plus a ModelSpec: nothing to subclass, no
pickle. Layers are resized to the weights, so one builder serves every pruned width of its model.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepv.base.cache import cached
from edgepv.base.files import sha256
from edgepv.base.machine import versions
from edgepv.base.optional import need
from edgepv.base.tasks import task_of
from edgepv.errors import ModelError, UsageError
from edgepv.model.builder import call_builder
from edgepv.model.naming import fitted
from edgepv.model.surgery import fit_to_weights, put
from edgepv.model.weights import State, WeightsFile, addressed, first_line, read, read_weights
from edgepv.types import Checkpoint, ModelSpec, StepRecord

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = "weights.safetensors"


def from_files(builder: str, weights: Path, spec: ModelSpec, *, trust_pickle: bool) -> Checkpoint:
    """Checkpoint of a user's own model, its weights safetensors under the names of the builder's module.

    weights: a file, or FILE#SET for one of several sets of weights in it. Where it holds anything else than
    exactly the module's weights, plain safetensors are written into the cache, and ``load_notes`` says what
    was done. Raises UsageError for a file that is no use or names that do not fit, ModelError for a builder
    that is none (see ``edgepv.model.weights``, ``edgepv.model.naming`` and ``new_module``).
    """
    path, chosen = addressed(weights)
    contents = read(path, trust_pickle=trust_pickle)
    module = new_module(builder, spec)
    state, notes = _in_place(contents, module, chosen, str(path), builder)
    _check_head(module, state, spec, str(path))
    if contents.kind == "safetensors" and set(state) == set(contents.sets[""]) and not notes:
        return Checkpoint(str(path), sha256(path), builder, spec)
    file = _stored(state)
    done = StepRecord(
        "load",
        {"notes": list(notes)},
        {"weights": sha256(path)},
        {"weights": sha256(file)},
        versions(("edgepv", "torch", "safetensors")),
    )
    return Checkpoint(str(file), sha256(file), builder, spec, (done,))


def load_notes(checkpoint: Checkpoint | None) -> tuple[str, ...]:
    """What was done to the weights to load them, as one line; nothing where they were as they should be."""
    steps = checkpoint.steps if checkpoint else ()
    notes = [note for step in steps if step.name == "load" for note in step.options["notes"]]
    return (f"weights: {'; '.join(notes)}",) if notes else ()


def _in_place(
    contents: WeightsFile, module: nn.Module, chosen: str | None, file: str, builder: str
) -> tuple[State, tuple[str, ...]]:
    """(weights under the names of the module without its parametrizations, what was done)."""
    own = {name: value.shape for name, value in module.state_dict().items()}
    same = [v for v in contents.sets.values() if {name: value.shape for name, value in v.items()} == own]
    count = sum(hasattr(part, "parametrizations") for part in module.modules())
    if len(contents.sets) == len(same) == 1 and count:
        module.load_state_dict(same[0])  # its own code knows best what they mean
        return made_plain(module).state_dict(), (f"parametrizations of {count} layers computed",)
    fit = fitted(contents, made_plain(module), chosen=chosen, file=file, builder=builder)
    return fit.state, fit.notes


def _check_head(module: nn.Module, state: State, spec: ModelSpec, file: str) -> None:
    """Raise UsageError for weights of other labels: fit_to_weights would resize the module's last layer."""
    last = next((k for k, v in reversed(module.state_dict().items()) if v.ndim > 1), "")
    own = module.state_dict().get(last)
    if own is None or not task_of(spec).classifies or own.shape[0] != len(spec.labels) or last not in state:
        return
    if len(state[last]) != len(own):
        raise UsageError(
            f"{file} was trained for {len(state[last])} labels ('{last}'), {spec.name} names {len(own)}. "
            "Name those it was trained for, or give weights that were trained for these: edgepv finetune"
        )


def _stored(state: State) -> Path:
    """A safetensors file of the weights in the cache, the same one for the same weights."""
    from safetensors.torch import save as serialized

    data = serialized({name: value.contiguous().clone() for name, value in state.items()})
    key = {"step": "load", "weights": hashlib.sha256(data).hexdigest()}
    folder, _, _ = cached(key, lambda out: (out / WEIGHTS).write_bytes(data))
    return folder / WEIGHTS


def build(checkpoint: Checkpoint) -> Any:
    """The torch module in eval mode, its weights in, gradients off, rewritten if the checkpoint says so.

    Parametrizations and masks of the builder's module are computed once and taken off. Raises UsageError if
    the weights changed since the checkpoint was made, or if weights and module do not match in name, shape or
    kind of number, naming the first that differs; ModelError if the builder is no use (see ``new_module``) or
    weights are not finite in float32.
    """
    if sha256(Path(checkpoint.weights)) != checkpoint.sha256:
        raise UsageError(f"{checkpoint.weights} is not the file this run began with. Start again")
    weights = read_weights(Path(checkpoint.weights))
    module = made_plain(new_module(checkpoint.builder, checkpoint.spec))
    fit_to_weights(module, weights)
    _check_kinds(module, weights, checkpoint.weights)
    _check_shapes(module, weights, checkpoint)
    module.load_state_dict(weights)
    return rewritten(module.eval().requires_grad_(False), checkpoint)


def _check_shapes(module: nn.Module, weights: State, checkpoint: Checkpoint) -> None:
    """Raise UsageError for names or shapes that differ between weights and module, naming the first."""
    own = module.state_dict()
    what = ""
    if odd := [name for name in own if name in weights and own[name].shape != weights[name].shape]:
        first, *shapes = odd[0], tuple(weights[odd[0]].shape), tuple(own[odd[0]].shape)
        what = f"{len(odd)} differ in shape, '{first}' is {shapes[0]} there and {shapes[1]} in the builder"
    elif missing := [name for name in own if name not in weights]:
        what = f"{len(missing)} are missing, like '{missing[0]}'"
    elif extra := [name for name in weights if name not in own]:
        what = f"{len(extra)} have no place in it, like '{extra[0]}'"
    if what:
        raise UsageError(
            f"{checkpoint.weights} does not fit {checkpoint.builder}: of {len(own)} weights {what}. "
            "Give the weights that were trained with this builder"
        )


def new_module(builder: str, spec: ModelSpec) -> Any:
    """What a builder returns, in eval mode, on the CPU and in float32, without wrappers around it or inside.

    torch.compile's and nn.DataParallel's wrappers are taken off, lazy layers get their sizes. Raises
    ModelError for a builder that fails or returns no module, and for TorchScript or a quantized model in what
    it returns.
    """
    torch = need("torch", extra="compress")
    module = call_builder(builder, spec)
    if not isinstance(module, torch.nn.Module):
        what, cure = type(module).__name__, "Return the module alone"
        if module is None:
            what, cure = "nothing", "End it with: return the_module"
        raise ModelError(f"{builder} returned {what}, not a torch module. {cure}")
    try:
        module = _unwrapped(module).eval()
    except NotImplementedError as e:
        raise ModelError(
            f"{builder} returned a program of torch.export, not a model. Return the nn.Module it was made of"
        ) from e
    for name, part in module.named_modules():
        where = f"'{name}' of what {builder} returned" if name else f"what {builder} returned"
        if isinstance(part, torch.jit.ScriptModule):
            raise ModelError(
                f"{where} is TorchScript, whose layers cannot be taken apart. Return the nn.Module that was "
                "scripted or traced, and give its state_dict() as weights"
            )
        if _quantizes(part):
            raise ModelError(
                f"{where} is prepared for quantization or quantized ({type(part).__name__}). Return the "
                "float model: edgepv quantizes by itself, and trains for it with --qat"
            )
    _give_sizes(module, spec, builder)
    values = (*module.parameters(), *module.buffers())
    if any(v.is_meta for v in values):
        raise ModelError(f"{builder} returned a module without storage (device meta). Build it on the CPU")
    if any(v.dtype in (torch.float16, torch.bfloat16, torch.float64) for v in values):
        module.float()
    return module.cpu()


def _quantizes(part: Any) -> bool:
    """Whether a module observes or rounds numbers for quantization. What may be prepared for it does not."""
    kind = type(part)
    rounded = kind.__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized"))
    return (rounded and not kind.__name__.endswith("FloatFunctional")) or any(
        base.__name__ in ("FakeQuantizeBase", "ObserverBase") for base in kind.__mro__
    )


def _unwrapped(module: Any) -> Any:
    """``module`` and its parts without what torch.compile and nn.DataParallel put around them."""
    import torch

    compiler = sys.modules.get("torch._dynamo")  # takes seconds to import; who compiles has imported it

    def core(part: Any) -> Any:
        while True:
            if compiler is not None and isinstance(part, compiler.OptimizedModule):
                part = part._orig_mod
            elif isinstance(part, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
                part = part.module
            else:
                part._compiled_call_impl = None  # of module.compile()
                return part

    module = core(module)
    for name, part in list(module.named_modules()):
        if name and core(part) is not part:
            put(module, name, core(part))
    return module


def _give_sizes(module: nn.Module, spec: ModelSpec, builder: str) -> None:
    """Run a module with lazy layers once, so that they get their sizes."""
    import torch

    if not any(torch.nn.parameter.is_lazy(value) for value in (*module.parameters(), *module.buffers())):
        return
    try:
        with torch.no_grad():
            module(torch.zeros(spec.input.shape))
    except Exception as e:
        raise ModelError(
            f"the lazy layers of {builder} get no size, for it does not run on an input of shape "
            f"{spec.input.shape}: {first_line(e)}"
        ) from e


def made_plain(module: nn.Module) -> nn.Module:
    """``module`` with every parametrization, norm hook and pruning mask computed into a plain parameter."""
    from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
    from torch.nn.utils.spectral_norm import SpectralNorm
    from torch.nn.utils.weight_norm import WeightNorm

    parts: list[Any] = list(module.modules())
    for part in parts:
        for name in list(part.parametrizations) if parametrize.is_parametrized(part) else ():
            parametrize.remove_parametrizations(part, name)
        for hook in list(part._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(part, hook._tensor_name)
            elif isinstance(hook, WeightNorm):
                remove_weight_norm(part, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(part, hook.name)
    return module


def _check_kinds(module: nn.Module, weights: State, where: str) -> None:
    """Raise UsageError for a weight that holds no real numbers where the module does.

    torch would cast it without a word. Counters (such as a batch norm's) may be whole numbers of any width.
    """
    for name, own in module.state_dict().items():
        given = weights.get(name)
        if given is not None and own.is_floating_point() and not given.is_floating_point():
            kinds = [str(t.dtype).removeprefix("torch.") for t in (given, own)]
            raise UsageError(
                f"{where}: weight '{name}' is {kinds[0]}, the builder's is {kinds[1]}. "
                "Save the weights as they were trained, in floating point"
            )


def rewritten(module: nn.Module, checkpoint: Checkpoint) -> nn.Module:
    """``module`` laid out as the checkpoint says: as a step, as a flat clip model, or as it is."""
    rewrite = checkpoint.rewrite
    if rewrite is None:
        return module
    from edgepv import stream

    spec = replace(checkpoint.spec, input=rewrite.clip)
    if rewrite.kind == "flat":
        return stream.flatten(module, spec)
    return stream.convert(module, spec, every=rewrite.every, pool=rewrite.pool)
