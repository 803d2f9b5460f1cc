"""A trained model on disk, and the torch module rebuilt from it.

A checkpoint is a builder function plus safetensors weights plus a ModelSpec: nothing to subclass, no
pickle. Layers are resized to the weights, so one builder serves every pruned width of its model.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from inspect import Parameter
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

from edgepv.base.cache import cached
from edgepv.base.files import MOST_LETTERS, check_part, read_toml, sha256, whole_file
from edgepv.base.machine import versions
from edgepv.base.optional import need
from edgepv.errors import EdgepvError, UsageError
from edgepv.naming import fitted
from edgepv.types import METRICS, Checkpoint, ModelSpec, StepRecord, StreamSpec, decode, encode
from edgepv.weights import Found, addressed, first_line, read

MAX_STATE_BYTES = 1 << 31
MOST_PARTICLES = 1024
MOST_FRAMES = 4096
MOST_STATES = 4096
MOST_SIDE = 8192  # px
MOST_VALUES = 1 << 28  # of one input: 1 GiB as float32
WEIGHTS = "weights.safetensors"
USERS = "edgepv_user_"
"""How the packages begin that users' files are loaded in."""


def read_spec(path: Path) -> ModelSpec:
    """ModelSpec from a TOML file. Raises UsageError for bad TOML or a key nobody knows."""
    data = read_toml(path, wanted="--spec wants the TOML file that describes the model")
    if "metric" not in data and data.get("task") in METRICS:
        data["metric"] = METRICS[data["task"]]
    spec = decode(ModelSpec, _grey_defaults(data), where=path.name)
    check_spec(spec, path.name)
    return spec


def as_toml(spec: ModelSpec) -> str:
    """A spec as ``read_spec`` reads it."""
    data = {k: v for k, v in encode(spec).items() if v is not None and v != []}
    tables = {k: v for k, v in data.items() if isinstance(v, dict)}
    lists = {k: v for k, v in data.items() if isinstance(v, list) and v and isinstance(v[0], dict)}
    lines = [_toml_line(k, v) for k, v in data.items() if k not in tables and k not in lists]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(_toml_line(k, v) for k, v in table.items())]
    for name, rows in lists.items():
        for row in rows:
            lines += ["", f"[[{name}]]", *(_toml_line(k, v) for k, v in row.items())]
    return "\n".join(lines) + "\n"


def _toml_line(key: str, value: Any) -> str:
    """``key = value``; strings, numbers, true, false and lists of them are written alike in JSON and TOML."""
    return f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")


def _grey_defaults(data: dict[str, Any]) -> dict[str, Any]:
    """The same table, with colour, mean and std of one channel where the input has one and none are given."""
    shape = data["input"].get("shape") if isinstance(data.get("input"), dict) else None
    if not isinstance(shape, list) or shape[1:2] != [1]:
        return data
    return {"colour": "grey", "mean": [0.0], "std": [1.0], **data}


def check_spec(spec: ModelSpec, where: str, *, chunk: int = 1) -> None:
    """Raise UsageError for a spec whose numbers contradict each other or that no camera and no model can
    have. chunk: frames of one step."""
    shape, layout = spec.input.shape, spec.input.layout
    _check_names(spec, where)
    if layout not in ("NCHW", "NCTHW") or len(shape) != len(layout) or shape[0] != chunk:
        raise UsageError(
            f"{where}: input shape {shape} does not fit layout {layout}. Use (1, C, H, W) as NCHW for "
            "a per-frame model, (1, C, T, H, W) as NCTHW for a clip model"
        )
    if layout == "NCHW" and shape[1] == 3 * spec.frames > 3:
        raise UsageError(
            f"{where}: {spec.frames} frames stacked in {shape[1]} channels: give the input as (1, 3, "
            f"{spec.frames}, H, W), layout NCTHW, and stack them in the builder's forward(): "
            "x.transpose(1, 2).flatten(1, 2)"
        )
    _check_channels(spec, where)
    if min(spec.std) <= 0 or spec.fps <= 0 or spec.frames < 1:
        raise UsageError(f"{where}: std, fps and frames must be above 0")
    _check_ranges(spec, where)
    if layout == "NCTHW" and shape[2] != spec.frames:
        raise UsageError(f"{where}: frames = {spec.frames}, but the clip input has T = {shape[2]}")
    if spec.degrade is not None and spec.task != "restoration":
        raise UsageError(f"{where}: degrade is for restoration, the task is {spec.task}. Leave one out")
    if spec.task == "classification" and (len(spec.labels) < 2 or len(set(spec.labels)) != len(spec.labels)):
        raise UsageError(f"{where}: labels must be at least two different names")
    if spec.metric != METRICS[spec.task]:
        raise UsageError(f"{where}: {spec.task} is judged by {METRICS[spec.task]}, not by {spec.metric}")
    check_answers(spec, where)


def _check_channels(spec: ModelSpec, where: str) -> None:
    """Raise UsageError unless the input has the channels of a camera, and colour, mean and std fit them."""
    channels = spec.input.shape[1]
    if min(spec.input.shape) < 1 or channels not in (1, 3):
        raise UsageError(
            f"{where}: the input needs 3 colour channels, or 1 of grey or infrared; it has shape "
            f"{spec.input.shape}"
        )
    if not len(spec.mean) == len(spec.std) == channels:
        raise UsageError(
            f"{where}: {len(spec.mean)} means and {len(spec.std)} stds; an input of {channels} channels "
            f"needs {channels} of each"
        )
    if (spec.colour == "grey") != (channels == 1):
        raise UsageError(
            f"{where}: colour is {spec.colour}, the input has {channels} channels. One channel is grey, "
            "three are rgb or bgr"
        )


def _check_names(spec: ModelSpec, where: str) -> None:
    """Raise UsageError for a name that cannot be read: empty, too long, or with control characters; and if
    that of the spec, which becomes part of paths, cannot name a file."""
    check_part(spec.name, f"{where}: name")
    named = {"input name": spec.input.name}
    named |= {f"label {i + 1}": label for i, label in enumerate(spec.labels)}
    named |= {f"name of output {i + 1}": out.name for i, out in enumerate(spec.outputs)}
    for what, text in named.items():
        if not text.strip() or not text.isprintable() or len(text) > MOST_LETTERS:
            raise UsageError(
                f"{where}: {what} is {text[:40]!r}; give 1 to {MOST_LETTERS} letters on one line, "
                "without control characters"
            )


def _check_ranges(spec: ModelSpec, where: str) -> None:
    """Raise UsageError for the first number of a spec beyond its sensible range, naming the range."""
    height, width = spec.input.shape[-2:]
    ranges: list[tuple[str, float | Fraction, float | Fraction, float | Fraction]] = [
        *(("mean (of pixels in [0, 1])", v, -10, 10) for v in spec.mean),
        *(("std (of pixels in [0, 1])", v, 1e-4, 10) for v in spec.std),
        ("fps", spec.fps, Fraction(1, 1000), 1000),
        ("frames", spec.frames, 1, MOST_FRAMES),
        ("the input's height", height, 1, MOST_SIDE),
        ("the input's width", width, 1, MOST_SIDE),
        ("the number of the input's values", prod(spec.input.shape), 1, MOST_VALUES),
    ]
    if spec.particles is not None:
        ranges.append(("particles", spec.particles, 1, MOST_PARTICLES))
    for what, value, low, high in ranges:
        if not low <= value <= high:
            told = (f"{float(x):g}" if isinstance(x, Fraction | float) else x for x in (value, low, high))
            raise UsageError("{}: {} is {}; give {} to {}".format(where, what, *told))


def check_answers(spec: ModelSpec, where: str) -> None:
    """Raise UsageError if the outputs of a spec are not what its task answers with."""
    shape, names = spec.answer.shape, [a.name for a in spec.answers]
    for out in spec.answers:
        if not out.shape or min(out.shape) < 1 or prod(out.shape) > MOST_VALUES:
            raise UsageError(
                f"{where}: output '{out.name}' of shape {out.shape} is none that a model can give"
            )
    wanted = {
        "classification": ("logits", (1, len(spec.labels))),
        "tracking": ("tracks", (1, spec.particles or 1, 3)),
        "restoration": ("image", (1, spec.input.shape[1], *shape[-2:])),
    }[spec.task]
    if (spec.answer.name, shape) != wanted or len(set(names)) != len(names):
        raise UsageError(
            f"{where}: a model for {spec.task} answers first with '{wanted[0]}' {wanted[1]}, the spec says "
            f"'{spec.answer.name}' {shape}. Correct outputs (and particles, for a tracker); see docs/spec.md"
        )
    if spec.task == "tracking" and spec.input.layout != "NCHW":
        raise UsageError(f"{where}: only a per-frame model (NCHW) may be for {spec.task}")
    _check_lag(spec, where)
    _check_degrade(spec, where)


def _check_degrade(spec: ModelSpec, where: str) -> None:
    """Raise UsageError if a restorer's answer has not the size that undoes what ``degrade`` does."""
    if spec.degrade is None:
        return
    (high, wide), (height, width) = spec.answer.shape[-2:], spec.input.shape[-2:]
    factor = high // height
    fits = (high, wide) == (factor * height, factor * width)
    wanted = {"noise-25": factor == 1, "half": factor == 2, "downscale": factor > 1}[spec.degrade]
    if not (fits and wanted):
        size = {"noise-25": "the size", "half": "twice the size", "downscale": "a whole multiple of the size"}
        raise UsageError(
            f"{where}: degrade = '{spec.degrade}' wants an image of {size[spec.degrade]} of the input; it "
            f"is {high} x {wide} of {height} x {width}. Correct the shapes, or leave degrade out: then the "
            "model is compared with the original alone"
        )


def _check_lag(spec: ModelSpec, where: str) -> None:
    """Raise UsageError for a lag of what shows no picture, or that lies outside of the clip."""
    if spec.lag and spec.task != "restoration":
        raise UsageError(f"{where}: lag is for restoration, the task is {spec.task}. Leave one out")
    if not 0 <= spec.lag < spec.frames:
        raise UsageError(
            f"{where}: lag is {spec.lag}; of {spec.frames} frames give 0 (the picture shows the newest) to "
            f"{spec.frames - 1} (the oldest)"
        )


def check_stream(spec: ModelSpec, stream: StreamSpec | None, where: str) -> None:
    """Raise UsageError for states that no host can carry."""
    if stream is None:
        return
    names = [s.name for s in stream.states]
    if len(set(names)) != len(names) or spec.input.name in names:
        raise UsageError(f"{where}: two states have one name, or a state has the input's")
    states = stream.states
    steps = [stream.chunk, stream.warmup, stream.delay + 1]
    steps += [n for s in states for n in (s.fresh, s.period, s.first + 1)]
    sound = min(steps) >= 1 and max(steps) <= MOST_FRAMES and len(states) <= MOST_STATES
    sound = sound and all(1 <= len(s.shape) <= 4 and min(s.shape) >= 1 for s in states)
    if not sound or sum(s.bytes * max(1, s.fresh // s.shape[0]) for s in states) > MAX_STATE_BYTES:
        raise UsageError(f"{where}: the states' shapes, periods or frame counts make no sense")


def at_size(spec: ModelSpec, size: int) -> ModelSpec:
    """The same model for frames of ``size`` x ``size``."""
    shape = (*spec.input.shape[:-2], size, size)
    return replace(spec, name=f"{spec.name}-{size}", input=replace(spec.input, shape=shape))


def with_particles(spec: ModelSpec, count: int) -> ModelSpec:
    """The same model with ``count`` particles. Raises UsageError if it follows none, or cannot so many."""
    if spec.particles is None:
        raise UsageError(f"{spec.name} follows no particles: leave --particles out")
    if not 1 <= count <= MOST_PARTICLES:
        raise UsageError(f"--particles {count}: give 1 to {MOST_PARTICLES}; pairs grow with the square")
    outputs = tuple(
        replace(out, shape=(1, count, *out.shape[2:])) if out.layout == "NKC" else out for out in spec.outputs
    )
    return replace(spec, name=f"{spec.name}-k{count}", particles=count, outputs=outputs)


def from_files(builder: str, weights: Path, spec: ModelSpec, *, trust_pickle: bool) -> Checkpoint:
    """Checkpoint of a user's own model, its weights plain safetensors under the names of the builder's
    module.

    weights: a file, or FILE#SET for one of several sets of weights in it. Where it holds anything else than
    exactly the module's weights, plain safetensors are written into the cache, and ``load_notes`` says what
    was done. Raises UsageError for a file or a builder that is no use (see ``edgepv.weights`` and
    ``new_module``), and for names that do not fit (see ``edgepv.naming``).
    """
    path, chosen = addressed(weights)
    found = read(path, trust_pickle=trust_pickle)
    module = new_module(builder, spec)
    state, notes = _in_place(found, module, chosen, str(path), builder)
    _check_head(module, state, spec, str(path))
    if found.kind == "safetensors" and set(state) == set(found.sets[""]) and not notes:
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
    found: Found, module: Any, chosen: str | None, file: str, builder: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(weights under the names of the module without its parametrizations, what was done)."""
    own = {name: value.shape for name, value in module.state_dict().items()}
    same = [v for v in found.sets.values() if {name: value.shape for name, value in v.items()} == own]
    count = sum(hasattr(part, "parametrizations") for part in module.modules())
    if len(found.sets) == len(same) == 1 and count:
        module.load_state_dict(same[0])  # its own code knows best what they mean
        return made_plain(module).state_dict(), (f"parametrizations of {count} layers computed",)
    fit = fitted(found, made_plain(module), chosen=chosen, file=file, builder=builder)
    return fit.state, fit.notes


def _check_head(module: Any, state: dict[str, Any], spec: ModelSpec, file: str) -> None:
    """Raise UsageError for weights of other labels: fit_to_weights would resize the module's last layer."""
    last = next((k for k, v in reversed(module.state_dict().items()) if v.ndim > 1), "")
    own = module.state_dict().get(last)
    if own is None or spec.task != "classification" or own.shape[0] != len(spec.labels) or last not in state:
        return
    if len(state[last]) != len(own):
        raise UsageError(
            f"{file} was trained for {len(state[last])} labels ('{last}'), {spec.name} names {len(own)}. "
            "Name those it was trained for, or give weights that were trained for these: edgepv finetune"
        )


def _stored(state: dict[str, Any]) -> Path:
    """A safetensors file of the weights in the cache, the same one for the same weights."""
    from safetensors.torch import save as serialized

    data = serialized({name: value.contiguous().clone() for name, value in state.items()})
    key = {"step": "load", "weights": hashlib.sha256(data).hexdigest()}
    folder, _, _ = cached(key, lambda out: (out / WEIGHTS).write_bytes(data))
    return folder / WEIGHTS


def build(checkpoint: Checkpoint) -> Any:
    """The torch module in eval mode, its weights in, gradients off, rewritten if the checkpoint says so.

    Parametrizations and masks of the builder's module are computed once and taken off. Raises UsageError if
    the weights changed since the checkpoint was made; if the builder is no use (see ``new_module``); if
    weights are not finite in float32; or if weights and module do not match in name, shape or kind of number,
    naming the first that differs."""
    if sha256(Path(checkpoint.weights)) != checkpoint.sha256:
        raise UsageError(f"{checkpoint.weights} is not the file this run began with. Start again")
    weights = read_weights(Path(checkpoint.weights))
    module = made_plain(new_module(checkpoint.builder, checkpoint.spec))
    fit_to_weights(module, weights)
    _check_kinds(module, weights, checkpoint.weights)
    _check_shapes(module, weights, checkpoint)
    module.load_state_dict(weights)
    return rewritten(module.eval().requires_grad_(False), checkpoint)


def _check_shapes(module: Any, weights: dict[str, Any], checkpoint: Checkpoint) -> None:
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
    UsageError for a builder that fails or returns no module, and for TorchScript or a quantized model in what
    it returns."""
    torch = need("torch", extra="compress")
    module = call_builder(builder, spec)
    if not isinstance(module, torch.nn.Module):
        what, cure = type(module).__name__, "Return the module alone"
        if module is None:
            what, cure = "nothing", "End it with: return the_module"
        raise UsageError(f"{builder} returned {what}, not a torch module. {cure}")
    try:
        module = _unwrapped(module).eval()
    except NotImplementedError as e:
        raise UsageError(
            f"{builder} returned a program of torch.export, not a model. Return the nn.Module it was made of"
        ) from e
    for name, part in module.named_modules():
        where = f"'{name}' of what {builder} returned" if name else f"what {builder} returned"
        if isinstance(part, torch.jit.ScriptModule):
            raise UsageError(
                f"{where} is TorchScript, whose layers cannot be taken apart. Return the nn.Module that was "
                "scripted or traced, and give its state_dict() as weights"
            )
        if _quantizes(part):
            raise UsageError(
                f"{where} is prepared for quantization or quantized ({type(part).__name__}). Return the "
                "float model: edgepv quantizes by itself, and trains for it with --qat"
            )
    _give_sizes(module, spec, builder)
    values = (*module.parameters(), *module.buffers())
    if any(v.is_meta for v in values):
        raise UsageError(f"{builder} returned a module without storage (device meta). Build it on the CPU")
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

    def core(part: Any) -> Any:
        while True:
            if isinstance(part, torch._dynamo.OptimizedModule):
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


def _give_sizes(module: Any, spec: ModelSpec, builder: str) -> None:
    """Run a module with lazy layers once, so that they get their sizes."""
    import torch

    if not any(torch.nn.parameter.is_lazy(value) for value in (*module.parameters(), *module.buffers())):
        return
    try:
        with torch.no_grad():
            module(torch.zeros(spec.input.shape))
    except Exception as e:
        raise UsageError(
            f"the lazy layers of {builder} get no size, for it does not run on an input of shape "
            f"{spec.input.shape}: {first_line(e)}"
        ) from e


def made_plain(module: Any) -> Any:
    """``module`` with every parametrization, norm hook and pruning mask computed into a plain parameter."""
    from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
    from torch.nn.utils.spectral_norm import SpectralNorm
    from torch.nn.utils.weight_norm import WeightNorm

    for part in list(module.modules()):
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


def _check_kinds(module: Any, weights: dict[str, Any], where: str) -> None:
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


def rewritten(module: Any, checkpoint: Checkpoint) -> Any:
    """``module`` laid out as the checkpoint says: as a step, as a flat clip model, or as it is."""
    rewrite = checkpoint.rewrite
    if rewrite is None:
        return module
    from edgepv import stream

    spec = replace(checkpoint.spec, input=rewrite.clip)
    if rewrite.kind == "flat":
        return stream.flatten(module, spec)
    return stream.convert(module, spec, every=rewrite.every, pool=rewrite.pool)


def read_weights(path: Path) -> dict[str, Any]:
    """State dict of a safetensors file, all finite in float32. Raises UsageError for anything else."""
    torch = need("torch", extra="compress")
    state = read(path, trust_pickle=False).sets[""]
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value.float()).all()):
            beyond = "" if not torch.isfinite(value).all() else " in float32, where 3.4e38 is the largest"
            raise UsageError(f"{path}: weight '{name}' has values that are not finite{beyond}. Train again")
    return state


def save(module: Any, path: Path) -> str:
    """Write the module's weights as safetensors, whole; returns their digest."""
    from safetensors.torch import save

    state = {
        k: v.detach().cpu().contiguous().clone() for k, v in module.state_dict().items()
    }  # none is shared
    with whole_file(path) as tmp:
        tmp.write_bytes(save(state))
    return sha256(path)


def record(
    name: str,
    options: dict[str, Any],
    inputs: dict[str, str],
    outputs: dict[str, str],
    tools: tuple[str, ...] = (),
) -> StepRecord:
    """A StepRecord with the versions of edgepv and of the named distributions."""
    return StepRecord(name, options, inputs, outputs, versions(("edgepv", *tools)))


_CALLED_WITH = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def call_builder(name: str, spec: ModelSpec | None = None) -> Any:
    """What the builder "package.module:function" or "path/file.py:function" returns, or a module of that
    name.

    spec: its frames' ``height`` and ``width`` (both or none: alone, a width is often one of channels) and
    ``size`` (the width), its ``frames``, the number of its labels as ``num_classes``, and its ``particles``
    are handed to a builder that has a parameter of that name, whose default is a whole number, None or none.
    What the builder prints goes to stderr. Raises UsageError if it cannot be imported or called, naming its
    line.
    """
    with contextlib.redirect_stdout(sys.stderr), _beside(name.rpartition(":")[0]):
        function = find_function(name)
        if isinstance(function, need("torch", extra="compress").nn.Module):
            return function
        given = _arguments(name, function, spec)
        try:
            return function(**given)
        except EdgepvError:
            raise
        except SystemExit as e:
            raise UsageError(
                f"builder {name} called sys.exit or os._exit; it must return a torch module"
            ) from e
        except KeyboardInterrupt:
            raise
        except BaseException as e:
            raise UsageError(f"builder {name} raised {_what(e)}. {_remedy(e)}") from e


def _arguments(name: str, function: Callable[..., Any], spec: ModelSpec | None) -> dict[str, Any]:
    """What a builder is told of the spec. Raises UsageError if it needs to be told more."""
    parameters = inspect.signature(function).parameters
    facts = _facts(spec) if spec else {}
    if not {"height", "width"} <= parameters.keys():
        facts = {n: v for n, v in facts.items() if n not in ("height", "width")}
    told = [n for n, p in parameters.items() if p.default in (p.empty, None) or type(p.default) is int]
    given = {n: v for n, v in facts.items() if n in told and v is not None}
    required = [
        p.name
        for p in parameters.values()
        if p.default is p.empty and p.name not in given and p.kind in _CALLED_WITH
    ]
    if required:
        called = f"{name.rpartition(':')[2]}({required[0]}=...)"
        raise UsageError(
            f"builder {name} needs the argument '{required[0]}'; it must need none. Put a function without "
            f"arguments beside it that returns {called}, and name that one"
        )
    return given


def _what(error: BaseException) -> str:
    """An error of the user's code: its kind, its first line, and the user's line that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    libraries = (str(Path(inspect.__file__).parent), str(Path(__file__).parent), "<")
    own = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith(libraries)]
    place = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{Path(error.filename).name}:{error.lineno}"
    said = str(error.msg) if isinstance(error, SyntaxError) else next(iter(str(error).splitlines()), "")
    said = re.sub(rf"{USERS}[0-9a-f]{{8}}\.", "", said)
    return f"{type(error).__name__}: {said}{f' ({place})' if place else ''}"


def _remedy(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        if error.name.startswith(USERS):
            return "Correct the import, or put the module there"
        return (
            f"Install '{error.name.partition('.')[0]}', or put it beside the builder's file or into the "
            "current folder"
        )
    if "cuda" in str(error).lower():
        return "Build the model on the CPU: take .cuda() and device='cuda' out"
    return "Fix the builder"


def _facts(spec: ModelSpec) -> dict[str, int | None]:
    """What a builder may ask to be told."""
    height, width = spec.input.shape[-2:]
    return {
        "size": width,
        "height": height,
        "width": width,
        "frames": spec.frames,
        "num_classes": len(spec.labels) or None,
        "particles": spec.particles,
    }


def find_function(name: str) -> Callable[..., Any]:
    """Import the function behind "module:function" or "file.py:function".

    Raises UsageError if there is none, or if importing raises or ends the program.
    """
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise UsageError(f"'{name}' is not file.py:function or package.module:function")
    try:
        with _beside(place):
            module = _load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except EdgepvError:
        raise
    except SystemExit as e:
        raise UsageError(
            f"{place} cannot be imported: it called sys.exit or os._exit. "
            "Put what it does as a program under: if __name__ == '__main__'"
        ) from e
    except KeyboardInterrupt:
        raise
    except BaseException as e:
        raise UsageError(f"{place} cannot be imported: {_what(e)}. {_remedy(e)}") from e
    if not callable(getattr(module, attribute, None)):
        raise UsageError(f"{place} has no function '{attribute}'")
    return getattr(module, attribute)


@contextlib.contextmanager
def _beside(place: str) -> Iterator[None]:
    """Let the user's code import what lies beside its file, in its package's folder and in the current
    folder.

    The first two come before what is installed, as for any script, except for the file's own name: a file
    torchvision.py may import torchvision. Afterwards they are asked last, for what is imported when it runs.
    """
    need("torch", extra="compress")  # else its own imports would be looked for here
    folders = [Path.cwd()]
    if place.endswith(".py"):
        folders = [Path(place).resolve().parent, _top(Path(place).resolve().parent), *folders]
    paths = [str(folder) for folder in folders]
    own = _Elsewhere(Path(place).stem, paths)
    for name in [n for n, folder in _BESIDE.items() if folder not in paths]:
        sys.modules.pop(name, None)  # another builder's, whose neighbours may have the same names
        del _BESIDE[name]
    before, loaded = list(sys.path), set(sys.modules)
    sys.path[:] = [*paths[:-1], *(p for p in before if p not in paths), paths[-1]]
    sys.meta_path.insert(0, own)
    try:
        yield
    finally:
        sys.meta_path.remove(own)
        sys.path[:] = [*before, *(p for p in dict.fromkeys(paths) if p not in before)]
        for name in set(sys.modules) - loaded:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if "site-packages" not in file:
                for folder in (p for p in paths[:-1] if file.startswith(p + os.sep)):
                    _BESIDE[name] = folder


_BESIDE: dict[str, str] = {}
"""What builders imported from beside their files: module -> the folder."""


class _Elsewhere(importlib.abc.MetaPathFinder):
    """Finds a module of one name anywhere but in some folders."""

    def __init__(self, name: str, folders: Sequence[str]) -> None:
        self._name, self._folders = name, folders

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self._name or path is not None:
            return None
        return importlib.machinery.PathFinder.find_spec(name, [p for p in sys.path if p not in self._folders])


def _top(folder: Path) -> Path:
    """The folder that holds the package ``folder`` is in; itself if it is in none."""
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def _package(folder: Path) -> str:
    """The name of a package that a folder is, made if it is none: a file in it may import relatively."""
    top = _top(folder) if (folder / "__init__.py").is_file() else folder.parent
    name = f"{USERS}{hashlib.sha256(os.fsencode(top)).hexdigest()[:8]}"
    _namespace(name, top)
    for part in folder.relative_to(top).parts:
        name, top = f"{name}.{_safe(part)}", top / part
        if (top / "__init__.py").is_file():
            importlib.import_module(name)
        else:
            _namespace(name, top)
    return name


def _safe(part: str) -> str:
    """Part of a path as part of a module's name, in which a dot would begin a new one."""
    return re.sub(r"\W", "_", part)


def _namespace(name: str, folder: Path) -> None:
    """Make a package of no file whose modules are those in ``folder``."""
    made = ModuleType(name)
    made.__path__ = [str(folder)]
    sys.modules[name] = made


def _load_file(path: Path) -> Any:
    """The module of a file, run anew; in its package, so that it may import relatively."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist. MODEL may be path/file.py:function")
    path = path.resolve()
    package = _package(path.parent)
    spec = importlib.util.spec_from_file_location(f"{package}.{_safe(path.stem)}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def fit_to_weights(module: Any, weights: dict[str, Any]) -> None:
    """Replace each convolution, norm and linear layer whose size differs from its weights.

    Groups follow: a depthwise layer stays depthwise. Where the weights hold ``name.0`` and ``name.1`` for
    one layer ``name`` of the builder, it becomes the two layers of a low-rank split. Other parameters are
    left to load_state_dict, which names a mismatch.
    """
    for name, layer in list(module.named_modules()):
        if getattr(layer, "weight", None) is None:
            continue
        weight = weights.get(f"{name}.weight")
        halves = weights.get(f"{name}.0.weight"), weights.get(f"{name}.1.weight")
        fitting = None
        if weight is not None and tuple(weight.shape) != tuple(layer.weight.shape):
            fitting = _resized(layer, weight, bias=getattr(layer, "bias", None) is not None)
        elif weight is None and splittable(layer) and _two_of(layer, *halves):
            fitting = split(layer, *halves)
        if fitting is not None:
            put(module, name, fitting)


def put(module: Any, name: str, layer: Any) -> None:
    """Set the submodule ``name`` ("blocks.0.conv1") of ``module``."""
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, layer)


def splittable(layer: Any) -> bool:
    """Whether ``layer`` is an ungrouped convolution or linear layer, of torch's own classes."""
    from torch import nn

    plain = type(layer) in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return plain and getattr(layer, "groups", 1) == 1


def _two_of(layer: Any, first: Any, second: Any) -> bool:
    """Whether two weights are what ``split`` makes of ``layer``, and not some other pair of layers."""
    if first is None or second is None or first.ndim != layer.weight.ndim or second.ndim != first.ndim:
        return False
    return second.shape[1] == first.shape[0] and all(n == 1 for n in second.shape[2:])


def split(layer: Any, first: Any, second: Any) -> Any:
    """Two layers in a row in place of ``layer``, sized for the weights ``first`` and ``second``.

    first: (r, cin, *kernel), takes over kernel, stride, padding and dilation. second: (cout, r, 1, ...),
    takes over the bias. The layers' own weights are fresh.
    """
    from torch import nn

    bias = layer.bias is not None
    size = {} if isinstance(layer, nn.Linear) else {"kernel_size": 1}
    last = type(layer)(second.shape[1], second.shape[0], bias=bias, **size)
    return nn.Sequential(_resized(layer, first, bias=False), last)


def _resized(layer: Any, weight: Any, *, bias: bool) -> Any:
    """A layer like ``layer`` that holds ``weight``'s shape; None for a kind that has no width."""
    from torch import nn

    kind = type(layer)
    if isinstance(layer, nn.Linear):
        return nn.Linear(weight.shape[1], weight.shape[0], bias=bias)
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        return kind(weight.shape[0], eps=layer.eps, momentum=layer.momentum)
    if isinstance(layer, nn.GroupNorm):
        return kind(layer.num_groups, weight.shape[0], layer.eps)
    if isinstance(layer, nn.LayerNorm):
        return kind(tuple(weight.shape), layer.eps, bias=bias)
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        depthwise = layer.groups == layer.in_channels > 1
        groups = weight.shape[0] if depthwise else layer.groups
        return kind(
            weight.shape[1] * groups,
            weight.shape[0],
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            groups,
            bias,
            layer.padding_mode,
        )
    return None
