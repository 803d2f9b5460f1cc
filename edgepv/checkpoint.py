"""A trained model on disk, and the torch module rebuilt from it.

A checkpoint is a builder function plus safetensors weights plus a ModelSpec: nothing to subclass, no
pickle. Layers are resized to the weights, so one builder serves every pruned width of its model.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from inspect import Parameter
from math import prod
from pathlib import Path
from typing import Any

from edgepv.errors import EdgepvError, UsageError
from edgepv.files import MOST_LETTERS, check_part, read_toml, sha256, whole_file
from edgepv.optional import need
from edgepv.types import METRICS, Checkpoint, ModelSpec, StepRecord, StreamSpec, decode

MAX_STATE_BYTES = 1 << 31
MOST_PARTICLES = 1024
MOST_FRAMES = 4096
MOST_STATES = 4096
MOST_SIDE = 8192  # px
MOST_VALUES = 1 << 28  # of one input: 1 GiB as float32


def read_spec(path: Path) -> ModelSpec:
    """ModelSpec from a TOML file. Raises UsageError for bad TOML or a key nobody knows."""
    data = read_toml(path, wanted="--spec wants the TOML file that describes the model")
    if "metric" not in data and data.get("task") in METRICS:
        data["metric"] = METRICS[data["task"]]
    spec = decode(ModelSpec, _grey_defaults(data), where=path.name)
    check_spec(spec, path.name)
    return spec


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
    if spec.task != "classification" and spec.input.layout != "NCHW":
        raise UsageError(f"{where}: only a per-frame model (NCHW) may be for {spec.task}")
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
    """Checkpoint of a user's own model. Pickled weights are turned into safetensors beside the cache.

    Raises UsageError for a missing file, and for a pickle unless ``trust_pickle``.
    """
    if not weights.is_file():
        raise UsageError(f"{weights} does not exist. --weights wants a .safetensors file")
    if weights.suffix != ".safetensors" and not trust_pickle:
        raise UsageError(
            f"{weights} is not safetensors; a pickle can run code when it is read. Save it with "
            "safetensors.torch.save_file, or pass --trust-pickle if you made the file yourself"
        )
    return Checkpoint(str(weights), sha256(weights), builder, spec)


def build(checkpoint: Checkpoint) -> Any:
    """The torch module in eval mode, its weights in, gradients off, rewritten if the checkpoint says so.

    Raises UsageError if the weights changed since the checkpoint was made; if the builder cannot be
    imported, raises, or returns no module; if weights are not finite in float32; or if weights and module do
    not match in name, shape or kind of number, naming the first that differs.
    """
    torch = need("torch", extra="compress")
    if sha256(Path(checkpoint.weights)) != checkpoint.sha256:
        raise UsageError(f"{checkpoint.weights} is not the file this run began with. Start again")
    weights = read_weights(Path(checkpoint.weights))
    module = call_builder(checkpoint.builder, checkpoint.spec)
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"{checkpoint.builder} returned {type(module).__name__}, not a torch module")
    fit_to_weights(module, weights)
    _check_kinds(module, weights, checkpoint.weights)
    try:
        module.load_state_dict(weights)
    except RuntimeError as e:
        detail = str(e).splitlines()[1].strip() if "\n" in str(e) else str(e)
        raise UsageError(
            f"{checkpoint.weights} does not fit {checkpoint.builder}: {detail} "
            "Give the weights that were trained with this builder"
        ) from e
    return rewritten(module.eval().requires_grad_(False), checkpoint)


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
    """State dict of a safetensors file (or a pickle, read with weights_only). All finite in float32.

    Raises UsageError for a file that is damaged or holds anything else.
    """
    torch = need("torch", extra="compress")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            state: dict[str, Any] = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
            state = loaded.get("state_dict", loaded)
            if not all(isinstance(v, torch.Tensor) for v in state.values()):
                raise UsageError(f"{path} is a whole training state. Save model.state_dict() alone")
    except UsageError:
        raise
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as e:
        raise UsageError(f"{path} cannot be read as weights ({e}). It may be truncated") from e
    except Exception as e:  # the unpickler raises its own types
        raise UsageError(f"{path} holds more than plain tensors; save a state dict") from e
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value.float()).all()):
            beyond = "" if not torch.isfinite(value).all() else " in float32, where 3.4e38 is the largest"
            raise UsageError(f"{path}: weight '{name}' has values that are not finite{beyond}. Train again")
    return dict(state)


def save(module: Any, path: Path) -> str:
    """Write the module's weights as safetensors, whole; returns their digest."""
    from safetensors.torch import save

    state = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
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


def versions(distributions: tuple[str, ...]) -> dict[str, str]:
    """Installed version of each distribution; those that are absent are left out."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


_CALLED_WITH = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def call_builder(name: str, spec: ModelSpec | None = None) -> Any:
    """What the builder "package.module:function" or "path/file.py:function" returns.

    spec: its frames' ``height``, ``width`` and ``size`` (the width), and its ``particles`` are handed to a
    builder that has a parameter of that name.
    """
    function = find_function(name)
    parameters = inspect.signature(function).parameters
    given = {n: v for n, v in (_facts(spec) if spec else {}).items() if n in parameters and v is not None}
    required = [
        p.name
        for p in parameters.values()
        if p.default is p.empty and p.name not in given and p.kind in _CALLED_WITH
    ]
    if required:
        raise UsageError(f"builder {name} needs the argument '{required[0]}'; it must need none")
    try:
        return function(**given)
    except EdgepvError:
        raise
    except SystemExit as e:
        raise UsageError(f"builder {name} called sys.exit or os._exit; it must return a torch module") from e
    except KeyboardInterrupt:
        raise
    except BaseException as e:
        raise UsageError(f"builder {name} raised {type(e).__name__}: {_line(e)}. Fix the builder") from e


def _line(error: BaseException) -> str:
    """The first line of what an error says."""
    return next(iter(str(error).splitlines()), "")


def _facts(spec: ModelSpec) -> dict[str, int | None]:
    """What a builder may ask to be told."""
    height, width = spec.input.shape[-2:]
    return {"size": width, "height": height, "width": width, "particles": spec.particles}


def find_function(name: str) -> Callable[..., Any]:
    """Import the function behind "module:function" or "file.py:function".

    Raises UsageError if there is none, or if importing raises or ends the program.
    """
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise UsageError(f"'{name}' is not file.py:function or package.module:function")
    try:
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
        raise UsageError(f"{place} cannot be imported: {type(e).__name__}: {_line(e)}") from e
    if not callable(getattr(module, attribute, None)):
        raise UsageError(f"{place} has no function '{attribute}'")
    return getattr(module, attribute)


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"{path} does not exist. MODEL may be path/file.py:function")
    key = f"edgepv_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.resolve().parent))
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
