"""Sliding clip, flat clip and stream, side by side: ``python benchmarks/stream.py [--nets NAME,...]``.

For every net of clipnets.py (quarter width, random weights) and for the trained pv-c3d: time per new frame
of three forms in three engines, float and INT8, taking turns in one process on two threads; the largest
difference from the clip model over 300 frames; state bytes; exactness. The clips are the ones shipped with
the package. Writes stream.json after every net (a run that is stopped goes on there) and stream.md.
--prove: only what is no time, such as the proofs, anew for the nets that are there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured_at import now

from edgepv import zoo
from edgepv.base.files import read_json, write_json, write_text
from edgepv.base.machine import device_facts, versions
from edgepv.base.quiet import hush
from edgepv.data.calibration import filling
from edgepv.data.clips import find_clips
from edgepv.data.frames import model_frames
from edgepv.errors import EdgepvError
from edgepv.export.audit import audit
from edgepv.export.to_onnx import float_variant, lower, tensor_names
from edgepv.export.to_tflite import to_tflite
from edgepv.measure.latency import interleaved
from edgepv.metrics.stats import sqnr_db
from edgepv.model.checkpoint import build
from edgepv.model.weights import save
from edgepv.quantize import int8_litert, int8_onnx
from edgepv.quantize.step import Calibration
from edgepv.runtimes.engine import Engine, open_engine
from edgepv.runtimes.engines.eager import EagerEngine
from edgepv.stream import NotStreamableError, Stepper, StreamModel, Tensors, convert, copied, roll
from edgepv.stream.verify import against_chunk, prove, steps
from edgepv.types import Checkpoint, ModelSpec, Rewrite, TensorSpec, Variant, encode

HERE = Path(__file__).resolve().parent
THREADS = 2
FRAMES = 300
LONG, LOOP = 1000, 100
FORMS = ("clip", "flat", "stream")
ENGINES = ("onnxruntime", "openvino", "litert")


@dataclass(frozen=True)
class Subject:
    """One net: its clip checkpoint, its forms as checkpoints, and what the stream is."""

    name: str
    paper: str
    forms: dict[str, Checkpoint]
    stream: StreamModel | None
    refused: str | None


def subjects(names: Sequence[str], folder: Path) -> list[Callable[[], Subject]]:
    """One function per net; called late, so that one net at a time is in memory."""
    sys.path.insert(0, str(HERE))
    import clipnets

    makers: dict[str, Callable[[], Subject]] = {}
    for net in clipnets.NETS:
        makers[net.name] = lambda net=net: _untrained(net, folder)  # type: ignore[misc]
    makers["pv-c3d"] = lambda: _subject("pv-c3d", "trained on handwash clips", zoo.checkpoint("pv-c3d"))
    return [makers[name] for name in (names or makers)]


def _untrained(net: Any, folder: Path) -> Subject:
    weights = folder / f"{net.name}.safetensors"
    digest = save(net.build(), weights)
    builder = f"{HERE / 'clipnets.py'}:{net.build.__name__}"
    spec = ModelSpec(
        net.name,
        TensorSpec("clip", (1, 3, net.frames, net.size, net.size), "NCTHW"),
        tuple(f"class {i}" for i in range(8)),
        frames=net.frames,
        mean=(0.45,) * 3,
        std=(0.225,) * 3,
    )
    return _subject(net.name, net.paper, Checkpoint(str(weights), digest, builder, spec))


def _subject(name: str, paper: str, clip: Checkpoint) -> Subject:
    spec = clip.spec
    forms = {"clip": clip, "flat": replace(clip, rewrite=Rewrite("flat", spec.input))}
    try:
        model = convert(build(clip), spec)
    except NotStreamableError as e:
        return Subject(name, paper, forms, None, e.why)
    forms["stream"] = replace(clip, spec=model.spec, rewrite=Rewrite("stream", spec.input))
    return Subject(name, paper, forms, model, None)


def videos(spec: ModelSpec) -> tuple[list[np.ndarray], np.ndarray]:
    """(calibration clips (T, C, H, W), one long video of evaluation clips joined)."""
    found = find_clips(zoo.HERE / "clips", zoo.TASKS["fight"])
    sides: dict[str, list[np.ndarray]] = {"calibration": [], "evaluation": []}
    for clip in found:
        sides[clip.split or "calibration"].append(model_frames(clip.path, spec))
    return sides["calibration"][:12], np.concatenate(sides["evaluation"])[: FRAMES + 40]


def measure(subject: Subject, folder: Path) -> dict[str, Any]:
    """Everything about one net."""
    clip = subject.forms["clip"]
    module = build(clip)
    calibration, video = videos(clip.spec)
    engines: dict[str, tuple[Any, Sequence[Tensors]]] = {}
    rows: dict[str, dict[str, Any]] = {}
    eager = EagerEngine(module, clip.spec, None)
    engines["torch fp32 clip"] = (eager, _windows(clip.spec, [video[:40]])[-8:])
    for form, checkpoint in subject.forms.items():
        for name, engine, feeds, row in _artifacts(subject, form, checkpoint, calibration, video, folder):
            engines[name], rows[name] = (engine, feeds), row
    latencies = interleaved(engines, threads=THREADS, calls=60)
    for name, latency in latencies.items():
        rows.setdefault(name, {"form": "clip", "engine": "torch", "precision": "fp32"})
        rows[name]["latency"] = encode(replace(latency, interleaved_with=()))
    made = _facts(subject, module, clip.spec, video)
    made["rows"] = rows
    return made


def _facts(subject: Subject, module: Any, spec: ModelSpec, video: np.ndarray) -> dict[str, Any]:
    facts: dict[str, Any] = {"paper": subject.paper, "frames": spec.frames, "size": spec.input.shape[-1]}
    facts["parameters"] = sum(p.numel() for p in module.parameters())
    model = subject.stream
    if model is None:
        return facts | {"refused": subject.refused}
    clips = [video[i : i + spec.frames].transpose(1, 0, 2, 3) for i in (0, 150)]
    stream, cost = model.stream, model.explanation
    return facts | {
        "exactness": stream.exactness,
        "because": list(stream.because),
        "delay": stream.delay,
        "receptive_field": stream.receptive_field,
        "state_bytes": stream.state_bytes,
        "gflops_clip": cost.flops_clip / 1e9,
        "gflops_frame": cost.flops_frame / 1e9,
        "stride": cost.stride,
        "proof": encode(prove(module, model, clips)),
        "proved_at": now(),
        "torch_against_chunk": against_chunk(model, steps(model), video[:FRAMES]),
    }


def _artifacts(
    subject: Subject,
    form: str,
    checkpoint: Checkpoint,
    calibration: list[np.ndarray],
    video: np.ndarray,
    folder: Path,
) -> list[tuple[str, Engine, list[Tensors], dict[str, Any]]]:
    """(name, engine, inputs for timing, row) of every artifact of one form that can be made."""
    module = build(checkpoint)
    base = lower(module, checkpoint.spec, folder / f"{form}.onnx")
    eager = EagerEngine(module, base.spec, base.stream)
    quiet = _feeds(base, folder, calibration)
    quiet = quiet[:: max(1, len(quiet) // 40)]
    probe = _feeds(base, folder, [video[:60]])[-12:]
    wanted = [eager.infer(f)["logits"] for f in probe]
    variants: list[Variant | tuple[str, str]] = [base, replace(base, engine="openvino")]
    quantized = _tried(
        lambda: int8_onnx.Step()(base, folder / f"{form}-int8.onnx", Calibration(folder, quiet, ""))
    )
    variants += [quantized, replace(quantized, engine="openvino")] if isinstance(quantized, Variant) else []
    lite = _tried(lambda: to_tflite(checkpoint, base, folder / f"{form}.tflite"))
    if isinstance(lite, Variant):
        variants.append(lite)
        out = folder / f"{form}-int8.tflite"
        small = _tried(lambda: int8_litert.Step("full")(lite, out, Calibration(folder, quiet, "")))
        if not isinstance(small, Variant):
            small = _tried(lambda: int8_litert.Step("conv")(lite, out, Calibration(folder, quiet, "")))
        variants.append(small if isinstance(small, Variant) else ("litert int8", small))
    else:
        variants.append(("litert fp32", lite))
    found = []
    for variant in variants:
        if isinstance(variant, tuple):
            print(f"  {form} {variant[0]} not made: {variant[1]}", flush=True)
            continue
        engine = open_engine(variant, folder, threads=THREADS)
        row = _row(subject, form, variant, folder, engine, probe, wanted, video)
        name = f"{variant.engine} {variant.precision} {form}"
        found.append((name, engine, probe, row))
        print(f"  {name}: error {row['max_error']:.1e}, {row['sqnr_db']:.1f} dB", flush=True)
    return found


def _tried(make: Callable[[], Variant]) -> Variant | str:
    try:
        with hush():
            return make()
    except EdgepvError as e:
        return str(e)


def _row(
    subject: Subject,
    form: str,
    variant: Variant,
    folder: Path,
    engine: Engine,
    probe: list[Tensors],
    wanted: list[np.ndarray],
    video: np.ndarray,
) -> dict[str, Any]:
    """max_error: share of the largest answer; a stream's over 300 frames against one long step."""
    got = [engine.infer(f)["logits"] for f in probe]
    scale = max(1.0, max(float(np.abs(w).max()) for w in wanted))
    error = max(float(np.abs(a - b).max()) for a, b in zip(got, wanted)) / scale
    drift: dict[str, float] = {}
    if form == "stream" and subject.stream:
        if variant.precision == "fp32":
            error = against_chunk(subject.stream, engine.infer, video[:FRAMES])
        else:
            error, drift = _drift(subject.stream, folder / "stream.onnx", engine, video)
    found = audit(variant, folder)
    return drift | {
        "form": form,
        "engine": variant.engine,
        "precision": variant.precision,
        "bytes": (folder / variant.path).stat().st_size,
        "max_error": error,
        "sqnr_db": sqnr_db(np.concatenate(wanted), np.concatenate(got)),
        "convolutions": len(found.convolutions),
        "convolutions_int8": found.int8,
    }


def _drift(
    model: StreamModel, base: Path, engine: Engine, video: np.ndarray
) -> tuple[float, dict[str, float]]:
    """(max error of valid answers, RMS error of 20 early ones and of 20 late ones) over 1,000 frames; a share
    of the largest answer. Against the float stream in ONNX Runtime, which was compared with torch before.
    100 frames are played again and again, so that the early and the late ones show the same."""
    frames = np.concatenate([video[:LOOP]] * (LONG // LOOP))
    sides = []
    for one in (_float(model, base), engine):
        stepper = Stepper(one.infer, model.spec, model.stream)
        sides.append(np.concatenate([stepper.step(f[None])["logits"] for f in frames]))
    each = (sides[1] - sides[0]) / max(1.0, float(np.abs(sides[0]).max()))
    first = max(20, model.stream.warmup)
    rms = np.sqrt((each**2).mean(1))
    at = first + (LONG - first - 20) // LOOP * LOOP
    early, late = float(rms[first : first + 20].mean()), float(rms[at : at + 20].mean())
    return float(np.abs(each[first:]).max()), {"rms_early": early, "rms_late": late}


def _float(model: StreamModel, base: Path) -> Engine:
    inputs, outputs = tensor_names(model.spec, model.stream)
    names = {n: n for n in inputs}, {n: n for n in outputs}
    return open_engine(float_variant(base, model.spec, model.stream, *names), base.parent, threads=THREADS)


def _feeds(base: Variant, folder: Path, clips: list[np.ndarray]) -> list[Tensors]:
    """Inputs met while playing ``clips``, states and all, from the moment the states are full."""
    if base.stream is None:
        return _windows(base.spec, clips)
    stepper = Stepper(open_engine(base, folder, threads=THREADS).infer, base.spec, base.stream)
    rolled = (
        (i, f)
        for c in clips
        for i, (f, _) in enumerate(roll(stepper, c[filling(len(c), stepper.warmup)]))
        if f
    )
    return [copied(f) for i, f in rolled if i >= stepper.warmup]


def _windows(spec: ModelSpec, clips: list[np.ndarray]) -> list[Tensors]:
    """Every third window of ``clips``, (1, C, T, H, W)."""
    t = spec.frames
    starts = [(c, i) for c in clips for i in range(0, len(c) - t + 1, 3)]
    return [{spec.input.name: c[i : i + t].transpose(1, 0, 2, 3)[None].copy()} for c, i in starts]


NETS_HEAD = (
    "net, class, delay, state, GFLOP clip / frame, torch clip ms, best clip fp32 ms, best stream fp32 ms, "
    "clip / stream fp32, 0.8 T, best stream INT8 ms, torch clip / stream INT8, error over 300 frames"
)
ROWS_HEAD = "net, variant, p50 ms, p99 ms, n, max error, late / early error, SQNR dB, INT8 convolutions"


def table(results: dict[str, Any]) -> str:
    """The result as Markdown."""
    cpu = results["device"]["cpu"]
    about = (
        f"Written by `python benchmarks/stream.py` on {cpu}, {THREADS} threads, all variants of a net taking "
        "turns. Times are p50 per new frame; a sliding clip computes its whole clip again for each. The nets "
        "are at a quarter of their papers' width with random weights; pv-c3d is trained. A max error is a "
        "share of the largest answer: of a stream in float against one long step over 300 frames, of an "
        "INT8 stream against torch over 1,000. Late / early: RMS error 800 to 900 frames later over that of "
        "the first 20 valid frames, which show the same."
    )
    nets = results["nets"]
    lines = ["# Sliding clip, flat clip, stream", "", about, "", *_head(NETS_HEAD)]
    lines += [_line(name, net) for name, net in nets.items()]
    lines += ["", "## Every variant", "", *_head(ROWS_HEAD)]
    lines += [_cells(name, *_variant(v, row)) for name, net in nets.items() for v, row in net["rows"].items()]
    return "\n".join(lines) + "\n"


def _head(names: str) -> list[str]:
    heads = names.split(", ")
    return [_cells(*heads), "|" + "---|" * len(heads)]


def _cells(*values: str) -> str:
    return f"| {' | '.join(values)} |"


def _variant(name: str, row: dict[str, Any]) -> list[str]:
    at = row["latency"]
    return [
        name,
        f"{at['p50_ms']:.2f}",
        "not measured" if at["p99_ms"] is None else f"{at['p99_ms']:.2f}",
        str(at["n"]),
        f"{row['max_error']:.1e}" if "max_error" in row else "the reference",
        f"{row['rms_late'] / row['rms_early']:.2f}" if "rms_late" in row else "",
        f"{row['sqnr_db']:.0f}" if "sqnr_db" in row else "",
        f"{row['convolutions_int8']}/{row['convolutions']}" if "convolutions" in row else "",
    ]


def best(net: dict[str, Any], precision: str, forms: tuple[str, ...]) -> tuple[float, str] | None:
    """(p50 in ms, engine and form) of the fastest variant, torch left out."""
    found = [
        (row["latency"]["p50_ms"], f"{row['engine']} {row['form']}")
        for row in net["rows"].values()
        if row["precision"] == precision and row["form"] in forms and row["engine"] != "torch"
    ]
    return min(found) if found else None


def _class(net: dict[str, Any]) -> str:
    """The class of a stream; "by construction" where no long video showed it."""
    shown = net.get("proof", {}).get("video") is not None
    return net["exactness"] if shown or net["because"] else f"{net['exactness']}, by construction"


def _line(name: str, net: dict[str, Any]) -> str:
    clip, torch_ms = best(net, "fp32", ("clip", "flat")), net["rows"]["torch fp32 clip"]["latency"]["p50_ms"]
    stream, small = best(net, "fp32", ("stream",)), best(net, "int8", ("stream",))
    fastest = f"{clip[0]:.2f} ({clip[1]})" if clip else "not made"
    if "refused" in net or clip is None or stream is None:
        return _cells(
            name, f"window: {net.get('refused')}", "", "", "", f"{torch_ms:.1f}", fastest, *[""] * 6
        )
    floats = [r for r in net["rows"].values() if r["form"] == "stream" and r["precision"] == "fp32"]
    worst = max([*(r["max_error"] for r in floats), net["torch_against_chunk"]])
    return _cells(
        name,
        _class(net),
        str(net["delay"]),
        f"{net['state_bytes'] / 1e6:.2f} MB",
        f"{net['gflops_clip']:.3f} / {net['gflops_frame']:.4f}",
        f"{torch_ms:.1f}",
        fastest,
        f"{stream[0]:.2f} ({stream[1].split()[0]})",
        f"x{clip[0] / stream[0]:.1f}",
        f"{0.8 * net['frames']:.1f}",
        f"{small[0]:.2f} ({small[1].split()[0]})" if small else "not made",
        f"x{torch_ms / small[0]:.0f}" if small else "",
        f"{worst:.1e}",
    )


def main() -> int:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", default="", help="comma-separated; default: all")
    parser.add_argument("--out", type=Path, default=HERE / "stream.json")
    parser.add_argument("--prove", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    tools = versions(("torch", "onnxruntime", "openvino", "ai-edge-litert", "edgepv"))
    results = read_json(args.out) if args.out.is_file() else {"nets": {}}
    if not args.prove:
        results |= {
            "measured_at": now(),
            "device": encode(device_facts()),
            "tools": tools,
            "threads": THREADS,
        }
    with tempfile.TemporaryDirectory() as scratch:
        for make in subjects([n for n in args.nets.split(",") if n], Path(scratch)):
            with torch.no_grad():
                subject = make()
                known = results["nets"].get(subject.name)
                if known and args.prove:
                    clip = subject.forms["clip"]
                    known |= _facts(subject, build(clip), clip.spec, videos(clip.spec)[1])
                elif args.prove or (known and not args.nets):
                    continue
                else:
                    results["nets"][subject.name] = measure(subject, Path(scratch))
                print(subject.name, "streams" if subject.stream else subject.refused, flush=True)
            write_json(args.out, results)
            write_text(args.out.with_suffix(".md"), table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
