"""edgepv beside the tools that its users would otherwise take: same models, same calibration and test clips.

    python benchmarks/peers.py make --data DIR     # hours; may run while the machine is busy
    python benchmarks/peers.py time                # at most ten minutes, on a quiet machine
    python benchmarks/peers.py page                # peers.md from peers.json alone

``make`` gives each peer an environment of its own below the cache, has it quantize or convert each model by
its documented default and once tuned as well as its documentation allows, and has what came out answer the
test clips. What is there is left as it is; what failed is kept with its words. ``time`` opens all files of a
model, each in a process of its own, and calls them in turns. The peers' files are in benchmarks/peers/.
"""

from __future__ import annotations

import argparse
import functools
import os
import pickle
import resource
import select
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from measured_at import machine, now
from peers_cases import TESTED, Case, Truth, folder_of, forget_ours, models, prepared
from peers_page import MAX_DROP, page

from edgepv.base import cache
from edgepv.base.engines import ENGINES
from edgepv.base.files import digest, read_json, write_json, write_text
from edgepv.base.machine import LoadWatch, device_facts
from edgepv.base.optional import litert_interpreter
from edgepv.errors import EdgepvError
from edgepv.export.audit import audit
from edgepv.export.parity import saturation
from edgepv.metrics.stats import sqnr_db
from edgepv.metrics.tasks import figures, groups_of, task_drop
from edgepv.metrics.times import busy_reason, paired_ratio
from edgepv.pipeline.evaluate import play_clips
from edgepv.stream import Tensors, by_file_names
from edgepv.types import TensorSpec, Variant, decode, encode

HERE = Path(__file__).resolve().parent
OUT, PAGE = HERE / "peers.json", HERE / "peers.md"
FOLDER = HERE / "peers"
INSTALL_S, OPEN_S, ANSWER_S = 900, 300, 120
"""Seconds for an environment; to open a file, and for one answer, before it is given up."""
PATIENCE = 10
"""Times as long as that it is waited for what a busy machine gave less than half of it."""
MAKE_S, MAKE_CPU_S = 3600, 900
"""Seconds for making a file, and CPU seconds: by the clock alone a busy machine would fail what is slow."""
TURN, CALLS, BUDGET_S = 3, 201, 30.0
"""Timed calls of a turn, calls after which a model's turns end, and seconds: with opening its files a model
takes about a minute and a half, six models less than ten."""
TORCH = ("torch==2.13.0", "numpy<2.5")
ENVIRONMENTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "onnxruntime": (("onnxruntime==1.31.1", "onnx==1.23.2", "sympy"),),
    "nncf": (("nncf==3.4.0", "openvino==2026.4.1", "onnx==1.23.2", "onnxruntime==1.31.1"),),
    "litert": (
        TORCH,
        (*TORCH, "litert-torch==0.10.0", "ai-edge-litert==2.3.0", "ai-edge-quantizer==0.10.0", "safetensors"),
    ),
    "modelopt": (
        TORCH,
        (
            "nvidia-modelopt==0.47.0",
            "onnx",
            "onnxruntime",
            "onnxscript",
            "lief",
            "onnxconverter-common",
            "onnxslim",
        ),
        ("polygraphy", "onnx-graphsurgeon"),
    ),
    "torchao": (TORCH, (*TORCH, "torchao==0.18.0", "safetensors")),
    "executorch": (TORCH, (*TORCH, "executorch==1.5.1", "safetensors")),
    "aimet": (("aimet-onnx", "onnxruntime"),),
    "torch-pruning": (
        TORCH,
        (*TORCH, "torch-pruning==1.6.1", "onnx", "onnxscript", "onnxruntime==1.31.1", "safetensors"),
    ),
    "tract": (("tract", "numpy"),),
    "emx-onnx-cgen": (("emx-onnx-cgen", "numpy"),),
    "iree": (("iree-base-compiler[onnx]", "iree-base-runtime"),),
    "mnn": (("MNN", "numpy"),),
    "ncnn": (("ncnn", "pnnx", "numpy"),),
}
"""What pip installs into an environment, group after group; the versions it chose are in the results."""


KINDS = ("default", "tuned")


@dataclass(frozen=True)
class Peer:
    """A tool. script: its file in benchmarks/peers/. environment: of ENVIRONMENTS; "" for edgepv's own."""

    script: str
    environment: str
    kinds: tuple[str, ...] = KINDS


PEERS = {
    "onnxruntime quantize_static": Peer("ort_static", "onnxruntime"),
    "NNCF, OpenVINO": Peer("nncf_openvino", "nncf"),
    "NNCF, ONNX": Peer("nncf_onnx", "nncf"),
    "NNCF, accuracy control": Peer("nncf_accuracy", "nncf"),
    "litert-torch and ai-edge-quantizer": Peer("litert", "litert"),
    "nvidia-modelopt, ONNX": Peer("modelopt_onnx", "modelopt"),
    "torchao": Peer("torchao_pt2e", "torchao"),
    "executorch": Peer("executorch_xnnpack", "executorch"),
    "aimet-onnx": Peer("aimet", "aimet"),
    "torch-pruning by itself": Peer("pruning", "torch-pruning"),
    "tract": Peer("tract_onnx", "tract"),
    "emx-onnx-cgen": Peer("emx_cgen", "emx-onnx-cgen"),
    "IREE": Peer("iree_onnx", "iree"),
    "MNN": Peer("mnn_onnx", "mnn"),
    "ncnn": Peer("ncnn_pnnx", "ncnn"),
}
OURS = Peer("ours", "", ())


def environment(name: str, place: Path) -> Path:
    """The Python of an environment, made if it is not there. Raises RuntimeError with pip's last words."""
    if not name:
        return Path(sys.executable)
    folder, wanted = place / "env" / name, digest(encode(ENVIRONMENTS[name]))
    mark, python = folder / "made-of", folder / "bin" / "python"
    if mark.is_file() and mark.read_text() == wanted:
        return python
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    for group in ENVIRONMENTS[name]:
        run([python, "-m", "pip", "install", "--quiet", "--no-compile", *group], INSTALL_S)
    mark.write_text(wanted)
    return python


def run(command: Sequence[str | Path], limit_s: float, cpu_s: int | None = None) -> None:
    """Raises RuntimeError with the last telling line if a command fails, crashes or takes too long.

    cpu_s: CPU seconds that it may take; None: no limit.
    """
    limits = None if cpu_s is None else lambda: resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 10))
    asked: dict[str, Any] = {"capture_output": True, "text": True, "errors": "replace", "env": env()}
    try:
        done = subprocess.run(command, timeout=limit_s, preexec_fn=limits, **asked)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"not finished within {limit_s:.0f} s") from None
    if done.returncode == -signal.SIGXCPU:
        raise RuntimeError(f"not finished within {cpu_s} s of CPU time")
    if done.returncode:
        raise RuntimeError(last_words(done.returncode, done.stderr or done.stdout))


def cpu_seconds(pid: int) -> float:
    """What a process has used; 0 where that cannot be read, as of one that is gone."""
    try:
        used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:
        return 0.0
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


def last_words(code: int, text: str) -> str:
    """What a failed process said last: an error's line where there is one."""
    if code < 0:
        return f"crashed with signal {-code}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [i for i, line in enumerate(lines) if any(w in line for w in ("Error", "error:", "Exception"))]
    told = " ".join(lines[errors[-1] :]) if errors else (lines or [f"exit code {code}"])[-1]
    return told[:300]


def env() -> dict[str, str]:
    """One thread, nothing reported to vendors, no graphics card."""
    quiet = {"ORT_DISABLE_TELEMETRY": "1", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return {**os.environ, "OMP_NUM_THREADS": "1", "LITERT_TORCH_SHOW_PROGRESS": "n", **quiet}


@functools.cache
def versions(python: Path) -> list[str]:
    """What is installed beside it, as pip freeze tells."""
    told = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True)
    return [line for line in told.stdout.splitlines() if "==" in line]


class Server:
    """A peer's file opened in a process of its own. See peers/serve.py."""

    def __init__(self, peer: Peer, python: Path, case: Path, out: Path, kind: str) -> None:
        self.words = (out / "serve.log").open("w+")
        files = [python, FOLDER / "serve.py", FOLDER / f"{peer.script}.py", case, out]
        command = [*map(str, files), "serve", kind]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.words, env=env())

    def wait(self) -> bool:
        """Until it is open; whether it keeps its states itself. Raises RuntimeError if it cannot be."""
        keeps: bool = self._answer(OPEN_S)
        return keeps

    def ask(self, *command: Any) -> Any:
        """One command's answer. Raises RuntimeError with the peer's words if there is none."""
        assert self.process.stdin
        try:
            pickle.dump(command, self.process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it is gone: what it said is told below
        found = self._answer(ANSWER_S)
        if isinstance(found, str):
            raise RuntimeError(found[:300])
        return found

    def infer(self, feeds: Tensors) -> Tensors:
        """Answers by name."""
        found: Tensors = self.ask("infer", feeds)
        return found

    def _answer(self, limit_s: float) -> Any:
        assert self.process.stdout
        begun, before = time.perf_counter(), cpu_seconds(self.process.pid)
        while not select.select([self.process.stdout], [], [], limit_s)[0]:
            waited = time.perf_counter() - begun
            if waited >= PATIENCE * limit_s or cpu_seconds(self.process.pid) - before >= limit_s / 2:
                raise RuntimeError(f"no answer within {waited:.0f} s")
        try:
            return pickle.load(self.process.stdout)
        except EOFError:
            self.words.seek(0)
            raise RuntimeError(last_words(self.process.wait(), self.words.read())) from None

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.words.close()


@dataclass
class Infer:
    """What a server answers, held against the shape that the model's answer has."""

    server: Server
    answer: TensorSpec

    def __call__(self, feeds: Tensors) -> Tensors:
        """Answers by name. Raises RuntimeError for one of another shape."""
        found = self.server.infer(feeds)
        shape, wanted = found[self.answer.name].shape, self.answer.shape
        if shape != wanted:
            raise RuntimeError(f"it answers {self.answer.name} of shape {shape} where the model has {wanted}")
        return found


class KeepingInfer(Infer):
    """One that keeps its states itself: see ``edgepv.stream.KeepsStates``."""

    def write(self, name: str, value: np.ndarray) -> None:
        """Set a state before the next step."""
        self.server.ask("write", name, value)

    def reset(self) -> None:
        """Forget every frame."""
        self.server.ask("reset")


def make(args: argparse.Namespace, place: Path) -> None:
    """Fill peers.json with every row that is not there; those of other clips are answered anew."""
    found = read_json(OUT) if OUT.is_file() else {}
    for name, model in models(args.data.resolve()).items():
        if args.only and not any(word in name for word in args.only):
            continue
        result = found.setdefault(name, {"rows": {}})
        if model.why:
            result |= {"why": model.why, "at": now()}
            write_json(OUT, found)
            continue
        if args.again and (not args.tool or "edgepv" in args.tool):
            forget_ours(folder_of(name, place))
        case, truth = prepared(name, model, place, args.clips)
        if result.get("clips") != len(truth.shown):
            result["rows"] = {}
        result |= facts(case, truth)
        for row, peer, kind in planned(case, args.tool, args.kind):
            kept = result["rows"].get(row)
            if kept and not args.again and not (args.retry and "failed" in kept):
                continue
            if args.again:
                shutil.rmtree(out_of(case, row), ignore_errors=True)
            origin = {"at": now(), "device": encode(device_facts())}
            result["rows"][row] = made(case, truth, peer, kind, row, place) | origin
            print(f"{name}: {row}: {brief(result['rows'][row])}", flush=True)
            write_json(OUT, found)
            write_text(PAGE, page(found))


def facts(case: Case, truth: Truth) -> dict[str, Any]:
    """What a page says of a model: its clips, and how many inputs set ranges."""
    with np.load(case.folder / "calibration.npz") as held:
        count = len(held[case.base.spec.input.name])
    right = figures(case.base.spec, truth.wanted, truth.shown, case.warmup)
    return {
        "clips": len(truth.shown),
        "groups": len(set(groups_of(truth.shown) or ())),
        "calibration": count,
        "metric": case.base.spec.metric,
        "float": float((right > 0).mean() if case.base.spec.task == "classification" else right.mean()),
    }


def planned(case: Case, tools: Sequence[str], kinds: Sequence[str] = ()) -> Iterator[tuple[str, Peer, str]]:
    """(row, peer, kind) of a model: edgepv's variants, then every peer as it is and tuned.

    tools, kinds: these only; none: all.
    """
    if not tools or "edgepv" in tools:
        for variant in case.ours():
            yield f"edgepv, {variant}", OURS, variant
    for name, peer in PEERS.items():
        for kind in peer.kinds:
            asked = not tools or peer.environment in tools or peer.script in tools
            if asked and (not kinds or kind in kinds):
                yield f"{name}, {kind}", peer, kind


def out_of(case: Case, row: str) -> Path:
    """The folder of a row's file."""
    return case.folder / digest([row])[:12]


def made(case: Case, truth: Truth, peer: Peer, kind: str, row: str, place: Path) -> dict[str, Any]:
    """A row: the peer's file, unless it is there, what it answers, and what failed."""
    out = out_of(case, row)
    out.mkdir(exist_ok=True)
    try:
        python = environment(peer.environment, place)
        if peer is OURS:
            variant = case.ours()[kind]
            folder = str(case.folder / kind.partition("/")[0])
            told = {
                "folder": folder,
                "variant": encode(variant),
                "file": variant.path,
                "engine": variant.engine,
            }
            write_json(out / "made.json", told)
        elif not (out / "made.json").is_file():
            command = [python, FOLDER / "serve.py", FOLDER / f"{peer.script}.py", case.folder, out]
            run([*command, "make", kind], MAKE_S, MAKE_CPU_S)
        return examined(case, truth, peer, kind, out, python)
    except Exception as e:  # whatever a tool's file does to what reads it, is its result
        return {"failed": str(e) if isinstance(e, RuntimeError | EdgepvError) else f"{type(e).__name__}: {e}"}


def examined(case: Case, truth: Truth, peer: Peer, kind: str, out: Path, python: Path) -> dict[str, Any]:
    """What a file answers to the test clips, its bytes, and what of it is INT8."""
    told = read_json(out / "made.json")
    variant, folder = case.base, out
    if peer is OURS:
        variant, folder = decode(Variant, told["variant"]), Path(told["folder"])
    server = Server(peer, python, case.folder, out, kind)

    try:
        kept, answer = server.wait(), case.base.spec.answer
        answers = play_clips(
            KeepingInfer(server, answer) if kept else Infer(server, answer), variant, truth.shown
        )
    finally:
        server.close()
    return {
        **judged(case, truth, answers),
        **inside(case, variant, folder, told),
        "bytes": size_of(folder / told["file"], told["engine"]),
        "engine": told["engine"],
        "versions": versions(python) if peer.environment else [],
    }


def judged(case: Case, truth: Truth, answers: Sequence[np.ndarray]) -> dict[str, Any]:
    """SQNR of the valid answers against float, and what is lost on the test clips."""
    if not all(np.isfinite(rows).all() for rows in answers):
        return {"failed": "answers that are not finite"}
    spec, first = case.base.spec, case.warmup - 1
    both = [np.concatenate([rows[first:].reshape(-1) for rows in side]) for side in (truth.wanted, answers)]
    before, after = (figures(spec, rows, truth.shown, case.warmup) for rows in (truth.wanted, answers))
    limit = MAX_DROP["points" if spec.task == "classification" else "dB"]
    drop = task_drop(spec, before, after, limit, groups_of(truth.shown))
    return {"sqnr_db": round(sqnr_db(*both), 2), "drop": encode(drop)}


def inside(case: Case, variant: Variant, folder: Path, told: dict[str, Any]) -> dict[str, Any]:
    """Convolutions that run in INT8 of all, and saturated codes, where the file or its peer tells."""
    if told["engine"] not in ENGINES.names() or ENGINES.find(told["engine"]).audit is None:
        return {"int8": told.get("int8"), "saturation": None}
    asked = replace(variant, path=told["file"], engine=told["engine"], precision="int8")
    found, probes = audit(asked, folder), case.probes
    if "inputs" in told:  # the file renames them
        probes = [{told["inputs"][name]: value for name, value in feed.items()} for feed in probes]
    else:
        probes = by_file_names(variant, probes)
    path = folder / told["file"]
    codes = None if takes_codes(path) else saturation(path, probes)
    return {"int8": [found.int8, len(found.convolutions)], "saturation": codes}


def takes_codes(path: Path) -> bool:
    """Whether a LiteRT file has inputs in 8 bits: then floats cannot be shown to it as they are."""
    if path.suffix != ".tflite":
        return False
    details = litert_interpreter()(model_path=str(path)).get_input_details()
    return any(np.dtype(one["dtype"]).itemsize == 1 for one in details)


def size_of(path: Path, engine: str) -> int:
    """Bytes of a model's file and of what lies beside it under its stem."""
    beside = (path.with_suffix(".bin"), path.with_suffix(".onnx.data"), path.with_name(path.name + ".data"))
    return sum(p.stat().st_size for p in (path, *beside) if p.is_file())


def brief(row: dict[str, Any]) -> str:
    """A row in a line."""
    if "failed" in row:
        return f"failed: {row['failed']}"
    return f"{row['sqnr_db']} dB, {row['drop']['points']:+.2f} lost, INT8 {row['int8']}, {row['bytes']} bytes"


def timed(place: Path, args: argparse.Namespace) -> None:
    """p50, CPU time and ratio of every file of each model, all of a model in turns; into peers.json."""
    found = read_json(OUT)
    tools = [*args.tool, "edgepv"] if args.tool else []  # times are told as shares of edgepv's fastest
    for name, result in found.items():
        case = Case(folder_of(name, place))
        if not case.folder.is_dir() or (args.only and not any(word in name for word in args.only)):
            continue
        servers: dict[str, Server] = {}
        feeds = case.probes[: 1 + TURN]
        try:
            for row, peer, kind in planned(case, tools, args.kind):
                kept = result["rows"].get(row)
                if kept and "failed" not in kept and (out_of(case, row) / "made.json").is_file():
                    python = environment(peer.environment, place)
                    servers[row] = Server(peer, python, case.folder, out_of(case, row), kind)
            leave_closed(name, servers, feeds)
            times = in_turns_of(servers, feeds)
        finally:
            for server in servers.values():
                server.close()
        origin = {"at": now(), "device": encode(device_facts()), "load": times.pop("load")}
        on = machine(origin["device"])
        result.setdefault("timed", {})[on] = origin
        for row, latency_of in times.items():
            result["rows"][row]["time"] = latency_of | {"on": on}
        write_json(OUT, found)
        write_text(PAGE, page(found))


def leave_closed(name: str, servers: dict[str, Server], feeds: list[Tensors]) -> None:
    """Wait until all are open and have answered once; those that do not are named and left out."""
    for row, server in list(servers.items()):
        try:
            server.wait()
            server.ask("turn", feeds, 1)
        except RuntimeError as e:
            servers.pop(row).close()
            print(f"{name}: {row}: not timed, {e}", flush=True)


def in_turns_of(servers: dict[str, Server], feeds: list[Tensors]) -> dict[str, Any]:
    """Times of each, and under "load" what the machine did meanwhile.

    A turn is ``TURN`` timed calls in a peer's own process while all others wait for a command.
    """
    walls: dict[str, list[float]] = {row: [] for row in servers}
    medians: dict[str, list[float]] = {row: [] for row in servers}
    cpus: dict[str, list[float]] = {row: [] for row in servers}
    watch, begun = LoadWatch(), time.perf_counter()
    for _ in range(CALLS // TURN):
        if time.perf_counter() - begun > BUDGET_S and all(len(w) >= TURN * 3 for w in walls.values()):
            break
        for row, server in servers.items():
            seconds, cpu = server.ask("turn", feeds, TURN)
            walls[row] += seconds
            medians[row].append(statistics.median(seconds))
            cpus[row].append(cpu)
        watch.sample()
    load = watch.load()
    mine = min(
        (row for row in servers if row.startswith("edgepv")), key=lambda r: statistics.median(walls[r])
    )
    times: dict[str, Any] = {
        row: {
            "p50_ms": 1e3 * statistics.median(walls[row]),
            "cpu_ms": 1e3 * statistics.median(cpus[row]),
            "n": len(walls[row]),
            "of_fastest_edgepv": encode(paired_ratio(medians[row], medians[mine])) if row != mine else None,
        }
        for row in servers
    }
    return times | {"load": {**encode(load), "inconclusive": busy_reason(load, 1)}}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("make", "time", "page"))
    parser.add_argument("--data", type=Path, help="folder with manifest.csv and clips")
    parser.add_argument(
        "--only", action="append", default=[], metavar="MODEL", help="models with this in their name"
    )
    parser.add_argument(
        "--tool", action="append", default=[], metavar="ENVIRONMENT", help="these, or scripts, or edgepv"
    )
    parser.add_argument("--kind", action="append", default=[], choices=KINDS, help="of the tools' rows")
    parser.add_argument(
        "--clips", type=int, default=TESTED, help="test clips of each model (default: %(default)s)"
    )
    parser.add_argument("--again", action="store_true", help="make anew what is there")
    parser.add_argument("--retry", action="store_true", help="make anew what failed")
    args = parser.parse_args(argv)
    place = cache.root() / "peers"
    if args.stage == "page":
        write_text(PAGE, page(read_json(OUT)))
    elif args.stage == "time":
        timed(place, args)
    elif args.data is None:
        parser.error("make needs --data: the folder with the labelled clips")
    else:
        make(args, place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
