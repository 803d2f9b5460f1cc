"""Pack for NVIDIA Jetson: ONNX in the forms TensorRT builds from, checked here, built on the device.

Four files, because two generations of TensorRT disagree. Weakly typed builds (8.5 to 10.11) read
opset 17 with float32 scales; strongly typed builds (10.12 and later, 11) take types from the file, so
theirs is opset 19 in float16. Each comes with Q/DQ (INT8) and without, because only a measurement on
the device says which is faster there.

A target for one board and JetPack has the files alone that are built there. A weakly typed build may use
float16 only where the float16 file passed its exam; where that file is not built, it is made and examined all
the same, as evidence, and stays out of the bundle.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from edgepv.base.files import sha256, write_json, write_text
from edgepv.errors import UsageError
from edgepv.export import half
from edgepv.export.request import EVEN, BuildRequest, BuildResult
from edgepv.export.tensorrt import form, fp16, kit, opset, parser, plan, rewrite, rules
from edgepv.export.tensorrt.graph import name_nodes
from edgepv.export.to_onnx import example_inputs
from edgepv.model.boxes import uneven_layers
from edgepv.stream import Tensors, by_file_names
from edgepv.targets import jetson
from edgepv.types import QuantScheme, StateSpec, Variant

VARIANTS = ("tensorrt-fp32", "tensorrt-fp16", "tensorrt-int8", "tensorrt-int8-fp16")
"""All there are."""
WRITTEN = ("checks.json", "precision_plan.json", "calibration_table.json", "build.sh", kit.KIT)
"""What lies beside the models."""
TOOLS = ("onnx", "onnxruntime")
MET = 32
"""Calibration inputs by which it is known what float16 does not hold."""


def build(request: BuildRequest) -> BuildResult:
    """Files, variants and the plan for one model. The engine is the device's to build."""
    device = jetson.device(request.target)
    files = plan.files(device)
    variants: list[Variant] = []
    as_given = request.base.precision == "int8"
    for name, precision, file in _wanted(request, device, files):
        if precision == "int8" or not as_given:
            with request.attempt(name):
                source = _quantized(request) if precision == "int8" and not as_given else request.base
                variant = _made(request, source, name, precision, file)
                if as_given:
                    _refuse_unlike_tensorrt(request.folder / variant.path, device)
                variants.append(variant)
    if not variants:
        return BuildResult(())
    evidence = () if device.strong else ("tensorrt-fp16", "tensorrt-int8-fp16")
    shipped = [v for v in variants if v.name not in evidence]
    proof = [v.name for v in variants if v.name in evidence]
    why = f"{', '.join(proof)}: examined as evidence for --fp16, built for no such board, not in the bundle"
    notes = (*_wide_notes(request, variants), *([why] if proof else []), *_checks(request, shipped, device))
    return BuildResult(
        tuple(variants),
        WRITTEN,
        notes,
        evidence=tuple(proof),
        settle=lambda passed, runs: _settle(request, device, variants, passed),
    )


def _wanted(request: BuildRequest, device: jetson.Device, files: plan.Files) -> list[tuple[str, str, str]]:
    """(variant, precision, file) of what the device builds, and of what is evidence for it."""
    weak_half = not device.strong and request.wants("tensorrt-fp16", "fp16")  # built of the float32 file
    rows = [
        ("tensorrt-fp32", "fp32", files.weak_float),
        ("tensorrt-fp16", "fp16", files.strong_float),
        ("tensorrt-int8", "int8", files.weak_int8),
        ("tensorrt-int8-fp16", "int8", files.strong_int8),
    ]
    return [
        row
        for row in rows
        if (request.wants(*row[:2]) or (row[0] == "tensorrt-fp32" and weak_half))
        and (row[0] != "tensorrt-int8" or device.weak)
    ]


def _refuse_unlike_tensorrt(path: Path, device: jetson.Device) -> None:
    """Raise UsageError if a file that somebody else quantized breaks a rule of TensorRT's."""
    errors = [f for f in _findings(path, device) if f.severity == "error"]
    if errors:
        raise UsageError(
            f"the ONNX file is quantized already, and not as TensorRT reads it: at '{errors[0].node}' "
            f"{errors[0].message} ({len(errors)} such). Give the float model"
        )


def _findings(path: Path, device: jetson.Device) -> list[rules.Finding]:
    """What the rules say of a file, for the oldest TensorRT that builds it."""
    return rules.check(_read(path), **plan.limits(device, path.name))


def _form(request: BuildRequest, source: Variant, file: str) -> Any:
    """A source in the form of one of the files."""
    path = request.folder / source.path
    model = _read(path) if source.precision == "int8" else form.prepare(path)
    if request.base.precision == "int8":
        name_nodes(model)
        model = rewrite.as_read(model)
    if (weak := plan.weak_opset(file)) is not None:
        oldest = plan.limits(jetson.device(request.target), file)["tensorrt"]
        as_it_is = opset.to_opset(model, weak)
        spelled = rewrite.spelled_out(as_it_is, oldest)
        if len(spelled.graph.node) > len(as_it_is.graph.node):  # squares that the float16 file does not have
            beyond = half.beyond(spelled, _met(request, source))
            half.note(spelled, list(beyond), max(beyond.values(), default=0.0))
        return spelled
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
    detects = base.spec.boxes is not None
    kept = uneven_layers(request.folder / base.path) if detects else ()

    def make(folder: Path) -> Variant:
        out = folder / "qdq.onnx"
        source = request.folder / base.path
        form.quantize_for_tensorrt(source, out, feeds, state_pairs=pairs, keep_float=kept, uneven=detects)
        scheme = QuantScheme(
            "onnxruntime, TensorRT placement",
            "int8 symmetric per-tensor",
            "int8 symmetric per-channel",
            request.calibration_digest,
            len(feeds),
            kept,
        )
        return replace(base, precision="int8", path=out.name, sha256=sha256(out), scheme=scheme)

    options = {"kept": list(kept), "uneven": 1} if detects else {}
    return request.work("tensorrt int8", options, base, TOOLS, make)


def _checks(request: BuildRequest, variants: Sequence[Variant], device: jetson.Device) -> tuple[str, ...]:
    """What our rules and, where it is installed, NVIDIA's own parser say; also written to checks.json."""
    rows, notes = [], []
    for variant in variants:
        path = request.folder / variant.path
        findings = _findings(path, device)
        verdict = parser.parse_with_nvidia(path, planned=plan.int8_convolutions(_read(path)))
        row = {
            "file": variant.path,
            "rules": [asdict(f) for f in findings],
            "parser": parser.encoded(verdict),
        }
        rows.append(row)
        notes.append(f"{variant.path}: {summary(findings)}; NVIDIA's parser {verdict.told()}")
    write_json(request.folder / "checks.json", rows)
    if len(device.boards) == 1:
        notes += [f"{device.boards[0]}: {note}" for note in jetson.table().boards[device.boards[0]].notes]
    return (*notes, "built, self-tested and benchmarked: only on the device; no Jetson figure is measured")


def summary(findings: Sequence[rules.Finding]) -> str:
    """How many errors and warnings there are, and of the first error where it is and what to do."""
    errors = [f for f in findings if f.severity == "error"]
    warnings = sum(f.severity == "warning" for f in findings)
    first = ""
    if errors:
        place = errors[0].node or "the file"
        first = f" (at '{place}': {errors[0].message}; {errors[0].cure})"
    return f"our rules found {len(errors)} errors{first}, {warnings} warnings"


def _settle(
    request: BuildRequest, device: jetson.Device, variants: Sequence[Variant], passed: Collection[str]
) -> None:
    """Write the precision plan, calibration table and build commands of what passed its exam.

    passed: names of variants. Only files that passed are built, and float16 is asked for by a flag only where
    the file that is in float16 passed, and keeps no layer in float32, which no flag can ask for.
    """
    made = {v.name: v for v in variants}
    wide = any(half.noted(_read(request.folder / made[name].path)).nodes for name in passed)
    free = frozenset() if wide else plan.proven_half(passed)
    commands = plan.commands(device, frozenset(passed), half=free)
    planned = next((made[n] for n in ("tensorrt-int8", "tensorrt-int8-fp16") if n in passed), None)
    planned = planned or next((made[n] for n in VARIANTS if n in passed), variants[0])
    model = _read(request.folder / planned.path)
    precision = "int8" if planned.precision == "int8" else "fp16"
    write_json(
        request.folder / "precision_plan.json",
        plan.precision_plan(model, fp16_flag=precision in free),
    )
    write_json(request.folder / "calibration_table.json", plan.calibration_table(model))
    write_text(request.folder / "build.sh", build_script(commands))
    kit.write_kit(request.folder / kit.KIT)


def build_script(commands: dict[str, tuple[str, ...]]) -> str:
    """A shell script for the device: pick the lines of its TensorRT and build.

    commands: TensorRT generation -> trtexec commands, see ``plan.commands``.
    """
    lines = [
        "#!/bin/sh",
        "# Builds engines with trtexec, on the Jetson: sh build.sh 10.3 OUT_DIR   (dpkg -l | grep tensorrt)",
        "# What opens them: trtexec --loadEngine, DeepStream's nvinfer, TensorRT's own API; on the same",
        "# board with the same TensorRT. edgepv opens engines that it built and checked: edgepv build.",
        "",
        'out=$(realpath "${2:?build.sh VERSION OUT_DIR}") || exit 1',
        'cd "$(dirname "$0")" || exit 1',
        'case "$1" in',
    ]
    for version, calls in commands.items():
        lines.append(f'  "{version}")')
        for call in calls:
            for flag in ("--saveEngine=", "--exportLayerInfo="):
                call = call.replace(flag, f'{flag}"$out"/')
            lines.append(f"    {call} || exit 1")
        if not calls:
            lines.append(f'    echo "build.sh: this bundle has no file for TensorRT {version}" >&2; exit 1')
        lines.append("    ;;")
    lines += [
        f"  *) echo \"build.sh: TensorRT version '$1' is not one of: {', '.join(commands)}\" >&2; exit 2 ;;",
        "esac",
        "",
    ]
    return "\n".join(lines)
