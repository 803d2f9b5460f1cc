"""The device kit: build, verify, bench and run a bundle, with numpy and JetPack's tensorrt alone.

A bundle carries it as kit.pyz (``python3 kit.pyz build``, beside the bundle's files), and ``edgepv build``
is the same code. Every failure is one line with an exit code by its class (edgepv/errors.py).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections import deque
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Sequence

import numpy as np

from edgepv.errors import (
    AccuracyGateError,
    EdgepvError,
    ParityError,
    TargetUnavailableError,
    UsageError,
    told,
)
from edgepv.runtimes.trt import builder, device, layers, measure, store
from edgepv.runtimes.trt.bundle import Bundle, Model, limit, preprocess, rmse, sampled
from edgepv.runtimes.trt.device import Device
from edgepv.runtimes.trt.engine import TrtEngine

Say = Callable[[str], None]
NOT_JUDGED = "not judged, as no clips were given; what it scored where it was made is in measured.json"
"""What is said of the accuracy on the device."""


@dataclass(frozen=True)
class Judgement:
    """What an engine answers to labelled clips. refused: why it is not kept, "" if it may be."""

    told: str
    refused: str
    facts: dict[str, Any]


Judge = Callable[[Dict[str, TrtEngine]], Dict[str, Judgement]]
"""Engines by variant, one in float first, -> the judgement of each."""


@dataclass(frozen=True)
class Candidate:
    """One variant that this device may run. kind: the precision that its engine is built for."""

    model: Model
    kind: str

    @property
    def tolerance(self) -> str:
        """The precision whose tolerance its answers have."""
        return "int8" if self.model.int8 else ("fp16" if "fp16" in self.kind else "fp32")


class Player:
    """Steps an engine over frames (C, h, w) of a clip: chunks of a stream, or the window of a clip model."""

    def __init__(self, engine: TrtEngine) -> None:
        self._engine, self._model = engine, engine.model
        engine.forget()
        self._chunk: list[np.ndarray] = []
        self._ring: deque[np.ndarray] = deque(maxlen=self._model.frames)
        self.seen = 0
        self._last = {name: np.zeros(shape, np.float32) for name, shape in self._model.answers.items()}

    @property
    def valid(self) -> bool:
        """Whether the latest answer rests on a full window."""
        return self.seen - self.seen % self._model.chunk >= self._model.warmup

    def step(self, tensor: np.ndarray) -> dict[str, np.ndarray]:
        """Answers after one more frame, (1, C, h, w); those before it stand until a chunk is full."""
        self.seen += 1
        if self._model.streamed:
            self._chunk.append(tensor)
            if len(self._chunk) < self._model.chunk:
                return self._last
            eaten = np.concatenate(self._chunk)
            self._chunk.clear()
        else:
            self._ring.append(tensor)
            missing = self._model.frames - len(self._ring)
            eaten = np.stack([self._ring[0]] * missing + list(self._ring), axis=2)
        self._last = self._engine.advance({self._model.frame[0]: eaten})
        return self._last


def candidates(bundle: Bundle, here: Device, say: Say) -> list[Candidate]:
    """The variants for this TensorRT, floats first. Raises TargetUnavailableError if there are none."""
    device.refuse_target(here, bundle.target)
    board = device.table()["boards"].get(here.board or "")
    found: list[Candidate] = []
    for model in sorted(bundle.models, key=lambda m: (m.int8, not m.strong)):
        why = bundle.refused(model)
        if model.int8 and board and "int8" not in board["precisions"]:
            why = f"{here.board} computes no INT8"
        if not fits(model, here) or (here.strong and not model.int8 and any(not c.model.int8 for c in found)):
            continue  # the float32 file is for a strongly typed build where that in float16 is not to be had
        if why:
            say(f"{model.name}: left out: {why}")
            continue
        kinds = builder.kinds(model, strong=here.strong)
        found.append(Candidate(model, kinds[0] if len(kinds) == 1 or bundle.half(model) else kinds[1]))
    if not found:
        typing = "strongly" if here.strong else "weakly"
        raise TargetUnavailableError(
            f"{bundle.folder} has no file for TensorRT {here.tensorrt} ({typing} typed). "
            "Export with --target jetson"
        )
    return found


def fits(model: Model, here: Device) -> bool:
    """Whether this TensorRT builds a file: where types are the file's own, INT8 wants float16 beside it."""
    return (model.strong or not model.int8) if here.strong else not model.strong


def build(
    bundle: Bundle,
    say: Say,
    *,
    only: str | None = None,
    calls: int = measure.CALLS,
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Build, prove and time what this device can run of a bundle, and keep the fastest of what is proven.

    only: a variant's name. judge: looks at answers to clips before one is kept; the kit alone has none.
    Returns what was found, as JSON data. Raises what the first variant raised if none is left, and
    EdgepvErrors for a device that is refused.
    """
    files = bundle.check()
    say(f"{files} files match their digests; status: {store.WORDS[0]}")
    here = device.find(stats=True)
    for line in here.told():
        say(line)
    wanted = [c for c in candidates(bundle, here, say) if only in (None, c.model.name)]
    if not wanted:
        raise UsageError(
            f"{bundle.model(only or '').name} is not for TensorRT {here.tensorrt}. Leave --variant out"
        )
    proven, faults = [], []
    for candidate in wanted:
        try:
            _made(bundle, candidate, here, say)
            proven.append(candidate)
        except EdgepvError as e:
            faults.append(e)
            say(f"{candidate.model.name}: not kept: {e}")
    if not proven:
        raise faults[0]
    return _kept(bundle, proven, here, say, calls, judge)


def _made(bundle: Bundle, candidate: Candidate, here: Device, say: Say) -> None:
    """Build an engine unless it is here, look at its layers, replay the goldens; note the words it earns."""
    model, trt = candidate.model, device.tensorrt()
    place = store.folder(model, here, candidate.kind)
    _discard_others(candidate, here)
    status = store.Status.read(place)
    try:
        plan = store.built(place, here, model.name)
    except UsageError as e:
        say(f"{model.name}: {e}")
        plan = None
    if plan is None:
        tactics = store.timing_cache(here)
        plan, attempt = builder.build(
            trt, bundle.checked(model.path), model, here, candidate.kind, tactics, say
        )
        store.write(place / store.ENGINE, plan)
        status.earn(store.WORDS[1], _built_facts(plan, attempt, candidate, here))
        say(f"{model.name}: built-on-device, {len(plan) >> 10} KiB")
    else:
        say(f"{model.name}: the engine built before is used")
    _proven(bundle, candidate, here, plan, status, say)


def _discard_others(candidate: Candidate, here: Device) -> None:
    """Remove engines of this model in a precision that is not to be run: whoever opens it would take one."""
    for kind in builder.kinds(candidate.model, strong=here.strong):
        if kind != candidate.kind:
            shutil.rmtree(str(store.folder(candidate.model, here, kind)), ignore_errors=True)


def _built_facts(plan: bytes, attempt: builder.Attempt, candidate: Candidate, here: Device) -> dict[str, Any]:
    return {
        "sha256": hashlib.sha256(plan).hexdigest(),
        "key": store.key(candidate.model, here, candidate.kind),
        "device": here.key,
        "machine": here.as_json(),
        "attempt": attempt.name,
        "workspace_bytes": attempt.workspace,
    }


def _proven(
    bundle: Bundle, candidate: Candidate, here: Device, plan: bytes, status: store.Status, say: Say
) -> None:
    """Raise EngineError for layers that are not as planned, ParityError for answers other than recorded."""
    model = candidate.model
    status.earn(store.WORDS[1], status.facts[store.WORDS[1]])  # whatever it had earned is asked for anew
    engine = TrtEngine(device.tensorrt(), plan, model)
    try:
        information = engine.layers()
        store.write(status.place / store.LAYERS, information.encode())
        found = layers.share(information, layers.wanted(bundle.plan(), int8=model.int8, strong=model.strong))
        say(f"{model.name}: layers: {found.told()}")
        layers.refuse_unmet(found, model.name)
        error, allowed = replayed(bundle, engine, candidate.tolerance)
    finally:
        engine.close()
    say(f"{model.name}: golden answers reproduced, rmse {error:.2g}, limit {allowed:.2g}: self-tested")
    status.earn(store.WORDS[2], {"rmse": error, "limit": allowed, "layers": found.as_json()})


def replayed(bundle: Bundle, engine: TrtEngine, tolerance: str) -> tuple[float, float]:
    """(rmse, limit) of the golden answers, by an engine with its own states. Raises ParityError above it."""
    model = engine.model
    recorded = bundle.recorded(model)
    player, judged = Player(engine), next(iter(model.answers))
    rows = [sampled(player.step(preprocess(frame, model))[judged]) for frame in recorded["frames"]]
    got, allowed = np.concatenate(rows), limit(recorded, model, tolerance)
    if got.shape != recorded["own"].shape:
        raise ParityError(
            f"{model.name} answers {got.shape}, recorded are {recorded['own'].shape}. Export again"
        )
    error = rmse(got, recorded["own"])
    if not error <= allowed:
        raise ParityError(
            f"{model.name} answers otherwise here than where the bundle was made: rmse {error:.3g}, allowed "
            f"{allowed:.3g}. Do not use this engine; keep another variant, or export again"
        )
    return error, allowed


def _kept(
    bundle: Bundle,
    proven: Sequence[Candidate],
    here: Device,
    say: Say,
    calls: int,
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Judge what is proven, time it in turns, note both, and keep the fastest that is not refused.

    What clips said of an engine on this device stands until clips are given again. Raises AccuracyGateError
    if they refused all that is proven.
    """
    before = store.judged(bundle.digest, here)
    times, judged = _measured(proven, here, calls, judge or _as_before(before))
    for candidate in proven:
        name = candidate.model.name
        row = {**times[name], "accuracy": judged[name].facts or NOT_JUDGED}
        store.Status.read(store.folder(candidate.model, here, candidate.kind)).earn(store.WORDS[3], row)
        graph = "CUDA graph" if row["cuda_graph"] else f"no CUDA graph ({row['no_graph_because']})"
        say(f"{name}: p50 {row['p50_ms']} ms, p99 {_ms(row['p99_ms'])}, {graph}: benchmarked")
        say(f"{name}: accuracy on this device: {judged[name].told}")
    fit = [name for name in times if not judged[name].refused]
    for name in set(times) - set(fit):
        say(f"{name}: not kept: {judged[name].refused}")
    if not fit:
        raise AccuracyGateError(
            f"no engine is kept: {next(iter(judged.values())).refused}. Leave --variant out, or have it "
            "judged anew: edgepv build BUNDLE --clips DIR"
        )
    fit.sort(key=lambda name: times[name]["p50_ms"])
    best = fit[0]
    accuracy = {name: one.facts or NOT_JUDGED for name, one in judged.items()}
    facts = {"variant": best, "fit": fit, "why": _why(fit), "times": times, "accuracy": accuracy}
    said = {name: asdict(one) for name, one in judged.items()} if judge else {}
    store.keep(bundle.digest, here, {**facts, "judged": {**before, **said}})
    say(f"kept: {best}, {facts['why']}")
    return {"bundle": bundle.digest, "device": here.as_json(), **facts}


def _as_before(before: dict[str, Any]) -> Judge:
    """What was said of engines when clips were last given; of others that there were none."""
    unseen = Judgement(NOT_JUDGED, "", {})
    said = {name: Judgement(**one) for name, one in before.items()}
    old = {name: replace(one, told=f"{one.told}, as judged before") for name, one in said.items()}
    return lambda engines: {name: old.get(name, unseen) for name in engines}


def _ms(value: float | None) -> str:
    return "not measured" if value is None else f"{value} ms"


def _why(fit: Sequence[str]) -> str:
    if len(fit) == 1:
        return "the only one that is built and proven here"
    return f"the lowest p50 of {len(fit)} timed in turns, all of which reproduce their golden answers"


def _measured(
    proven: Sequence[Candidate], here: Device, calls: int, judge: Judge
) -> tuple[dict[str, dict[str, Any]], dict[str, Judgement]]:
    """Times by variant, with clocks and power mode before and after, and judgements."""
    opened: dict[str, TrtEngine] = {}
    try:
        for candidate in proven:
            opened[candidate.model.name] = _opened(candidate, here)
        judged = judge(opened)
        times = measure.interleaved(opened, calls)
    finally:
        for engine in opened.values():
            engine.close()
    after = device.find(stats=True)
    conditions = {
        "power": here.power,
        "clocks_before": here.clocks,
        "clocks_after": after.clocks,
        "stats": after.stats,
    }
    return {name: {**row, **conditions} for name, row in times.items()}, judged


def _opened(candidate: Candidate, here: Device) -> TrtEngine:
    """The engine of a candidate. Raises UsageError if it was not built here yet."""
    plan = store.built(store.folder(candidate.model, here, candidate.kind), here, candidate.model.name)
    if plan is None:
        raise UsageError(f"no engine of {candidate.model.name} on this device yet. Build it: kit.pyz build")
    return TrtEngine(device.tensorrt(), plan, candidate.model)


def open_model(model: Model) -> tuple[TrtEngine, str]:
    """The engine that was built here for a model, and its precision. Raises like ``device.find``.

    And TargetUnavailableError for a file that is for another TensorRT, and if no engine of it was built here
    and passed its self-test.
    """
    here = device.find()
    if not fits(model, here):
        since = ".".join(map(str, device.STRONG_SINCE))
        raise TargetUnavailableError(
            f"{model.name} is for TensorRT {'from' if model.strong else 'before'} {since}, and "
            f"{here.tensorrt} is here. "
            "Run another variant of the bundle"
        )
    for kind in builder.kinds(model, strong=here.strong):
        place = store.folder(model, here, kind)
        plan = store.built(place, here, model.name)
        if plan is not None and store.Status.read(place).word in store.WORDS[2:]:
            return TrtEngine(device.tensorrt(), plan, model), Candidate(model, kind).tolerance
    raise TargetUnavailableError(
        f"no self-tested engine of {model.name} on this device yet. Build it: edgepv build BUNDLE"
    )


def verify(bundle: Bundle, say: Say) -> None:
    """Check every digest, and replay the goldens through every engine that is built here.

    Raises ParityError for an engine that answers otherwise, UsageError if none is built.
    """
    say(f"{bundle.check()} files match their digests; bundle {bundle.digest[:16]}")
    here, tried = device.find(), 0
    for candidate in candidates(bundle, here, say):
        place = store.folder(candidate.model, here, candidate.kind)
        if store.built(place, here, candidate.model.name) is None:
            say(f"{candidate.model.name}: not replayed: its engine is not built")
            continue
        engine = _opened(candidate, here)
        try:
            error, allowed = replayed(bundle, engine, candidate.tolerance)
        finally:
            engine.close()
        tried += 1
        word = store.Status.read(place).word
        say(
            f"{candidate.model.name}: golden answers reproduced, rmse {error:.2g}, limit {allowed:.2g}; "
            f"{word}"
        )
    if not tried:
        raise UsageError("no engine of this bundle is built on this device yet. Build it: kit.pyz build")


def bench(bundle: Bundle, say: Say, calls: int = measure.CALLS) -> dict[str, Any]:
    """Time every engine of a bundle that is built and proven here, in turns, and keep the fastest."""
    here = device.find()
    every = candidates(bundle, here, say)
    words = {c.model.name: store.Status.read(store.folder(c.model, here, c.kind)).word for c in every}
    fit = [c for c in every if words[c.model.name] in store.WORDS[2:]]
    if not fit:
        raise UsageError(
            "no engine of this bundle is built and self-tested on this device. Build it: kit.pyz build"
        )
    return _kept(bundle, fit, here, say, calls)


def run(bundle: Bundle, source: str, size: str | None, say: Say, variant: str | None = None) -> None:
    """Answer the frames of a source, a JSON line each. Only classifiers: others need edgepv itself.

    source: a .npy file (N, H, W, 3) uint8 BGR, "-" for raw bgr24 frames of ``size`` on stdin, or whatever
    OpenCV opens. Every frame is taken: give them at the model's rate.
    """
    here = device.find()
    name = variant or next(iter(store.kept(bundle.digest, here)), None)
    if name is None:
        raise UsageError("nothing was kept for this bundle on this device yet. Build it: kit.pyz build")
    model = bundle.model(name)
    if not model.labels:
        raise UsageError(
            f"{name} is no classifier, and the kit runs no other. Install edgepv, and: edgepv run BUNDLE"
        )
    if chain := bundle.content["spec"].get("before"):
        raise UsageError(
            f"{name} has {', '.join(chain)} before it, which the kit has not. Install edgepv, and: edgepv "
            "run BUNDLE"
        )
    rate = bundle.content["spec"]["fps"]
    print(f"{name}: frames are taken as they come; the model is for {rate} a second", file=sys.stderr)
    engine, _ = open_model(model)
    try:
        player = Player(engine)
        for index, frame in enumerate(frames(source, size)):
            answer = player.step(preprocess(_fitted(frame, model), model))
            say(
                json.dumps(
                    {"frame": index, "valid": player.valid, **_label(model, next(iter(answer.values()))[0])}
                )
            )
    finally:
        engine.close()


def _label(model: Model, row: np.ndarray) -> dict[str, Any]:
    scores = row.clip(0, 1)
    if model.scores != "probabilities":
        powers = np.exp(row - row.max())
        scores = powers / powers.sum()
    best = int(scores.argmax())
    return {"label": model.labels[best], "score": round(float(scores[best]), 4)}


def frames(source: str, size: str | None) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8 BGR of a source, see ``run``. Raises UsageError for what is none."""
    if source == "-":
        if (
            not size
            or not all(part.isdigit() and int(part) for part in size.split("x"))
            or size.count("x") != 1
        ):
            raise UsageError("raw frames on stdin want their size: --size 640x480")
        width, height = map(int, size.split("x"))
        while len(data := sys.stdin.buffer.read(width * height * 3)) == width * height * 3:
            yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
    elif source.endswith(".npy"):
        try:
            pictures = np.load(source, allow_pickle=False)
        except (OSError, ValueError) as e:
            raise UsageError(f"{source} holds no array of frames ({e})") from e
        yield from pictures
    else:
        video = _opencv(source).VideoCapture(source)
        if not video.isOpened():
            raise UsageError(f"OpenCV cannot open {source}. Check the path")
        more, picture = video.read()
        while more:
            yield picture
            more, picture = video.read()


def _opencv(what: str) -> Any:
    try:
        import cv2
    except ImportError as e:
        raise UsageError(
            f"{what} needs OpenCV, which this Python has not ({e}). Install python3-opencv, or give "
            f"frames of the "
            "model's size"
        ) from e
    return cv2


def _fitted(frame: np.ndarray, model: Model) -> np.ndarray:
    """A frame at the model's size; resized by OpenCV, as ``edgepv.data.frames`` does."""
    height, width = model.frame[1][-2:]
    if frame.shape[:2] == (height, width):
        return frame
    cv2 = _opencv("resizing a frame")
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command of the kit; returns its exit code. One line for every failure."""
    parser = argparse.ArgumentParser(
        prog="kit.pyz", description="Build, prove, time and run an edgepv bundle on the Jetson it lies on."
    )
    beside = str(Path(sys.argv[0]).resolve().parent)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in COMMANDS.items():
        c = commands.add_parser(name, help=text, description=text)
        c.add_argument(
            "--bundle", metavar="DIR", default=beside, help="the bundle's folder (default: the kit's own)"
        )
        if name in ("build", "run"):
            c.add_argument(
                "--variant", metavar="NAME", help="only this one (default: all; run: the kept one)"
            )
        if name in ("build", "bench"):
            c.add_argument(
                "--calls", type=int, default=measure.CALLS, metavar="N", help="timed steps of each"
            )
        if name == "run":
            c.add_argument("source", metavar="SOURCE", help="FILE.npy, - for raw bgr24 on stdin, or a video")
            c.add_argument("--size", metavar="WxH", help="of raw frames")
    a = parser.parse_args(argv)
    if a.command is None:
        parser.print_help()
        return UsageError.exit_code
    try:
        _command(a)
    except KeyboardInterrupt:
        print("kit.pyz: stopped", file=sys.stderr)
        return 130
    except Exception as e:
        line, code = told(e)
        print(f"kit.pyz: {line}", file=sys.stderr)
        return code
    return 0


def _command(a: argparse.Namespace) -> None:
    def say(line: str) -> None:
        print(line, flush=True)

    folder = bundle_folder(Path(a.bundle))
    bundle = Bundle(folder)
    if a.command == "build":
        build(bundle, say, only=a.variant, calls=a.calls)
    elif a.command == "verify":
        verify(bundle, say)
    elif a.command == "bench":
        bench(bundle, say, calls=a.calls)
    else:
        run(bundle, a.source, a.size, say, a.variant)


def bundle_folder(folder: Path) -> Path:
    """The bundle's folder, or the one above: the kit lies among the models."""
    return folder if (folder / "manifest.json").is_file() else folder.parent


COMMANDS = {
    "build": "build engines, prove them on the golden answers, time them in turns, keep the better",
    "verify": "check every digest, and replay the golden answers through the engines that are built",
    "bench": "time the engines that are built, in turns",
    "run": "answer frames, a JSON line each",
}
"""The kit's commands and their lines of help."""
