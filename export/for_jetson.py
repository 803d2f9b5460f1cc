"""Pack for NVIDIA Jetson: ONNX in the forms TensorRT builds from, checked here, built on the device.

Four files, because two generations of TensorRT disagree. Weakly typed builds (8.5 to 10.11) read
opset 17 with float32 scales; strongly typed builds (10.12 and later, 11) take types from the file, so
theirs is opset 19 in float16. Each comes with Q/DQ (INT8) and without, because only a measurement on
the device says which is faster there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from edgepv.errors import UsageError
from edgepv.export import trt_form, trt_parser, trt_plan, trt_rules
from edgepv.export.job import Job, Packed
from edgepv.files import sha256, write_json, write_text
from edgepv.stream import by_file_names
from edgepv.types import QuantScheme, Variant

VARIANTS = ("tensorrt-fp32", "tensorrt-fp16", "tensorrt-int8", "tensorrt-int8-fp16")
"""All there are."""
FILES = trt_plan.Files(
    weak_int8="model-int8-op17.onnx",
    strong_int8="model-int8-fp16-op19.onnx",
    weak_float="model-fp32-op17.onnx",
    strong_float="model-fp16-op19.onnx",
)
TOOLS = ("onnx", "onnxruntime")
OPSET_LIMIT = {FILES.weak_int8: 17, FILES.weak_float: 17, FILES.strong_int8: 19, FILES.strong_float: 19}


def build(job: Job) -> Packed:
    """Files, variants and the plan for one model. The engine is the device's to build."""
    variants: list[Variant] = []
    as_given = job.base.precision == "int8"
    for name, precision, file, form in (
        ("tensorrt-fp32", "fp32", FILES.weak_float, _weak_float),
        ("tensorrt-fp16", "fp16", FILES.strong_float, _strong_float),
        ("tensorrt-int8", "int8", FILES.weak_int8, _weak),
        ("tensorrt-int8-fp16", "int8", FILES.strong_int8, _strong),
    ):
        if job.wants(name, precision) and (precision == "int8" or not as_given):
            with job.attempt(name):
                source = _quantized(job) if precision == "int8" and not as_given else job.base
                made = _made(job, source, name, precision, file, form)
                if as_given:
                    _refuse_unlike_tensorrt(job.folder / made.path)
                variants.append(made)
    if not variants:
        return Packed(())
    notes = _checks(job, variants)
    return Packed(tuple(variants), _plan(job, variants), notes)


def _refuse_unlike_tensorrt(path: Path) -> None:
    """Raise UsageError if a file that somebody else quantized breaks a rule of TensorRT's."""
    found = trt_rules.check(_read(path), opset_limit=OPSET_LIMIT[path.name])
    errors = [f for f in found if f.severity == "error"]
    if errors:
        raise UsageError(
            f"the ONNX file is quantized already, and not as TensorRT reads it: at '{errors[0].node}' "
            f"{errors[0].message} ({len(errors)} such). Give the float model"
        )


def _weak(path: Path) -> Any:
    return trt_form.to_opset(_read(path), 17)


def _strong(path: Path) -> Any:
    return trt_form.to_fp16(_read(path))


def _weak_float(path: Path) -> Any:
    return trt_form.to_opset(trt_form.prepare(path), 17)


def _strong_float(path: Path) -> Any:
    return trt_form.to_fp16(trt_form.prepare(path))


def _read(path: Path) -> Any:
    import onnx

    return onnx.load(path)


def _made(
    job: Job, source: Variant, name: str, precision: Any, file: str, form: Callable[[Path], Any]
) -> Variant:
    """One file in its TensorRT form, as a cached step."""

    def make(folder: Path) -> Variant:
        model = form(job.folder / source.path)
        (folder / file).write_bytes(model.SerializeToString(deterministic=True))
        return replace(
            source, name=name, engine="tensorrt", precision=precision, path=file, sha256=sha256(folder / file)
        )

    return job.work(f"tensorrt form {Path(file).stem}", {}, source, TOOLS, make)


def _quantized(job: Job) -> Variant:
    """The float model with explicit Q/DQ in TensorRT's placement, at its own opset."""
    base = job.base
    states = base.stream.states if base.stream else ()
    pairs = [(base.inputs[s.name], {**base.inputs, **base.outputs}[s.output]) for s in states]
    feeds = by_file_names(base, job.feeds)

    def make(folder: Path) -> Variant:
        out = folder / "qdq.onnx"
        trt_form.quantize_for_tensorrt(job.folder / base.path, out, feeds, state_pairs=pairs)
        scheme = QuantScheme(
            "onnxruntime, TensorRT placement",
            "int8 symmetric per-tensor",
            "int8 symmetric per-channel",
            job.calibration_digest,
            len(feeds),
        )
        return replace(base, precision="int8", path=out.name, sha256=sha256(out), scheme=scheme)

    return job.work("tensorrt int8", {}, base, TOOLS, make)


def _checks(job: Job, variants: Sequence[Variant]) -> tuple[str, ...]:
    """What our rules and, where it is installed, NVIDIA's own parser say; also written to checks.json."""
    rows, notes = [], []
    for variant in variants:
        path = job.folder / variant.path
        findings = trt_rules.check(_read(path), opset_limit=OPSET_LIMIT[variant.path])
        verdict = trt_parser.parse_with_nvidia(path)
        rows.append({"file": variant.path, "rules": [asdict(f) for f in findings], "parser": asdict(verdict)})
        errors = [f for f in findings if f.severity == "error"]
        said = f"refused it: {(verdict.errors or (verdict.reason,))[0]}"
        if not verdict.ran:
            said = f"was not asked ({verdict.reason})"
        elif verdict.accepted:
            said = f"{verdict.version} takes it"
        notes.append(
            f"{variant.path}: our rules found {len(errors)} errors, "
            f"{sum(f.severity == 'warning' for f in findings)} warnings; NVIDIA's parser {said}"
        )
    write_json(job.folder / "checks.json", rows)
    return (*notes, "built, self-tested and benchmarked: only on the device; no Jetson figure is measured")


def _plan(job: Job, variants: Sequence[Variant]) -> tuple[str, ...]:
    """Precision plan, calibration table and build commands, written beside the models."""
    by_name = {v.name: v for v in variants}
    source = by_name.get("tensorrt-int8") or variants[0]
    model = _read(job.folder / source.path)
    write_json(job.folder / "precision_plan.json", trt_plan.precision_plan(model))
    write_json(job.folder / "calibration_table.json", trt_plan.calibration_table(model))
    precision = "int8" if "tensorrt-int8" in by_name else "fp16"
    write_text(job.folder / "build.sh", build_script(precision))
    return ("checks.json", "precision_plan.json", "calibration_table.json", "build.sh")


def build_script(precision: str) -> str:
    """A shell script for the device: pick the line of its TensorRT and build."""
    lines = [
        "#!/bin/sh",
        "# Builds the engine on the Jetson: sh build.sh 10.3 OUT_DIR   (see: dpkg -l | grep tensorrt)",
        "",
    ]
    lines += ['out=$(realpath "${2:?build.sh VERSION OUT_DIR}") || exit 1', 'cd "$(dirname "$0")" || exit 1']
    lines += ["built=0", 'case "$1" in']
    commands = [trt_plan.trtexec_lines(FILES, precision="fp16")]
    if precision == "int8":
        commands.insert(0, trt_plan.trtexec_lines(FILES, precision="int8"))
    for version in commands[0]:
        lines.append(f"  {json.dumps(version)})")
        for each in commands:
            file = each[version].split("--onnx=")[1].split()[0]
            command = each[version].replace("--saveEngine=", '--saveEngine="$out"/')
            command = command.replace("--exportLayerInfo=", '--exportLayerInfo="$out"/')
            lines.append(f"    if [ -f {file} ]; then {command} || exit 1; built=1; fi")
        lines.append("    ;;")
    known = ", ".join(commands[0])
    lines += [
        f"  *) echo \"build.sh: TensorRT version '$1' is not one of: {known}\" >&2; exit 2 ;;",
        "esac",
        '[ "$built" = 1 ] || { echo "build.sh: this bundle has no file for TensorRT $1" >&2; exit 1; }',
        "",
    ]
    return "\n".join(lines)
