"""Mutations of bundles, zips, manifests, models and rules: ``python benchmarks/fuzz.py --n 20000``.

Case i of a seed is always the same. A worker reads each mutation as a user would; one that ends it by a
signal or holds it up for more than 10 s is counted, and a new worker goes on behind it. Writes fuzz.json as
it goes, one run for each seed, and goes on from there. A fault is: an exit code that no table has, "internal
error", a signal, a hang, or an accepted change of what a digest or a signature covers. What was measured,
with the choice of what runs, is covered by the signature alone: without a key a change of it is accepted.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "base")]

from measured_at import now  # noqa: E402
from null_bundle import write_null_bundle  # noqa: E402
from support import in_this_process  # noqa: E402

import edgepv  # noqa: E402
from edgepv import bundle  # noqa: E402
from edgepv.base.files import digest, sha256, write_json  # noqa: E402
from edgepv.base.vet import vet_onnx, vet_openvino, vet_tflite  # noqa: E402
from edgepv.bundle import golden, signing  # noqa: E402
from edgepv.cli.app import main as command  # noqa: E402
from edgepv.device import self_test  # noqa: E402
from edgepv.errors import EdgepvError  # noqa: E402
from edgepv.runtimes.events.rules import read_rules  # noqa: E402
from edgepv.types import Measurement, Report, Rung, StateSpec, StreamSpec, TensorSpec  # noqa: E402

OUT = Path(__file__).resolve().with_suffix(".json")
HANG_S, AGAIN_S, START_S = 10.0, 60.0, 60.0
CODES = {0, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14}
MOST_FAULTS = 40  # that are written out
VALUES: list[Any] = [
    *(None, True, 0, -1, 2, 1 << 40, 10**19, 10**30, 0.0, -0.0, 0.5, 1e308, float("inf"), float("nan")),
    *("", "a", "..", "../x", "/etc/passwd", "a/b", ".x", "\0", "\n", "\x1b[31m", "\ud800", "é", "x" * 5000),
    *("1e999999999", "1/0", "9" * 5000, "null", "tensorrt", "onnxruntime", "openvino", "litert", "int8"),
    *(
        [],
        {},
        [[]],
        [0],
        [1 << 40],
        ["a"],
        {"a": {}},
        [1, 3, 8, 8],
        "NCHW",
        "step",
        "tracking",
        "restoration",
    ),
]
"""What a value may become."""
PIECES = (b"", b"\0", b"\xff", b"[", b"{", b'"', b"\\ud800", b"1e999999999", b"-", b"PK\3\4", b"../", b"nan")


class Bench:
    """The honest things that are mutated, and a place for one mutation."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.honest = folder, folder / "honest"
        folder.mkdir(exist_ok=True)
        write_null_bundle(self.honest)
        found = bundle.read(self.honest)
        content = with_step(found.content, self.honest)
        row = Measurement("null", "null", "null", "fp32", "window", "no hardware")
        write_json(self.honest / "measured.json", Report("net", (row,), "null"))
        files = bundle.digests(self.honest, ["measured.json"])
        rungs = tuple(Rung(v.name) for v in content.variants)
        bundle.write(self.honest, content, replace(found.measured, files=files, ladder=rungs))
        self.key = signing.keygen(folder / "maker.pem")
        signing.sign(self.honest, folder / "maker.pem")
        bundle.zip_bundle(self.honest, folder / "honest.zip")
        self.manifest = json.loads((self.honest / bundle.MANIFEST).read_text())

    def fresh(self) -> Path:
        """A new copy of the honest bundle, and an empty folder around it."""
        shutil.rmtree(self.folder / "case", ignore_errors=True)
        return Path(shutil.copytree(self.honest, self.folder / "case" / "b"))


def with_step(content: bundle.Content, folder: Path) -> bundle.Content:
    """The content with a second variant, which has a state."""
    (window,) = content.variants
    golden_file = folder / bundle.GOLDEN
    tensors = load(golden_file.read_bytes())
    golden_file.write_bytes(save(tensors | {"step": tensors["null"]}))
    step = replace(
        window,
        name="step",
        form="step",
        spec=replace(window.spec, input=TensorSpec("frame", (1, 3, 8, 8))),
        stream=StreamSpec((StateSpec("s", "t", (1, 4)),), warmup=2),
        inputs={"frame": "f", "s": "s"},
        outputs={"logits": "l", "t": "t"},
    )
    files = bundle.digests(folder, list(content.files))
    return replace(content, variants=(window, step), files=files)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every value inside plain data."""
    keys: Any = (
        value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    return [at, *(place for key in keys for place in places(value[key], (*at, key)))]


def mutate_data(data: Any, rng: random.Random) -> None:
    """Change one value, key or element somewhere in plain data, in place."""
    *above, last = rng.choice([p for p in places(data) if p])
    holder = data
    for key in above:
        holder = holder[key]
    how = rng.random()
    if how < 0.7:
        holder[last] = copy.deepcopy(rng.choice(VALUES))  # the next mutation may change it
    elif how < 0.8 and isinstance(holder, dict):
        holder[rng.choice(["x", "../x", "\0", "schema", "é", "a" * 300])] = holder.pop(last)
    elif how < 0.9 and isinstance(holder, list):
        holder.extend([holder[last]] * rng.choice([1, 3, 200]))
    else:
        del holder[last]


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat, or overwrite some bytes."""
    made = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        at = rng.randrange(max(1, len(made)))
        how = rng.randrange(5)
        if how == 0 and made:
            made[at % len(made)] ^= 1 << rng.randrange(8)
        elif how == 1:
            made[at : at + rng.choice([1, 4, 8])] = rng.choice(PIECES)
        elif how == 2:
            made[at : at + 4] = rng.choice([0, 1, 255, 1 << 16, 1 << 31, (1 << 32) - 1]).to_bytes(4, "little")
        elif how == 3:
            del made[at:]
        else:
            made[at:at] = made[at : at + rng.choice([1, 16, 256])]
    return bytes(made)


def of_manifest(bench: Bench, rng: random.Random) -> tuple[Path, bool]:
    """A bundle whose manifest means something else, with a digest that fits it in half of the cases."""
    folder, data = bench.fresh(), json.loads(json.dumps(bench.manifest))
    for _ in range(rng.choice([1, 1, 2, 4])):
        mutate_data(data, rng)
    sealed = rng.random() < 0.5
    if sealed and "content" in data:
        with contextlib.suppress(UnicodeError):
            data["digest"] = digest(data["content"])
    (folder / bundle.MANIFEST).write_text(json.dumps(data))
    return folder, not sealed and data.get("content") != bench.manifest["content"]


def of_text(bench: Bench, rng: random.Random) -> tuple[Path, bool]:
    """A bundle whose manifest's bytes were damaged."""
    folder = bench.fresh()
    path = folder / bundle.MANIFEST
    path.write_bytes(mutate_bytes(path.read_bytes(), rng))
    return folder, _content(path) not in (None, bench.manifest["content"])


def _content(manifest: Path) -> Any:
    try:
        return json.loads(manifest.read_bytes())["content"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def of_file(bench: Bench, rng: random.Random) -> tuple[Path, bool]:
    """A bundle with one file damaged, gone, doubled or no file, in half of the cases with the new digest."""
    folder = bench.fresh()
    name = rng.choice(["golden.safetensors", "models/delays.json", "measured.json"])
    path = folder / name
    before, how = path.read_bytes(), rng.random()
    if how < 0.8:
        path.write_bytes(mutate_bytes(before, rng))
    else:
        path.unlink()
        if how < 0.84:
            os.mkfifo(path)
        elif how < 0.88:
            path.symlink_to("/etc/passwd")
        elif how < 0.92:
            path.mkdir()
    if path.is_file() and rng.random() < 0.5:
        data = json.loads(json.dumps(bench.manifest))
        for part in ("content", "measured"):
            data[part]["files"].update({name: sha256(path)} if name in data[part]["files"] else {})
        data["digest"] = digest(data["content"])
        (folder / bundle.MANIFEST).write_text(json.dumps(data))
        return folder, False
    return folder, not path.is_file() or path.is_symlink() or path.read_bytes() != before


def of_zip(bench: Bench, rng: random.Random) -> tuple[Path, bool]:
    """A damaged zip; what is accepted of it has to be the honest bundle."""
    bench.fresh()
    path = bench.folder / "case" / "b.zip"
    path.write_bytes(mutate_bytes((bench.folder / "honest.zip").read_bytes(), rng))
    try:
        with bundle.opened(path) as found:
            return path, found.digest != bench.manifest["digest"]
    except EdgepvError:
        return path, False


BUNDLES: dict[str, Callable[[Bench, random.Random], tuple[Path, bool]]] = {
    "manifest": of_manifest,
    "manifest's bytes": of_text,
    "file": of_file,
    "zip": of_zip,
}


def try_bundle(bench: Bench, rng: random.Random, kind: str) -> str:
    """What came of one mutated bundle."""
    path, covered = BUNDLES[kind](bench, rng)
    beside = path.parent
    words, checks = rng.choice(
        [
            (["verify", str(path)], True),
            (["verify", str(path), "--key", str(bench.key)], True),
            (["verify", str(path), "--key", str(bench.key)], True),
            (["update", str(beside / "root"), str(path)], True),
            (["inspect", str(path)], False),
            (["inspect", str(path), "--json"], False),
            (["report", str(path), "--html", str(beside / "page.html")], False),
            (["open", str(path)], True),
            (["ladder", str(bench.honest), str(path), "--out", str(beside / "out")], False),
        ]
    )
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = try_open(path) if words[0] == "open" else command(words)
    if code not in CODES or "internal error" in err.getvalue() or "Traceback" in err.getvalue():
        return f"internal error: {' '.join(words[:1])} {code} {err.getvalue()[-300:]}"
    if outside := [p for p in bench.folder.iterdir() if p.name not in KNOWN]:
        return f"written outside: {outside[0]}"
    if code == 0 and ((covered and checks) or ("--key" in words and changed(bench, path))):
        return f"silent acceptance: {' '.join(words[:1])}"
    return "refused" if code else "accepted"


KNOWN = {"honest", "case", "maker.pem", "maker.pub.pem", "honest.zip"}


def changed(bench: Bench, path: Path) -> bool:
    """Whether any file of the bundle is not as it was signed."""
    with bundle.unpacked(path) as folder:
        names = [p.relative_to(bench.honest) for p in bench.honest.rglob("*") if p.is_file()]
        return any((folder / n).read_bytes() != (bench.honest / n).read_bytes() for n in names)


def try_open(path: Path) -> int:
    """Open a bundle in Python and answer one frame."""
    try:
        with edgepv.open(path) as session:
            session.step(np.zeros((8, 8, 3), np.uint8))
    except EdgepvError as e:
        return e.exit_code
    return 0


def try_rules(bench: Bench, rng: random.Random, kind: str) -> str:
    """What came of a mutated rules file."""
    path = bench.folder / "case" / "rules.toml"
    bench.fresh()
    text = (ROOT / "examples" / "alarm.toml").read_bytes()
    path.write_bytes(mutate_bytes(text, rng))
    try:
        read_rules(path)
    except EdgepvError:
        return "refused"
    return "accepted"


def try_model(bench: Bench, rng: random.Random, kind: str) -> str:
    """What the walk before an engine makes of a mutated model; no engine is asked."""
    walk, data = models()[kind]
    try:
        walk(mutate_bytes(data, rng))
    except EdgepvError:
        return "refused"
    return "accepted"


def models() -> dict[str, tuple[Callable[[bytes], None], bytes]]:
    """Format -> (the walk, the bytes of a small model)."""
    from onnx import numpy_helper
    from test_vet import XML, add, flatbuffer, model

    weights = (numpy_helper.from_array(np.zeros(4, np.float32), "w"),)
    return {
        "onnx": (lambda data: vet_onnx(data, "m.onnx"), model(add(), weights=weights).SerializeToString()),
        "xml": (lambda data: vet_openvino(data, "m.xml", 16), XML.encode()),
        "tflite": (lambda data: vet_tflite(data, "m.tflite"), flatbuffer()),
    }


KINDS: dict[str, tuple[int, Callable[[Bench, random.Random, str], str]]] = {
    "manifest": (8, try_bundle),
    "manifest's bytes": (3, try_bundle),
    "file": (3, try_bundle),
    "zip": (4, try_bundle),
    "rules": (2, try_rules),
    "onnx": (1, try_model),
    "xml": (1, try_model),
    "tflite": (1, try_model),
}
"""Kind -> (its share of the cases, what tries one)."""


def try_case(bench: Bench, seed: int, number: int) -> tuple[str, str]:
    """(kind, what came of it) of one case."""
    rng = random.Random(f"{seed}-{number}")
    kind = rng.choices(list(KINDS), [share for share, _ in KINDS.values()])[0]
    try:
        return kind, KINDS[kind][1](bench, rng, kind)
    except (Exception, SystemExit):
        return kind, f"internal error: {traceback.format_exc()[-600:]}"


@contextlib.contextmanager
def in_one_process() -> Any:
    """Replays run here: the null engine cannot crash, and a process for each would take half a second."""
    rooms = [vars(module) for module in (golden, self_test)]
    calls = [room["call"] for room in rooms]
    for room in rooms:
        room["call"] = in_this_process
    try:
        yield
    finally:
        for room, honest in zip(rooms, calls):
            room["call"] = honest


def work(seed: int, first: int, last: int) -> None:
    """The worker: one line of JSON on stdout for every case."""
    lines = os.fdopen(os.dup(1), "w")
    with tempfile.TemporaryDirectory(prefix="edgepv-fuzz-") as folder, in_one_process():
        os.fsync = lambda fd: None  # nothing here has to outlive a power cut
        bench = Bench(Path(folder))
        for number in range(first, last):
            print(json.dumps([number, *try_case(bench, seed, number)]), file=lines, flush=True)


def supervise(seed: int, first: int, last: int, note: Callable[[int, str, str], None]) -> None:
    """Have workers do the cases; one that ends or goes silent is followed by another.

    A case that is silent for HANG_S is tried once more, alone and for longer: the machine may have been busy.
    """
    number, patience = first, HANG_S
    while number < last:
        order = [sys.executable, __file__, "--worker", str(seed), str(number), str(last)]
        with subprocess.Popen(order, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as worker:
            assert worker.stdout
            wait = START_S + patience
            while number < last:
                ready, _, _ = select.select([worker.stdout], [], [], wait)
                line = worker.stdout.readline() if ready else b""
                if not line:
                    worker.kill()
                    break
                found, kind, came = json.loads(line)
                note(found, kind, came)
                number, patience, wait = found + 1, HANG_S, HANG_S
            else:
                return
        if not ready and patience == HANG_S:
            patience = AGAIN_S
            continue
        note(number, "any", "hang" if not ready else f"signal: exit code {worker.returncode}")
        number, patience = number + 1, HANG_S


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1000, help="cases in all, with those done (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--worker", type=int, nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(*args.worker)
        return 0
    runs: dict[str, Any] = json.loads(args.out.read_text()) if args.out.is_file() else {}
    name, fresh = f"seed {args.seed}", {**now(), "n": 0, "kinds": {}, "faults": []}
    old = runs.get(name, {})
    state: dict[str, Any] = old if old.get("commit") == fresh["commit"] else fresh
    runs[name] = state

    def note(number: int, kind: str, came: str) -> None:
        what, _, more = came.partition(":")
        counts = Counter(state["kinds"].get(kind, {}))
        counts[what] += 1
        state["kinds"][kind] = dict(counts)
        state["n"] = number + 1
        if what not in ("refused", "accepted") and len(state["faults"]) < MOST_FAULTS:
            state["faults"].append({"case": number, "kind": kind, "what": what, "more": more.strip()})
        if number % 200 == 199:
            write_json(args.out, runs)

    supervise(args.seed, state["n"], args.n, note)
    write_json(args.out, runs)
    print(json.dumps(state["kinds"], indent=1))
    return int(bool(state["faults"]))


if __name__ == "__main__":
    sys.exit(main())
