"""Files of weights as people have them: plain tensors by name, whatever they were saved with.

Safetensors, state dicts, training states (Lightning, SlowFast, timm, mmengine ...), whole pickled modules and
TorchScript archives. Of a pickle only tensors are made: where torch's own reader of weights alone refuses it,
every foreign class in it is replaced by one that does nothing, so that no code of the file ever runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from edgepv.base.files import sha256, whole_file
from edgepv.base.optional import need
from edgepv.errors import ModelError, UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

State: TypeAlias = "dict[str, Tensor]"
"""Tensors by name."""
HEAD_BYTES = 512  # that are read to tell the kind of a file
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How torch.save began before it wrote zips: the pickle of its magic number."""
DEEPEST = 6
"""Dictionaries inside each other that are looked into for weights."""

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of a name that torch.compile, FSDP and activation checkpoints put in; they say nothing of the
model."""
OBSERVERS = re.compile(r"(^|\.)(activation_post_process|weight_fake_quant|fake_quant|observer)(_\d+)?\.")
"""Names of what torch's quantization-aware training adds."""
COUNTERS = re.compile(r"(^|\.)(num_batches_tracked|total_ops|total_params|n_averaged)$")
"""What no answer depends on: a batch norm's count, thop's sums, the count of averaged weights."""


@dataclass(frozen=True)
class WeightsFile:
    """What a file holds. sets: every set of weights by its place in the file, "" for the file itself.

    kind: "safetensors", "torch", "TorchScript". labels: of the data it was trained on, where the file says
    so.
    """

    kind: str
    sets: dict[str, State]
    labels: tuple[str, ...] = ()


def addressed(weights: Path) -> tuple[Path, str | None]:
    """(file, which set of weights in it) of "FILE" or "FILE#SET"."""
    file, mark, chosen = str(weights).rpartition("#")
    if mark and not weights.exists() and Path(file).is_file():
        return Path(file), chosen
    return weights, None


def read(path: Path, *, trust_pickle: bool) -> WeightsFile:
    """Every set of weights in a file.

    Raises UsageError, naming what the file is and the cure, for one that is missing, damaged or no weights,
    and for a pickle unless ``trust_pickle``.
    """
    need("torch", extra="compress")
    kind = _kind(path)
    if kind == "safetensors":
        return WeightsFile(kind, {"": _safetensors(path)})
    if not trust_pickle:
        raise UsageError(
            f"{path} is not safetensors; a pickle can run code when it is read. Save it with "
            "safetensors.torch.save_file, or pass --trust-pickle if you made the file yourself"
        )
    if kind == "TorchScript":
        return WeightsFile(kind, {"": _torchscript(path)})
    from edgepv.model.unpickle import unpickled

    loaded = unpickled(path)
    sets = dict(_sets(loaded, ""))
    if not sets:
        raise UsageError(f"{path} holds no weights ({_contents(loaded)}). Save model.state_dict()")
    return WeightsFile(
        "torch", {place: _dense(state, path) for place, state in sets.items()}, _labels(loaded)
    )


def _dense(state: State, path: Path) -> State:
    """The same values as plain tensors. Raises UsageError for those that are quantized or have none."""
    for name, value in state.items():
        if value.is_quantized:
            raise UsageError(
                f"{path}: '{name}' is already quantized. Give the float weights: edgepv quantizes by itself"
            )
        if value.is_meta:
            raise UsageError(
                f"{path}: '{name}' has a shape and no values (device meta). Save the trained model"
            )
    return {name: value.to_dense() if value.is_sparse else value for name, value in state.items()}


def _kind(path: Path) -> str:
    """ "safetensors", "torch" or "TorchScript". Raises UsageError for any other file, saying what it is."""
    if path.is_dir():
        raise UsageError(
            f"{path} is a folder. --weights wants one file: its .safetensors, .pt, .pth or .ckpt"
        )
    if not path.is_file():
        raise UsageError(f"{path} does not exist. --weights wants a .safetensors file")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    what, cure = _no_weights(path, head)
    if what:
        raise UsageError(f"{path} is {what}, no weights. {cure}")
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length < 1 << 27:
        if 8 + length > size:
            raise UsageError(
                f"{path} cannot be read as weights: it ends after {size} bytes. It may be truncated"
            )
        return "safetensors"
    if head.startswith(b"PK\3\4"):
        return _zip_kind(path)
    if head.startswith(LEGACY):
        return "torch"
    if head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5":
        raise UsageError(
            f"{path} is a pickle that torch.save did not write, no weights. Save it anew with "
            "safetensors.torch.save_file, each value a tensor"
        )
    raise UsageError(
        f"{path} cannot be read as weights: it is neither safetensors nor what torch.save writes. It may be "
        "damaged, or another program's"
    )


def _no_weights(path: Path, head: bytes) -> tuple[str, str]:
    """(what a file is, what to do) if its first bytes or its name say that it holds no weights."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "empty (0 bytes)", "Copy or download it again"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS", "Fetch the file itself: git lfs pull"
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "a web page (HTML or XML)", "The download went wrong; open the address in a browser and log in"
    if text.startswith((b"{", b"[")):
        return "JSON", "Give the file of weights that lies beside it"
    if head[:2] == b"\x1f\x8b" or head[:3] == b"BZh" or head[:6] == b"\xfd7zXZ\0" or _is_tar(path, head):
        return "a compressed file or an archive", "Unpack it and give the file of weights in it"
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        return "HDF5 (Keras)", "Give weights of the torch module that the builder returns"
    if head[:6] == b"\x93NUMPY":
        return "a NumPy array", "Save the torch module's state_dict()"
    if path.suffix == ".onnx":
        return "an ONNX file", f"Give it as the model: edgepv export {path} --spec spec.toml"
    if head[4:8] == b"TFL3" or path.suffix in (".tflite", ".engine", ".plan"):
        return "a converted model", "Give the weights that it was converted from"
    return "", ""


def _is_tar(path: Path, head: bytes) -> bool:
    import tarfile

    return head[257:262] == b"ustar" and tarfile.is_tarfile(path)


def _zip_kind(path: Path) -> str:
    import zipfile

    if not zipfile.is_zipfile(path):
        raise UsageError(
            f"{path} cannot be read as weights: the end of its zip is missing. It may be truncated"
        )
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return "TorchScript"
    if "data.pkl" in names:
        return "torch"
    if any("models/" in name and name.endswith(".json") for name in names) or "archive_format" in names:
        raise UsageError(f"{path} is a program of torch.export, no weights. Save the module's state_dict()")
    raise UsageError(
        f"{path} is a zip of other files, no weights. Unpack it and give the file of weights in it"
    )


def _safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as e:
        raise UsageError(f"{path} cannot be read as weights ({first_line(e)}). It may be truncated") from e


def _torchscript(path: Path) -> State:
    import torch

    try:
        state = torch.jit.load(path, map_location="cpu").state_dict()
    except Exception as e:  # its reader raises RuntimeError, ValueError and more
        raise UsageError(
            f"{path} cannot be read as TorchScript ({first_line(e)}). It may be truncated"
        ) from e
    if not state:
        raise UsageError(
            f"{path} is frozen TorchScript: its weights are constants of its code. Save the state_dict() of "
            "the module that it was made from"
        )
    return {name: value.detach() for name, value in state.items()}


class Inert:
    """Stands for an object, or for what a function made, of a class that is not loaded. Does nothing."""

    state: Any = None

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        """A new one, whatever the class that it stands for would have been given."""
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: object) -> None:
        """Take no value: a list that is not loaded stays empty."""

    def extend(self, values: object) -> None:
        """Take no values: a list that is not loaded stays empty."""

    add = append


def _sets(loaded: Any, place: str, depth: int = 0) -> Iterator[tuple[str, State]]:
    """Every set of tensors in what a file holds, by its place: "", "state_dict", "ema/module"."""
    import torch

    if isinstance(loaded, Inert) and _is_module(loaded):
        yield place, dict(_of_module(loaded, ""))
    if isinstance(loaded, list | tuple):
        loaded = dict(enumerate(loaded))
    if not isinstance(loaded, Mapping) or depth > DEEPEST:
        return
    state = {k: v.detach() for k, v in loaded.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
    if state:
        yield place, state
    for key, value in loaded.items():
        yield from _sets(value, f"{place}/{key}".strip("/"), depth + 1)


def _is_module(pickled: Inert) -> bool:
    return isinstance(pickled.state, dict) and {"_parameters", "_buffers", "_modules"} <= set(pickled.state)


def _of_module(pickled: Inert, prefix: str) -> Iterator[tuple[str, Any]]:
    """The state dict of a pickled nn.Module, from the attributes that every module has."""
    import torch

    state = pickled.state
    kept = {**state["_parameters"], **state["_buffers"]}
    for name, value in kept.items():
        if isinstance(value, torch.Tensor) and name not in state.get("_non_persistent_buffers_set", ()):
            yield prefix + name, value.detach()
    for name, child in state["_modules"].items():
        if isinstance(child, Inert) and _is_module(child):
            yield from _of_module(child, f"{prefix}{name}.")


def _labels(loaded: Any) -> tuple[str, ...]:
    """Names of classes that a training state of mmaction2 (meta) or mmengine (dataset_meta) may hold."""
    meta = loaded.get("meta") if isinstance(loaded, Mapping) else None
    for holder in (meta, meta.get("dataset_meta") if isinstance(meta, Mapping) else None):
        for key in ("CLASSES", "classes"):
            names = holder.get(key) if isinstance(holder, Mapping) else None
            if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
                return tuple(names)
    return ()


def _contents(loaded: Any) -> str:
    """What a file holds, for a person."""
    if isinstance(loaded, Mapping):
        keys = [str(key)[:40] for key in loaded]
        return "keys: " + ", ".join(keys[:4]) + (" ..." if len(keys) > 4 else "") if keys else "an empty dict"
    return f"a {type(loaded).__name__}"


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its name where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def plain(state: State) -> tuple[State, tuple[str, ...]]:
    """(the same weights as a module without wrappers and parametrizations has them, what was done).

    Masks of torch.nn.utils.prune are multiplied in; weight_norm and spectral_norm, old and new, are computed
    as their modules do in eval mode, in float32; what quantization-aware training observed is left out.
    Counters go unsaid. Sources: torch.nn.utils.prune, weight_norm, spectral_norm and parametrizations.
    """
    notes = []
    state = {".".join(p for p in k.split(".") if p not in WRAPPERS): v for k, v in state.items()}
    observed = [k for k in state if OBSERVERS.search(k)]
    if observed:
        state = {k: v for k, v in state.items() if k not in observed}
        notes.append(
            f"{len(observed)} values of quantization observers left out (edgepv sets its own ranges)"
        )
    state, masked, zeros = _masked(state)
    if masked:
        notes.append(f"pruning masks of {masked} layers applied ({zeros:.0%} of their weights are 0)")
    for name, rule in (("weight_norm", _weight_norm), ("spectral_norm", _spectral_norm)):
        state, count = rule(state)
        if count:
            notes.append(f"{name} of {count} layers computed")
    return state, tuple(notes)


def _masked(state: State) -> tuple[State, int, float]:
    """(state with "x" for every "x_orig" and "x_mask", how many, the share of zeros)."""
    names = [k.removesuffix("_mask") for k in state if k.endswith("_mask")]
    names = [
        n for n in names if f"{n}_orig" in state and state[f"{n}_orig"].shape == state[f"{n}_mask"].shape
    ]
    masked = {n: state[f"{n}_orig"] * state[f"{n}_mask"].to(state[f"{n}_orig"].dtype) for n in names}
    gone = {f"{n}{end}" for n in names for end in ("_orig", "_mask")}
    total = sum(v.numel() for v in masked.values())
    zeros = sum(int((v == 0).sum()) for v in masked.values()) / max(total, 1)
    return {k: v for k, v in state.items() if k not in gone} | masked, len(names), zeros


def _weight_norm(state: State) -> tuple[State, int]:
    """Weights as g * v / |v|; over which axes the norm goes, the shape of g says."""
    weights, gone = {}, set()
    for name in [k for k in state if k.endswith(("_g", ".original0"))]:
        if name.endswith(".original0"):
            owner, _, leaf = name.removesuffix(".original0").rpartition("parametrizations.")
            whole, twin = f"{owner}{leaf}", name.removesuffix("0") + "1"
        else:
            whole, twin = name.removesuffix("_g"), name.removesuffix("_g") + "_v"
        g, v = state[name], state.get(twin)
        if v is None or (
            g.ndim and (g.ndim != v.ndim or any(a not in (1, b) for a, b in zip(g.shape, v.shape)))
        ):
            continue
        axes = [i for i in range(v.ndim) if not g.ndim or g.shape[i] == 1]
        weights[whole] = v.float() * (g.float() / v.float().norm(2, axes, keepdim=True))
        gone |= {name, twin}
    return {k: v for k, v in state.items() if k not in gone} | weights, len(weights)


def _spectral_norm(state: State) -> tuple[State, int]:
    """Weights over their largest singular value, as the kept vectors u and v have it."""
    weights, gone = {}, set()
    for name in list(state):
        if name.endswith("_orig"):
            whole = name.removesuffix("_orig")
            u, v = f"{whole}_u", f"{whole}_v"
        elif name.endswith(".original") and "parametrizations." in name:
            owner, _, leaf = name.removesuffix(".original").rpartition("parametrizations.")
            whole = f"{owner}{leaf}"
            u, v = (f"{name.removesuffix('original')}0.{end}" for end in ("_u", "_v"))
        else:
            continue
        if u in state and v in state and (value := _divided(state[name], state[u], state[v])) is not None:
            weights[whole] = value
            gone |= {name, u, v}
    return {k: v for k, v in state.items() if k not in gone} | weights, len(weights)


def _divided(weight: Any, u: Any, v: Any) -> Any:
    """``weight`` over u^T W v; None if u and v do not fit. Transposed convolutions have outputs on axis 1.

    Where both axes fit, u and v are singular vectors along one of them only: there u^T W v is the larger.
    """
    sigmas = []
    for axis in (0, 1)[: weight.ndim]:
        matrix = weight.movedim(axis, 0).flatten(1) if weight.ndim > 1 else weight[:, None]
        if (matrix.shape[0], matrix.shape[1]) == (u.numel(), v.numel()):
            sigmas.append(u.flatten().float() @ matrix.float() @ v.flatten().float())
    return weight.float() / max(sigmas, key=abs) if sigmas else None


def read_weights(path: Path) -> State:
    """State dict of a safetensors file, all finite in float32; ModelError for values that are not."""
    torch = need("torch", extra="compress")
    state = read(path, trust_pickle=False).sets[""]
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value.float()).all()):
            beyond = "" if not torch.isfinite(value).all() else " in float32, where 3.4e38 is the largest"
            raise ModelError(f"{path}: weight '{name}' has values that are not finite{beyond}. Train again")
    return state


def save(module: nn.Module, path: Path) -> str:
    """Write the module's weights as safetensors, whole; returns their digest."""
    from safetensors.torch import save

    state = {
        k: v.detach().cpu().contiguous().clone() for k, v in module.state_dict().items()
    }  # none is shared
    with whole_file(path) as tmp:
        tmp.write_bytes(save(state))
    return sha256(path)
