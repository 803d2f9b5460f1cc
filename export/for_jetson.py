"""Pack for NVIDIA Jetson: ONNX in the forms TensorRT builds from, checked here, built on the device.

Four files, because two generations of TensorRT disagree. Weakly typed builds (8.5 to 10.11) read
opset 17 with float32 scales; strongly typed builds (10.12 and later, 11) take types from the file, so
theirs is opset 19 in float16. Each comes with Q/DQ (INT8) and without, because only a measurement on
the device says which is faster there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from edgepv.base.files import sha256, write_json, write_text
from edgepv.errors import UsageError
from edgepv.export import half
from edgepv.export.request import EVEN, BuildRequest, BuildResult
from edgepv.export.tensorrt import form, fp16, kit, opset, parser, plan, rules
from edgepv.export.to_onnx import example_inputs
from edgepv.stream import Tensors, by_file_names
from edgepv.types import QuantScheme, StateSpec, Variant

VARIANTS = ("tensorrt-fp32", "tensorrt-fp16", "tensorrt-int8", "tensorrt-int8-fp16")
"""All there are."""
FILES = plan.Files(
    weak_int8="model-int8-op17.onnx",
    strong_int8="model-int8-fp16-op19.onnx",
    weak_float="model-fp32-op17.onnx",
    strong_float="model-fp16-op19.onnx",
)
TOOLS = ("onnx", "onnxruntime")
MET = 32
"""Calibration inputs by which it is known what float16 does not hold."""
OPSET_LIMIT = {FILES.weak_int8: 17, FILES.weak_float: 17, FILES.strong_int8: 19, FILES.strong_float: 19}
"""Newest opset of each file: 17 is the last that TensorRT 8 reads, 19 has the float16 scales of strong
typing."""


def build(request: BuildRequest) -> BuildResult:
    """Files, variants and the plan for one model. The engine is the device's to build."""
    variants: list[Variant] = []
    as_given = request.base.precision == "int8"
    for name, precision, file in (
        ("tensorrt-fp32", "fp32", FILES.weak_float),
        ("tensorrt-fp16", "fp16", FILES.strong_float),
        ("tensorrt-int8", "int8", FILES.weak_int8),
        ("tensorrt-int8-fp16", "int8", FILES.strong_int8),
    ):
        if request.wants(name, precision) and (precision == "int8" or not as_given):
            with request.attempt(name):
                source = _quantized(request) if precision == "int8" and not as_given else request.base
                variant = _made(request, source, name, precision, file)
                if as_given:
                    _refuse_unlike_tensorrt(request.folder / variant.path)
                variants.append(variant)
    if not variants:
        return BuildResult(())
    notes = (*_wide_notes(request, variants), *_checks(request, variants))
    return BuildResult(tuple(variants), _plan(request, variants), notes)


def _refuse_unlike_tensorrt(path: Path) -> None:
    """Raise UsageError if a file that somebody else quantized breaks a rule of TensorRT's."""
    findings = rules.check(_read(path), opset_limit=OPSET_LIMIT[path.name])
    errors = [f for f in findings if f.severity == "error"]
    if errors:
        raise UsageError(
            f"the ONNX file is quantized already, and not as TensorRT reads it: at '{errors[0].node}' "
            f"{errors[0].message} ({len(errors)} such). Give the float model"
        )


def _form(request: BuildRequest, source: Variant, file: str) -> Any:
    """A source in the form of one of the files."""
    path = request.folder / source.path
    model = _read(path) if source.precision == "int8" else form.prepare(path)
    if file in (FILES.weak_int8, FILES.weak_float):
        return opset.to_opset(model, 17)
    return fp16.to_fp16(model, _met(request, source), _pairs(request.base, request.grown))


def _met(request: BuildRequest, source: Variant) -> list[Tensors]:
    """Inputs of a file by which it is known how large values get: of calibration clips, else of noise."""
    base = request.base
    noise = [example_inputs(base.spec, base.stream, seed) for seed in range(4)]
    return by_file_names(
        source, list(request.feeds[:: -(-len(request.feeds) // MET)]) if request.feeds else noise
    )


def _pairs(base: Variant, names: Sequence[str]) -> list[tuple[str, str]]:
    """(graph input, what it is fed from) of the states of these names."""
    ends = {**base.inputs, **base.outputs}
    states = base.stream.states if base.stream else ()
    return [(base.inputs[s.name], ends[s.output]) for s in states if s.name in names]


def _real(state: StateSpec) -> bool:
    """Whether a state holds real numbers: whole ones have no scale."""
    return state.dtype.startswith("float")


def _wide_notes(request: BuildRequest, variants: Sequence[Variant]) -> list[str]:
    """What a person must know of layers that float16 does not hold."""
    told = []
    for variant in variants:
        wide = half.noted(_read(request.folder / variant.path))
        if wide.nodes:
            why = f"their values reach {wide.most:.2g} and float16 ends at 65504"
            why = why if wide.most else "where sums grow for ever"
            told.append(
                f"{variant.path}: {len(wide.nodes)} operators stay in float32, {why}; first {wide.nodes[0]}. "
                "Builds before TensorRT 10.12 leave out --fp16"
            )
    return told


def _read(path: Path) -> Any:
    import onnx

    return onnx.load(path)


def _made(request: BuildRequest, source: Variant, name: str, precision: Any, file: str) -> Variant:
    """One file in its TensorRT form, as a cached step."""

    def make(folder: Path) -> Variant:
        model = _form(request, source, file)
        (folder / file).write_bytes(model.SerializeToString(deterministic=True))
        return replace(
            source, name=name, engine="tensorrt", precision=precision, path=file, sha256=sha256(folder / file)
        )

    options = {"grown": list(request.grown)} if request.grown else {}
    return request.work(f"tensorrt form {Path(file).stem}", options, source, TOOLS, make)


def _quantized(request: BuildRequest) -> Variant:
    """The float model with explicit Q/DQ in TensorRT's placement, at its own opset."""
    base = request.compress("equalise", {}, request.base, EVEN.format(""))
    pairs = _pairs(base, [s.name for s in base.stream.states if _real(s)] if base.stream else ())
    feeds = by_file_names(base, request.feeds)

    def make(folder: Path) -> Variant:
        out = folder / "qdq.onnx"
        form.quantize_for_tensorrt(request.folder / base.path, out, feeds, state_pairs=pairs)
        scheme = QuantScheme(
            "onnxruntime, TensorRT placement",
            "int8 symmetric per-tensor",
            "int8 symmetric per-channel",
            request.calibration_digest,
            len(feeds),
        )
        return replace(base, precision="int8", path=out.name, sha256=sha256(out), scheme=scheme)

    return request.work("tensorrt int8", {}, base, TOOLS, make)


def _checks(request: BuildRequest, variants: Sequence[Variant]) -> tuple[str, ...]:
    """What our rules and, where it is installed, NVIDIA's own parser say; also written to checks.json."""
    rows, notes = [], []
    for variant in variants:
        path = request.folder / variant.path
        findings = rules.check(_read(path), opset_limit=OPSET_LIMIT[variant.path])
        verdict = parser.parse_with_nvidia(path)
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
    write_json(request.folder / "checks.json", rows)
    return (*notes, "built, self-tested and benchmarked: only on the device; no Jetson figure is measured")


def _plan(request: BuildRequest, variants: Sequence[Variant]) -> tuple[str, ...]:
    """Precision plan, calibration table and build commands, written beside the models."""
    by_name = {v.name: v for v in variants}
    source = by_name.get("tensorrt-int8") or variants[0]
    model = _read(request.folder / source.path)
    wide = any(half.noted(_read(request.folder / v.path)).nodes for v in variants)
    write_json(request.folder / "precision_plan.json", plan.precision_plan(model, fp16_flag=not wide))
    write_json(request.folder / "calibration_table.json", plan.calibration_table(model))
    precision = "int8" if "tensorrt-int8" in by_name else "fp16"
    write_text(request.folder / "build.sh", build_script(precision, float16=not wide))
    kit.write_kit(request.folder / kit.KIT)
    return ("checks.json", "precision_plan.json", "calibration_table.json", "build.sh", kit.KIT)


def build_script(precision: str, *, float16: bool = True) -> str:
    """A shell script for the device: pick the line of its TensorRT and build.

    A weakly typed build may use float16 only where the file that is in float16 is in the bundle: then it
    passed its exam here. float16: False where that file keeps layers in float32, which no flag can ask for.
    """
    lines = [
        "#!/bin/sh",
        "# Builds the engine on the Jetson: sh build.sh 10.3 OUT_DIR   (see: dpkg -l | grep tensorrt)",
        "",
        'out=$(realpath "${2:?build.sh VERSION OUT_DIR}") || exit 1',
        'cd "$(dirname "$0")" || exit 1',
        "built=0",
        'case "$1" in',
    ]
    for version in [build.tensorrt for build in plan.BUILDS]:
        lines.append(f"  {json.dumps(version)})")
        for kind in ("int8", "fp16") if precision == "int8" else ("fp16",):
            lines += _building(version, kind, float16)
        lines.append("    ;;")
    known = ", ".join(build.tensorrt for build in plan.BUILDS)
    lines += [
        f"  *) echo \"build.sh: TensorRT version '$1' is not one of: {known}\" >&2; exit 2 ;;",
        "esac",
        '[ "$built" = 1 ] || { echo "build.sh: this bundle has no file for TensorRT $1" >&2; exit 1; }',
        "",
    ]
    return "\n".join(lines)


def _building(version: str, precision: Any, float16: bool) -> list[str]:
    """The lines that build one precision for one TensorRT, with float16 where that is known to be right."""
    (strong,) = (b.strongly_typed for b in plan.BUILDS if b.tensorrt == version)
    proven = FILES.pick(strong=True, precision=precision)
    commands = [plan.trtexec_lines(FILES, precision=precision, half=h)[version] for h in (True, False)]
    file = commands[0].split("--onnx=")[1].split()[0]
    for flag in ("--saveEngine=", "--exportLayerInfo="):
        commands = [command.replace(flag, f'{flag}"$out"/') for command in commands]
    with_half, without = commands
    if strong or not float16:
        return [f"    if [ -f {file} ]; then {without} || exit 1; built=1; fi"]
    return [
        f"    if [ -f {file} ] && [ -f {proven} ]; then {with_half} || exit 1; built=1;",
        f"    elif [ -f {file} ]; then {without} || exit 1; built=1; fi",
    ]
