"""A torch module in eager mode: a built-in model, or what a builder makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgepv import zoo
from edgepv.base.files import digest
from edgepv.base.optional import need
from edgepv.errors import UsageError
from edgepv.measure.artifacts.artifact import Artifact, Asked, Opened, noise, over_calls, over_frames
from edgepv.runtimes.engines.eager import EagerEngine
from edgepv.stream import Tensors
from edgepv.types import Checkpoint, StreamSpec, decode, encode


def of_name(name: str, asked: Asked, threads: int) -> Artifact:
    """A built-in model, or ``file.py:function``, whose code is run.

    A builder with a spec is stepped over frames, with its weights or those it begins with; without one it is
    called with noise of the shape that the user gives.
    """
    torch = need("torch", extra="compress")
    place, _, function = name.rpartition(":")
    checkpoint = zoo.checkpoint(name) if ":" not in name else _checkpoint(name, asked)
    facts: dict[str, Any] = {
        "name": f"{Path(place).name}:{function}" if place.endswith(".py") else name,
        "kind": "torch",
        "engine": "torch",
        "build": f"torch {torch.__version__}",
        "policy": f"eager, intra-op {threads}",
        "precision": "fp32",
    }
    if checkpoint is None:
        shape = asked.shapes.get("") or next(iter(asked.shapes.values()), None)
        if shape is None:
            raise UsageError(f"{name}: nobody says what it takes. Give --shape 1,3,224,224, or --spec FILE")
        arguments: dict[str, Any] = {"builder": name, "shape": list(shape)}
        return Artifact(**facts, sha256=_code(name), opener=f"{__name__}:called", arguments=arguments)
    module, stream = _built(checkpoint)
    return Artifact(
        **facts,
        sha256=checkpoint.sha256,
        opener=f"{__name__}:stepped",
        arguments={"checkpoint": encode(checkpoint)},
        bytes=sum(p.numel() * p.element_size() for p in module.parameters()),
        state_bytes=stream.state_bytes if stream else None,
        rate=float(checkpoint.spec.fps),
    )


def _checkpoint(name: str, asked: Asked) -> Checkpoint | None:
    """What the user says of a builder; None without a spec."""
    from edgepv.model.checkpoint import from_files
    from edgepv.model.spec import read_spec

    if asked.spec is None:
        if asked.weights:
            raise UsageError(f"{name}: --weights goes with --spec FILE (see docs/spec.md)")
        return None
    spec = read_spec(Path(asked.spec))
    if asked.weights:
        return from_files(name, Path(asked.weights), spec, trust_pickle=False)
    return Checkpoint("", _code(name), name, spec)


def _code(name: str) -> str:
    """Digest of what stands for a builder without weights: its file, or its name."""
    path = Path(name.rpartition(":")[0])
    return digest([name.rpartition(":")[2], path.read_text() if path.is_file() else str(path)])


def _built(checkpoint: Checkpoint) -> tuple[Any, StreamSpec | None]:
    from edgepv.export.to_onnx import stream_spec
    from edgepv.model.checkpoint import build, made_plain, new_module

    if checkpoint.weights:
        module = build(checkpoint)
    else:
        module = made_plain(new_module(checkpoint.builder, checkpoint.spec))
    return module, stream_spec(module, checkpoint.spec)


def stepped(checkpoint: dict[str, object], threads: int) -> Opened:
    """A module that takes one frame after the other, or the window that it looks back on."""
    need("torch", extra="compress").set_num_threads(threads)
    known = decode(Checkpoint, checkpoint)
    module, stream = _built(known)
    return over_frames(EagerEngine(module, known.spec, stream), known.spec, stream)


class CalledModule:
    """A module that is called with one tensor."""

    def __init__(self, module: Any) -> None:
        self._torch, self._module = need("torch", extra="compress"), module

    def infer(self, inputs: Tensors) -> Tensors:
        """Run once. The output is left to torch: nobody looks at it."""
        with self._torch.inference_mode():
            for value in inputs.values():
                self._module(self._torch.from_numpy(value))
        return {}

    def close(self) -> None:
        """Nothing to free."""


def called(builder: str, shape: list[int], threads: int) -> Opened:
    """A builder's module, called with noise of one shape."""
    from edgepv.model.builder import call_builder

    torch = need("torch", extra="compress")
    torch.set_num_threads(threads)
    module = call_builder(builder)
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"{builder} makes a {type(module).__name__}, no torch module")
    return over_calls(CalledModule(module.eval()), {"input": noise(shape, "float32")})
