"""Generated C against every CPU engine: one step of float models of the zoo, interleaved, on one thread.

``python benchmarks/firmware.py`` exports each model for cpu and mobile, compiles the C that is generated of
it with each compiler that is here, and writes firmware.json, model by model; what is there is left as it is.
Times are CPU time of the process, as OpenVINO computes in threads of its own. An engine is called as its
C API would: inputs are bound once, and its new states are not even brought back to its inputs, in its
favour; of the generated C, states are kept and the call out of Python counts. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measured_at import now

from edgepv.base.files import read_json, write_json
from edgepv.base.machine import device_facts
from edgepv.base.optional import litert_interpreter, need, ort_options, ort_session
from edgepv.base.quiet import hush_native
from edgepv.bundle import read
from edgepv.cli.app import main as edgepv
from edgepv.export import to_onnx
from edgepv.firmware import FLAGS, Firmware, generate
from edgepv.firmware.compiled import sources_of
from edgepv.firmware.compiler import Compiler, compile_objects, link, needed
from edgepv.firmware.emission import symbol_of
from edgepv.measure import latency
from edgepv.model.checkpoint import build
from edgepv.stream import Stepper, convert
from edgepv.types import Variant, encode
from edgepv.zoo import checkpoint

HERE = Path(__file__).resolve().parent
OUT = HERE / "firmware.json"
HEADERS = HERE.parent / "edgepv" / "firmware" / "c"
MODELS = (
    "pv-conv-nano",
    "pv-conv-small",
    "pv-c3d",
    "pv-restore-nano",
    "pv-restore-small",
    "pv-graph-nano",
    "pv-graph-small",
    "pv-track-nano",
    "pv-track-small",
)
COMPILERS = ("gcc", "clang")
SOAK, SOAK_OUT, SOAKED = HERE / "firmware_soak.c", HERE / "firmware_soak.json", "pv-conv-nano"
ROUNDS = 30
TURN_S = 0.05
"""CPU time of one contender's turn in a round, about: many calls of a fast one, a few of a slow one."""
ALIGN = 64  # EDGEPV_ALIGN
ENTRY = """
#include "edgepv_model.h"
extern const edgepv_model SYMBOL;
static volatile uint32_t cancel;
const edgepv_model *model(void) { return &SYMBOL; }
size_t output_values(void) { return SYMBOL.output_values; }
void reset(void *state) { SYMBOL.reset(&SYMBOL, state); }
void step(void *state, void *arena, float *outputs) {
    if (SYMBOL.run(&SYMBOL, state, arena, outputs, &cancel) == EDGEPV_OK) {
        SYMBOL.commit(&SYMBOL, state);
    }
}
"""


@dataclass(frozen=True)
class Contender:
    """step: computes one step, again and again from what it was given. bytes: of its file or library."""

    name: str
    step: Callable[[], object]
    bytes: int


def measure(name: str) -> dict[str, Any]:
    """Times of every engine and of the generated C, in milliseconds, and what the C needs."""
    with tempfile.TemporaryDirectory() as scratch:
        variants = exported(name, Path(scratch))
        base, path = next((v, p) for v, p in variants if v.engine == "onnxruntime")
        made = generate(base, path.read_bytes(), base.sha256)
        contenders = [engine(v, p) for v, p in variants]
        for compiler in COMPILERS:
            if shutil.which(compiler):
                contenders.append(generated(made, compiler, Path(scratch)))
        return {
            "contenders": raced(contenders),
            "ram": {"states": made.state_bytes, "arena": made.arena_bytes, "bound": made.liveness_bound},
            "weights": made.weight_bytes,
            "device": encode(device_facts()),
            "compilers": {c: version(c) for c in COMPILERS if shutil.which(c)},
        }


def exported(name: str, scratch: Path) -> list[tuple[Variant, Path]]:
    """Every float variant of a model that steps, of the cpu and the mobile target, and its file."""
    os.environ["EDGEPV_CC"] = "none"  # the C is compiled here
    latency.BUDGET_S, latency.MIN_CALLS = 0.0, latency.TURN  # and timed here
    found = []
    for target in ("cpu", "mobile"):
        out = scratch / target
        if edgepv(["export", name, "--target", target, "--precision", "fp32", "--out", str(out)]):
            raise SystemExit(f"{name} was not exported for {target}")
        variants = read(out).content.variants
        found += [(v, out / v.path) for v in variants if (v.form, v.precision) == ("step", "fp32")]
    return found


def feeds_of(variant: Variant) -> dict[str, np.ndarray]:
    """One frame of noise and the first states, by names in the file."""
    frame = np.random.default_rng(0).standard_normal(variant.spec.input.shape).astype(np.float32)
    stepper = Stepper(lambda feeds: feeds, variant.spec, variant.stream)
    feeds = None
    while feeds is None:
        feeds = stepper.feeds(frame)
    return {variant.inputs[key]: np.ascontiguousarray(value) for key, value in feeds.items()}


def engine(variant: Variant, path: Path) -> Contender:
    """An engine with its inputs bound."""
    feeds = feeds_of(variant)
    makers = {"onnxruntime": onnxruntime, "openvino": openvino, "litert": litert}
    return Contender(variant.name, makers[variant.engine](variant, path, feeds), path.stat().st_size)


def onnxruntime(variant: Variant, path: Path, feeds: dict[str, np.ndarray]) -> Callable[[], object]:
    """ONNX Runtime, as ``edgepv`` opens it."""
    session = ort_session(path, ort_options())
    bound = session.io_binding()
    for key, value in feeds.items():
        bound.bind_cpu_input(key, value)
    for output in variant.outputs.values():
        bound.bind_output(output, "cpu")
    return lambda: session.run_with_iobinding(bound)


def openvino(variant: Variant, path: Path, feeds: dict[str, np.ndarray]) -> Callable[[], object]:
    """OpenVINO as ``edgepv`` opens it: by itself it would take bfloat16 for float32 where the CPU has it."""
    ov = need("openvino", extra="cpu")
    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = ov.Core().compile_model(path, "CPU", options).create_infer_request()
    for key, value in feeds.items():
        request.set_tensor(key, ov.Tensor(value, shared_memory=True))

    def step() -> None:
        request.start_async()
        request.wait()

    return step


def litert(variant: Variant, path: Path, feeds: dict[str, np.ndarray]) -> Callable[[], object]:
    """LiteRT with XNNPACK."""
    with hush_native():
        interpreter = litert_interpreter()(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
        runner = interpreter.get_signature_runner()
        runner(**feeds)  # fills its inputs
    return interpreter.invoke


def generated(made: Firmware, compiler: str, scratch: Path) -> Contender:
    """The C of a model, compiled for this CPU."""
    folder = scratch / compiler
    folder.mkdir()
    for name, data in made.sources.items():
        (folder / name).write_bytes(data)
    (folder / "entry.c").write_text(ENTRY.replace("SYMBOL", made.symbol))
    library = folder / "model.so"
    inside = (f"-I{HEADERS}", f"-Wa,-I{folder}", "-march=native", "-fPIC", "-shared")
    files = (folder / "model.c", folder / "entry.c", "-o", library, "-lm")
    subprocess.run([compiler, *FLAGS, *inside, *files], check=True)
    net = ctypes.CDLL(str(library))
    net.output_values.restype = ctypes.c_size_t
    memory = [aligned(n) for n in (made.state_bytes, made.arena_bytes, 4 * net.output_values())]
    memory[1].view(np.float32)[:] = np.random.default_rng(0).standard_normal(memory[1].size // 4)
    state, arena, outputs = (ctypes.c_void_p(m.ctypes.data) for m in memory)
    net.reset(state)
    subprocess.run(["strip", "-o", folder / "small.so", library], check=True)

    def step(keep: list[np.ndarray] = memory) -> None:
        net.step(state, arena, outputs)

    return Contender(f"generated-{compiler}", step, (folder / "small.so").stat().st_size)


def aligned(count: int) -> np.ndarray:
    """Bytes that begin at a multiple of ``ALIGN``."""
    raw = np.zeros(count + ALIGN, np.uint8)
    return raw[-raw.ctypes.data % ALIGN :][:count]


def raced(contenders: list[Contender]) -> list[dict[str, Any]]:
    """Each with its times, and what the first generated one takes of them: the median of rounds' medians."""
    calls = {c.name: max(1, int(TURN_S / once(c))) for c in contenders}
    medians: dict[str, list[float]] = {c.name: [] for c in contenders}
    least = dict.fromkeys(medians, float("inf"))
    for turn in range(ROUNDS):
        order = contenders[turn % len(contenders) :] + contenders[: turn % len(contenders)]
        for contender in order:
            times = [timed(contender) for _ in range(calls[contender.name])]
            medians[contender.name].append(statistics.median(times))
            least[contender.name] = min(least[contender.name], *times)
    ours = next(c.name for c in contenders if c.name.startswith("generated"))
    rows = []
    for c in contenders:
        ratios = [mine / theirs for mine, theirs in zip(medians[ours], medians[c.name])]
        rows.append(
            {
                "name": c.name,
                "bytes": c.bytes,
                "min_ms": 1000 * least[c.name],
                "median_ms": 1000 * statistics.median(medians[c.name]),
                "generated_takes": statistics.median(ratios),
                "generated_takes_range": [min(ratios), max(ratios)],
                "calls": ROUNDS * calls[c.name],
            }
        )
        print(rows[-1], flush=True)
    return rows


def once(contender: Contender) -> float:
    """Seconds of CPU of a call that is warm."""
    for _ in range(5):
        contender.step()
    return max(timed(contender), 1e-5)


def timed(contender: Contender) -> float:
    """Seconds of CPU of one call."""
    start = time.process_time()
    contender.step()
    return time.process_time() - start


def version(compiler: str) -> str:
    """The first line of what a compiler says of itself."""
    told = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True)
    return told.stdout.splitlines()[0]


def soak(variant: Variant, onnx: bytes, frames: int, scratch: Path, compiler: Compiler) -> dict[str, Any]:
    """What firmware_soak.c found of a model over that many frames; it says what."""
    for path, data in {**sources_of(variant, onnx), "soak.c": SOAK.read_bytes()}.items():
        (scratch / path).write_bytes(data)
    names = sorted(path.name for path in scratch.glob("*.c"))
    model = f"-DMODEL={symbol_of(variant.spec.name)}"
    objects = compile_objects(compiler, names, ("-march=native", model), scratch)
    link(compiler, ["-o", "soak", *objects], scratch)
    told = subprocess.run([scratch / "soak", str(frames)], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def stepped(name: str, folder: Path) -> tuple[Variant, bytes]:
    """(variant, file) of a built-in model as it steps, lowered without an export."""
    saved = checkpoint(name)
    module, spec = build(saved), saved.spec
    if spec.input.layout == "NCTHW":
        module = convert(module, spec)
        spec = module.spec
    return to_onnx.lower(module, spec, folder / "model.onnx"), (folder / "model.onnx").read_bytes()


def soaked(frames: int) -> dict[str, Any]:
    """What pv-conv-nano as C does over that many frames."""
    with tempfile.TemporaryDirectory() as scratch:
        variant, onnx = stepped(SOAKED, Path(scratch))
        chosen = needed()
        told = {"model": SOAKED, "compiler": chosen.version, "device": encode(device_facts())}
        return soak(variant, onnx, frames, Path(scratch), chosen) | told | {"measured_at": now()}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    parser.add_argument("--soak", type=int, metavar="N", help=f"{SOAKED} over N frames, and no times")
    args = parser.parse_args(argv)
    if args.soak:
        write_json(SOAK_OUT, soaked(args.soak))
        return 0
    found = read_json(OUT) if OUT.is_file() else {}
    for name in args.only or MODELS:
        if name not in found:
            found[name] = measure(name) | {"measured_at": now()}
            write_json(OUT, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
