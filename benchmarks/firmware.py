"""Generated C against every CPU engine: one step of models of the zoo, interleaved, on one thread.

``python benchmarks/firmware.py`` exports each model for cpu and mobile, compiles the C that is generated of
it with each compiler that is here, and writes firmware.json, model by model; what is there is left as it is.
Times are CPU time of the process, as OpenVINO computes in threads of its own. An engine is called as its
C API would: inputs are bound once, and its new states are not even brought back to its inputs, in its
favour; of the generated C, states are kept and the call out of Python counts. Run it on a quiet machine.
End to end is from a camera's picture to an answer: ``Session.step`` in Python on every engine, and
``edgepv_step`` in C. ``--int8`` times variants in INT8 beside those in float.

``--soak N`` sends N frames through the C, and writes firmware_soak.json: whether answers, memory or mallocs
change with time. It measures no time, so a busy machine does.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from ctypes import byref
from dataclasses import dataclass, replace
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
from edgepv.firmware.compiled import compiled_here, sources_of
from edgepv.firmware.compiler import Compiler, compile_objects, link, needed
from edgepv.firmware.emission import symbol_of
from edgepv.firmware.library import Library
from edgepv.firmware.sizes import sections
from edgepv.measure import latency
from edgepv.model.checkpoint import build
from edgepv.runtimes import Session, open_engine, open_session
from edgepv.runtimes.lane import Answer
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
CAMERAS = ((228, 128), (640, 480))
"""Width and height of pictures that are answered end to end: those of the demo's clips, and VGA."""
COUNTED = 200
"""Steps over which mallocs are counted."""
OPENINGS = 200
ALIGN = 64  # EDGEPV_ALIGN
BGR24 = 1  # EDGEPV_BGR24
ANSWER_BYTES = 40  # sizeof(edgepv_answer)
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


def measure(name: str, int8: bool) -> dict[str, Any]:
    """Times of every engine and of the generated C, in milliseconds, and what the C needs."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        variants = exported(name, scratch, "fp32")
        base, place = next((v, p) for v, p in variants if v.engine == "onnxruntime")
        onnx = (place / base.path).read_bytes()
        made = generate(base, onnx, base.sha256)
        contenders = [engine(v, p) for v, p in variants + (exported(name, scratch, "int8") if int8 else [])]
        found = [compiler for compiler in COMPILERS if shutil.which(compiler)]
        contenders += [generated(made, compiler, scratch) for compiler in found]
        own = replace(base, name="native-fp32", engine="native")
        core, sessions = Core(str(compiled_here(own, onnx, needed()))), [*variants, (own, place)]
        (scratch / "soak").mkdir()
        return {
            "contenders": raced(contenders),
            "end_to_end": {f"{w} x {h}": end_to_end(sessions, core, w, h) for w, h in CAMERAS},
            "open_ms": core.opening_ms(*CAMERAS[0]),
            "ram": {"states": made.state_bytes, "arena": made.arena_bytes, "bound": made.liveness_bound},
            "session_bytes": {f"{w} x {h}": core.bytes_for(w, h) for w, h in CAMERAS},
            "weights": made.weight_bytes,
            "flash": {compiler: flash(base, onnx, compiler, scratch) for compiler in found},
            "mallocs": soak(base, onnx, COUNTED, scratch / "soak", needed())["mallocs"],
            "device": encode(device_facts()),
            "compilers": {c: version(c) for c in found},
        }


def exported(name: str, scratch: Path, precision: str) -> list[tuple[Variant, Path]]:
    """Every variant of a model that steps, of the cpu and the mobile target, and its bundle.

    In float without the C, which is compiled here; of INT8 with it, where the bundle has it.
    """
    latency.BUDGET_S, latency.MIN_CALLS = 0.0, latency.TURN  # they are timed here
    found = []
    for target in ("cpu", "mobile"):
        out = scratch / f"{target}-{precision}"
        if edgepv(["export", name, "--target", target, "--precision", precision, "--out", str(out)]):
            raise SystemExit(f"{name} was not exported in {precision} for {target}")
        variants = read(out).content.variants
        found += [
            (v, out)
            for v in variants
            if (v.form, v.precision) == ("step", precision) and (v.engine, precision) != ("native", "fp32")
        ]
    return found


def feeds_of(variant: Variant) -> dict[str, np.ndarray]:
    """One frame of noise and the first states, by names in the file."""
    frame = np.random.default_rng(0).standard_normal(variant.spec.input.shape).astype(np.float32)
    stepper = Stepper(lambda feeds: feeds, variant.spec, variant.stream)
    feeds = None
    while feeds is None:
        feeds = stepper.feeds(frame)
    return {variant.inputs[key]: np.ascontiguousarray(value) for key, value in feeds.items()}


def engine(variant: Variant, folder: Path) -> Contender:
    """An engine with its inputs bound."""
    feeds, path = feeds_of(variant), folder / variant.path
    makers = {"onnxruntime": onnxruntime, "openvino": openvino, "litert": litert, "native": native}
    return Contender(variant.name, makers[variant.engine](variant, path, feeds), path.stat().st_size)


def native(variant: Variant, path: Path, feeds: dict[str, np.ndarray]) -> Callable[[], object]:
    """The C of a bundle, as ``edgepv`` opens it and calls it from Python."""
    opened = open_engine(variant, lambda _: path.read_bytes())
    frames = {variant.spec.input.name: feeds[variant.inputs[variant.spec.input.name]]}
    return lambda: opened.infer(frames)


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


class Core(Library):
    """A compiled model that is given pictures, BGR of one size."""

    def bytes_for(self, width: int, height: int) -> int:
        """Bytes of a session's memory."""
        amount, align = ctypes.c_size_t(), ctypes.c_size_t()
        camera = Camera(ctypes.sizeof(Camera), width, height, BGR24)
        self.call("edgepv_need", self._model, byref(camera), byref(amount), byref(align))
        return amount.value

    def opened(self, memory: np.ndarray, width: int, height: int) -> ctypes.c_void_p:
        """A session in memory that is aligned."""
        camera, session = Camera(ctypes.sizeof(Camera), width, height, BGR24), ctypes.c_void_p()
        place = ctypes.c_void_p(memory.ctypes.data)
        self.call("edgepv_begin", self._model, byref(camera), place, memory.size, byref(session))
        return session

    def stepping(self, picture: np.ndarray) -> Callable[[], object]:
        """``edgepv_step`` with a picture (H, W, 3), from Python: the call counts."""
        height, width = picture.shape[:2]
        memory = aligned(self.bytes_for(width, height))
        session, answer = self.opened(memory, width, height), (ctypes.c_uint32 * 16)(ANSWER_BYTES)
        frame = Frame(ctypes.sizeof(Frame))
        frame.plane[0], frame.stride[0] = picture.ctypes.data, picture.strides[0]
        step = self._object.edgepv_step

        def call(keep: tuple[Any, ...] = (memory, picture)) -> None:
            if step(session, byref(frame), answer):
                raise SystemExit("the C refused a frame")

        return call

    def opening_ms(self, width: int, height: int) -> float:
        """Milliseconds of CPU of edgepv_need and edgepv_begin: the median of many."""
        memory = aligned(self.bytes_for(width, height))
        times = []
        for _ in range(OPENINGS):
            start = time.process_time()
            self.bytes_for(width, height)
            self.opened(memory, width, height)
            times.append(time.process_time() - start)
        return 1000 * statistics.median(times)


class Camera(ctypes.Structure):
    """edgepv_camera."""

    _fields_ = tuple((name, ctypes.c_uint32) for name in ("size", "width", "height", "format"))


class Frame(ctypes.Structure):
    """edgepv_frame."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("plane", ctypes.c_void_p * 2),
        ("stride", ctypes.c_uint32 * 2),
        ("pts_ns", ctypes.c_uint64),
        ("missed", ctypes.c_uint32),
    )


def end_to_end(
    variants: list[tuple[Variant, Path]], core: Core, width: int, height: int
) -> list[dict[str, Any]]:
    """From a camera's picture to an answer: ``Session.step`` on every engine, and edgepv_step."""
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    with contextlib.ExitStack() as stack:
        contenders = [Contender("generated-step", core.stepping(picture), 0)]
        for variant, folder in variants:
            session = stack.enter_context(open_session(variant, folder))

            def step(session: Session = session) -> Answer:
                return session.step(picture)

            contenders.append(Contender(f"session-{variant.name}", step, 0))
        return raced(contenders)


def flash(variant: Variant, onnx: bytes, compiler: str, scratch: Path) -> dict[str, int]:
    """Bytes of code, constants and data of everything that a firmware links."""
    folder = scratch / f"flash-{compiler}"
    folder.mkdir()
    for name, data in sources_of(variant, onnx).items():
        (folder / name).write_bytes(data)
    names = sorted(path.name for path in folder.glob("*.c") if path.name != "entry.c")
    chosen = Compiler(compiler, version(compiler))
    objects = compile_objects(chosen, names, ("-march=native",), folder)
    kinds = zip(*(sections((folder / name).read_bytes()) for name in objects))
    return dict(zip(("code", "constants", "data"), map(sum, kinds)))


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
    chosen, at = needed(), now()
    told = {"model": SOAKED, "compiler": chosen.version, "device": encode(device_facts()), "measured_at": at}
    with tempfile.TemporaryDirectory() as scratch:
        variant, onnx = stepped(SOAKED, Path(scratch))
        return soak(variant, onnx, frames, Path(scratch), chosen) | told


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    parser.add_argument("--int8", action="store_true", help="time INT8 too, native-int8 where there is one")
    parser.add_argument("--again", action="store_true", help="measure anew what is there")
    parser.add_argument("--soak", type=int, metavar="N", help=f"{SOAKED} over N frames, and no times")
    args = parser.parse_args(argv)
    if args.soak:
        write_json(SOAK_OUT, soaked(args.soak))
        return 0
    found = read_json(OUT) if OUT.is_file() else {}
    for name in args.only or MODELS:
        key = f"{name} with int8" if args.int8 else name
        if args.again or key not in found:
            found[key] = measure(name, args.int8) | {"measured_at": now()}
            write_json(OUT, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
