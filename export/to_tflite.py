"""Convert a checkpoint to LiteRT (.tflite) with litert-torch. Called in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgepv.base.files import sha256, whole_file
from edgepv.base.isolated import call
from edgepv.base.optional import litert_feeds, litert_interpreter, plain_attention
from edgepv.base.quiet import hush
from edgepv.errors import EngineError
from edgepv.export.plain import in_parts
from edgepv.export.to_onnx import example_inputs, refusal, step_module, stream_spec, tensor_names
from edgepv.model.checkpoint import build
from edgepv.types import Checkpoint, Json, ModelSpec, StreamSpec, Variant, decode, encode


def to_tflite(checkpoint: Checkpoint, base: Variant, out: Path) -> Variant:
    """Float .tflite of the same graph as ``base``, converted in a subprocess and run once.

    Raises UsageError with the converter's reason; a converter's crash is a reason too.
    """
    return _made("edgepv.export.to_tflite:convert", base, out, checkpoint=encode(checkpoint))


def onnx_to_tflite(path: Path, base: Variant, out: Path) -> Variant:
    """The same of a user's ONNX file, ``base``, which lies at ``path``: its graph becomes torch again."""
    return _made(
        "edgepv.export.to_tflite:convert_onnx", base, out, path=str(path.absolute()), variant=encode(base)
    )


def _made(function: str, base: Variant, out: Path, **given: Json) -> Variant:
    names = call(function, tool="litert-torch", out=str(out), **given)
    return Variant(
        name="litert-fp32",
        engine="litert",
        precision="fp32",
        form=base.form,
        path=out.name,
        sha256=sha256(out),
        spec=base.spec,
        stream=base.stream,
        inputs=names["inputs"],
        outputs=names["outputs"],
        steps=base.steps,
    )


def convert(checkpoint: dict[str, object], out: str) -> dict[str, dict[str, str]]:
    """Subprocess side: write the file, run it once, return our name -> its name for both ends."""
    source = decode(Checkpoint, checkpoint)
    module = build(source)
    stream = stream_spec(module, source.spec)
    return _converted(step_module(module) if stream else module, source.spec, stream, Path(out))


def convert_onnx(path: str, variant: dict[str, object], out: str) -> dict[str, dict[str, str]]:
    """Subprocess side, of an ONNX file: the same."""
    from edgepv.export.onnx_module import OnnxModule

    base = decode(Variant, variant)
    inputs, outputs = tensor_names(base.spec, base.stream)
    named = [base.inputs[name] for name in inputs], [base.outputs[name] for name in outputs]
    return _converted(OnnxModule(Path(path), *named).eval(), base.spec, base.stream, Path(out))


def _converted(
    target: Any, spec: ModelSpec, stream: StreamSpec | None, out: Path
) -> dict[str, dict[str, str]]:
    """Write the file, run it once, and pair its names with ours."""
    import litert_torch
    import torch

    example = example_inputs(spec, stream)
    arguments = tuple(torch.from_numpy(v) for v in example.values())
    with whole_file(out) as tmp, hush(), plain_attention():
        try:
            litert_torch.convert(target, arguments).export(str(tmp))
        except Exception as e:
            try:
                with in_parts():
                    litert_torch.convert(target, arguments).export(str(tmp))
            except Exception:
                raise EngineError(f"litert-torch cannot convert {spec.name}: {refusal(e)}") from e
        return _names(tmp, spec, stream, example, target, arguments)


def _names(
    path: Path,
    spec: ModelSpec,
    stream: StreamSpec | None,
    example: dict[str, np.ndarray],
    target: Any,
    arguments: tuple[Any, ...],
) -> dict[str, dict[str, str]]:
    """Pair the file's tensor names with ours, proven by running it: a file that converts may not run.

    Inputs come out as args_0.. and outputs as output_0.., in call order; the numbers confirm it.
    """
    import torch

    inputs, outputs = tensor_names(spec, stream)
    interpreter = litert_interpreter()(str(path), num_threads=1)
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    got = runner(**litert_feeds(runner, {f"args_{i}": example[name] for i, name in enumerate(inputs)}))
    with torch.no_grad():
        wanted = target(*arguments)
    wanted = wanted if isinstance(wanted, tuple | list) else (wanted,)
    for i, name in enumerate(outputs):
        value = wanted[i].numpy()
        error = float(np.abs(got[f"output_{i}"] - value).max())
        if error > 1e-3 * max(1.0, float(np.abs(value).max())):
            raise EngineError(
                f"litert-torch converted {spec.name}, but '{name}' differs by {error:.2g}. "
                "Use another target, and report this model"
            )
    return {
        "inputs": {name: f"args_{i}" for i, name in enumerate(inputs)},
        "outputs": {name: f"output_{i}" for i, name in enumerate(outputs)},
    }
