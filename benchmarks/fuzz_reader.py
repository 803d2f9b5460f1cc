"""libFuzzer on the readers of libedgepv-engine: ``python benchmarks/fuzz_reader.py --runs 10000000``.

Builds fuzz_reader.c and the readers with clang, AddressSanitizer and UndefinedBehaviorSanitizer, writes seeds
(manifests of several kinds of states, ONNX files with and without weights elsewhere) and a dictionary of a
manifest's keys, and lets libFuzzer change them. Writes fuzz_reader.json; a finding ends it with its report.
A faulty input lies in the folder it names: ``fuzz_reader INPUT`` shows it again.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]

from engine_bundle import KINDS, net, write_bundle  # noqa: E402
from measured_at import now  # noqa: E402

from edgepv.base.files import write_json  # noqa: E402
from edgepv.base.machine import device_facts  # noqa: E402
from edgepv.types import StateSpec, encode  # noqa: E402

HERE = Path(__file__).resolve().parent
OUT = HERE / "fuzz_reader.json"
FIRMWARE = ROOT / "edgepv" / "firmware"
LONGEST = 8192  # bytes of an input; a manifest of a tiny net has 3 to 5 thousand
HANG_S = 10  # of one input
MOST_MIB = 1024  # of memory, for one input
FLAGS = ("-g", "-O1", "-std=c99", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all")


def build(out: Path) -> None:
    """The fuzzer as a program. Raises CalledProcessError if it does not compile."""
    sources = [HERE / "fuzz_reader.c", FIRMWARE / "c" / "edgepv_core.c", *(FIRMWARE / "engine").glob("*.c")]
    folders = [f"-I{FIRMWARE / 'c'}", f"-I{FIRMWARE / 'engine'}"]
    command = ["clang", *FLAGS, *folders, *map(str, sources), "-lsodium", "-ldl", "-lm", "-o", str(out)]
    subprocess.run(command, check=True)


def write_seeds(folder: Path, dictionary: Path) -> None:
    """One file for each seed, and the words that they are made of."""
    manifests = []
    with tempfile.TemporaryDirectory() as tmp:
        for i, kind in enumerate(KINDS.values()):
            state = StateSpec("s", "t", **kind)
            manifests.append(write_bundle(Path(tmp) / str(i), (state,)) / "manifest.json")
        manifests.append(write_bundle(Path(tmp) / "clip", frames=3) / "manifest.json")
        texts = [json.dumps(json.loads(path.read_text()), separators=(",", ":")) for path in manifests]
    for i, text in enumerate(texts):
        (folder / f"manifest-{i}").write_bytes(b"M" + text.encode())
    model = net((1, 3, 4, 6), (StateSpec("s", "t", (1, 2)),))
    (folder / "onnx").write_bytes(b"O" + model)
    (folder / "onnx-elsewhere").write_bytes(b"O" + _elsewhere(model))
    (folder / "tflite").write_bytes(b"T\x14\0\0\0TFL3" + bytes(8) + b"\x04\0\x04\0\x04\0\0\0" + bytes(40))
    words = sorted({w for text in texts for w in re.findall(r'"[a-zA-Z0-9_.]+"', text)})
    escaped = [w.replace('"', '\\"') for w in words]
    extra = [
        r"\\u0000",
        r"\\ud83d\\ude00",
        "1e400",
        "9223372036854775807",
        "NaN",
        "null",
        "TFL3",
        "EPContext",
    ]
    dictionary.write_text("".join(f'"{w}"\n' for w in [*escaped, *extra]))


def _elsewhere(model: bytes) -> bytes:
    """The same ONNX file with the values of its first constant in another file."""
    import onnx

    found = onnx.load_from_string(model)
    tensor = found.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    data: bytes = found.SerializeToString()
    return data


def fuzz(runs: int, seconds: int, seed: int) -> dict[str, Any]:
    """What so many inputs gave, or those of so many seconds; 0: no limit.

    Raises SystemExit with libFuzzer's report for the first that is a fault.
    """
    with tempfile.TemporaryDirectory() as tmp:
        program, corpus, seeds = Path(tmp) / "fuzz_reader", Path(tmp) / "corpus", Path(tmp) / "seeds"
        corpus.mkdir()
        seeds.mkdir()
        build(program)
        write_seeds(seeds, Path(tmp) / "words")
        options = {
            "runs": runs or -1,
            "max_total_time": seconds,
            "seed": seed,
            "max_len": LONGEST,
            "timeout": HANG_S,
            "rss_limit_mb": MOST_MIB,
        }
        command = [str(program), *(f"-{key}={value}" for key, value in options.items())]
        command += [f"-dict={Path(tmp) / 'words'}", f"-artifact_prefix={HERE}/", str(corpus), str(seeds)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        found = re.search(r"Done (\d+) runs in (\d+) second", done.stderr)
        if done.returncode or not found:
            raise SystemExit(done.stderr[-8000:])
        cover = re.findall(r"cov: (\d+)", done.stderr)
        return {
            "inputs": int(found[1]),
            "findings": 0,
            "corpus": len(list(corpus.iterdir())),
            "edges": int(cover[-1]),
        }


def main() -> None:
    """Fuzz, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs; 0: no limit")
    parser.add_argument("--seconds", type=int, default=0, help="end after so many seconds; 0: no limit")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    if not options.runs and not options.seconds:
        parser.error("--runs 0 and --seconds 0 would never end: give one of them")
    about = {"measured_at": now(), "device": encode(device_facts()), "seed": options.seed}
    write_json(options.out, {**about, **fuzz(options.runs, options.seconds, options.seed)})


if __name__ == "__main__":
    main()
