"""What a hostile bundle can do to its reader in C: one line, the right status, nothing unsigned read."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_bundle import write_bundle, write_tracker
from engine_replay import Replay, build, library
from support import ROOT

from edgepv import bundle
from edgepv.base.files import digest, sha256
from edgepv.bundle import signing
from edgepv.errors import UsageError
from edgepv.types import StateSpec

pytestmark = pytest.mark.slow
OK, INPUT, ENGINE, SIGNATURE = 0, 2, 7, 9
STATE = StateSpec("s", "t", (3, 4), update="shift")
Change = Callable[[Any], object]


@pytest.fixture(scope="session")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Replay:
    """With AddressSanitizer and UndefinedBehaviorSanitizer: what they find ends it with another code."""
    return build("sanitized", tmp_path_factory)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "b", (STATE,))


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    pytest.importorskip("cryptography")
    return tmp_path / "maker.pem", signing.keygen(tmp_path / "maker.pem")


def refused(replay: Replay, place: Path, status: int, says: str, *words: object) -> None:
    """That it ends with the status and one line."""
    done = replay.open(place, *(words or ("-", library("onnxruntime"))))  # type: ignore[arg-type]
    assert (done.returncode, len(done.stderr.splitlines())) == (status, 1), done.stderr
    assert says in done.stderr and len(done.stderr) < 256


def spoil(place: Path, change: Change) -> Path:
    """The bundle with another manifest, and a digest that fits it: anyone can write both."""
    path = place / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    data["digest"] = digest(data["content"])
    path.write_text(json.dumps(data))
    return place


def variant(**values: Any) -> Change:
    return lambda d: d["content"]["variants"][0].update(values)


def spec(**values: Any) -> Change:
    return lambda d: d["content"]["variants"][0]["spec"].update(values)


def fed(**values: Any) -> Change:
    return lambda d: d["content"]["variants"][0]["spec"]["input"].update(values)


def stream(**values: Any) -> Change:
    return lambda d: d["content"]["variants"][0]["stream"].update(values)


def state(**values: Any) -> Change:
    return lambda d: d["content"]["variants"][0]["stream"]["states"][0].update(values)


def both(one: Change, other: Change) -> Change:
    return lambda d: (one(d), other(d))


def twice(d: Any) -> None:
    d["content"]["variants"].append(d["content"]["variants"][0])


def test_an_honest_bundle_is_opened(replay: Replay, place: Path) -> None:
    assert replay.open(place, "-", library("onnxruntime")).returncode == OK
    assert replay.open(place, "onnxruntime-fp32", library("onnxruntime")).returncode == OK


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b'{"schema": 1',
        b"[" * 1_000_000,
        b"[" * 200 + b"]" * 200,
        b'{"a": ' * 200 + b"1" + b"}" * 200,
        b"[" + b"9" * 4000 + b"]",
        b"[01]",
        b"[1,]",
        b'{"a" 1}',
        b'"\\ud800"',
        b'{"\\udfff": 1}',
        b'"\\u00g0"',
        b'"\xff"',
        b'"\xc0\xaf"',
        b'"\xed\xa0\x80"',
        b'"\xf5\x80\x80\x80"',
        b'"a\nb"',
        b"nul",
        b"{} {}",
    ],
)
def test_what_is_no_json_is_one_line(text: bytes, replay: Replay, place: Path) -> None:
    (place / "manifest.json").write_bytes(text)
    with pytest.raises(UsageError):
        bundle.read(place)
    refused(replay, place, INPUT, "manifest.json is not valid JSON")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(schema=2), "another schema"),
        (lambda d: d.update(schema="1"), "another schema"),
        (lambda d: d.pop("measured"), "measured is missing"),
        (lambda d: d["content"].update(name="../b"), "cannot name a file"),
        (lambda d: d["content"].update(variants=[]), "no variant"),
        (lambda d: d["measured"].update(run=[]), "is no name"),
        (twice, "is there twice"),
        (variant(name=".."), "cannot name a file"),
        (variant(name="a\x85b"), "cannot name a file"),
        (variant(name="x" * 5000), "is no name"),
        (variant(path="../../etc/passwd"), "has no digest in files"),
        (variant(inputs={}), "has no name in the model's file"),
        (variant(inputs={"clip": "clip", "s": "s", "b": "b"}), "is no input of the model"),
        (variant(outputs={"logits": "logits"}), "has no name in the model's file"),
        (spec(fps="1e999999999"), "is no frame rate"),
        (spec(fps="1/" + "9" * 5000), "is no frame rate"),
        (spec(fps="1/0"), "is no frame rate"),
        (spec(fps="nan"), "is no frame rate"),
        (spec(fps=""), "is no frame rate"),
        (spec(std=[0, 1, 1]), "out of its range"),
        (spec(std=[1, 1]), "do not fit its channels"),
        (spec(mean=[float("nan")] * 3), "out of its range"),
        (spec(colour="cmyk"), "does not know"),
        (spec(before=3), "before is no list or table"),
        (spec(labels=[]), "labels are not those of its answer"),
        (spec(labels=["a"] * 70_000), "more than any bundle"),
        (spec(labels=["a\x00b", "c", "d"]), "is no name"),
        (fed(dtype="float128"), "does not know"),
        (fed(shape=[]), "makes no sense"),
        (fed(shape=[1, 3, 4]), "not of its layout"),
        (fed(shape=[1, 3, 1 << 40, 6]), "no sense"),
        (spec(outputs=[{"name": "logits", "shape": []}]), "makes no sense"),
        (stream(warmup=1 << 40), "warmup is no whole number"),
        (stream(delay=1 << 40), "delay is no whole number"),
        (stream(chunk=0), "chunk is no whole number"),
        (state(period=1 << 40), "period is no whole number"),
        (state(fresh=1 << 40), "fresh is no whole number"),
        (state(first=-1), "first is no whole number"),
        (state(fresh=4096, shape=[1, 1 << 19]), "larger than a camera can carry"),
        (state(shape=[]), "makes no sense"),
        (state(shape=[1] * 9), "more than any bundle"),
        (state(shape=[0, 1]), "makes no sense"),
        (state(shape=[1 << 40]), "makes no sense"),
        (state(shape=[1 << 30, 1 << 30]), "makes no sense"),
        (both(state(name="clip"), variant(inputs={"clip": "clip"})), "name of a state and of the input"),
    ],
)
def test_what_a_manifest_cannot_mean_is_one_line(
    change: Change, says: str, replay: Replay, place: Path
) -> None:
    """And what C refuses Python refuses too: no bundle is good for the one and bad for the other."""
    spoil(place, change)
    with pytest.raises(UsageError):
        bundle.read(place).checked(bundle.read(place).variant().path)
    refused(replay, place, ENGINE if says == "no variant" else INPUT, says)


def test_a_chain_before_the_model_is_refused_by_c_and_taken_by_python(replay: Replay, place: Path) -> None:
    """A frame that C prepared would be another one than the model was judged on."""
    spoil(place, spec(before=["clahe"]))
    assert bundle.read(place).variant().spec.before == ("clahe",)
    refused(replay, place, INPUT, "before is a chain that the C engine has not; edgepv run has it")
    assert replay.open(spoil(place, spec(before=[])), "-", library("onnxruntime")).returncode == OK


@pytest.mark.parametrize(
    "change",
    [
        spec(particles=5),
        spec(outputs=[{"name": "tracks", "shape": [1, 12]}]),
        state(name="place"),
        state(shape=[1, 4, 3]),
    ],
)
def test_a_tracker_that_is_none_is_refused(change: Change, replay: Replay, tmp_path: Path) -> None:
    place = write_tracker(tmp_path / "b")
    assert replay.open(place, "-", library("onnxruntime")).returncode == OK
    refused(replay, spoil(place, change), INPUT, "not the states and the answer of a tracker")


def test_a_state_may_begin_with_infinity_but_not_with_nothing(replay: Replay, place: Path) -> None:
    """As that of a maximum does, before a frame was seen."""
    spoil(place, state(init=float("-inf")))
    assert replay.open(place, "-", library("onnxruntime")).returncode == OK
    for value in (float("nan"), "0", True):
        refused(replay, spoil(place, state(init=value)), INPUT, "s has no number as init")
    refused(replay, spoil(place, state(init=float("inf"), dtype="int8")), INPUT, "does not write in its type")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"schema": 1', '"schema": 1, "schema": 1'),
        ('"warmup": 2', '"warmup": 2, "warmup": 1'),
        ('"warmup": 2', '"warmup": 2, "w\\u0061rmup": 1'),
        ('"update": "shift"', '"update": "shift", "update": "replace"'),
        ('"path": ', '"path": "x", "path": '),
    ],
)
def test_a_key_that_is_there_twice_is_refused(old: str, new: str, replay: Replay, place: Path) -> None:
    path = place / "manifest.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UsageError):
        bundle.read(place)
    refused(replay, place, INPUT, "schema" if "schema" in old else "is there twice")


def test_a_manifest_beyond_its_size_is_not_read(replay: Replay, place: Path) -> None:
    with (place / "manifest.json").open("ab") as f:
        f.write(b" " * bundle.manifest.MOST_MANIFEST)
    refused(replay, place, INPUT, "manifest.json is larger than 4194304 bytes")


def test_what_is_no_plain_file_is_not_opened(replay: Replay, place: Path, tmp_path: Path) -> None:
    model, manifest = place / "models" / "model.onnx", place / "manifest.json"
    for path in (model, manifest):
        path.rename(tmp_path / "kept")
        path.symlink_to(tmp_path / "kept")
        refused(replay, place, INPUT, "cannot be opened")
        path.unlink()
        os.mkfifo(path)
        refused(replay, place, INPUT, "is a link or no plain file")
        path.unlink()
        path.mkdir()
        refused(replay, place, INPUT, "no plain file")
        path.rmdir()
        refused(replay, place, INPUT, "cannot be opened (No such file")
        (tmp_path / "kept").rename(path)
    (place / "models").rename(tmp_path / "models")
    (place / "models").symlink_to(tmp_path / "models")
    refused(replay, place, INPUT, "cannot be opened")


def test_a_zip_and_what_is_not_there_are_told_apart(replay: Replay, place: Path, tmp_path: Path) -> None:
    packed = shutil.make_archive(str(tmp_path / "b"), "zip", place)
    refused(replay, Path(packed), INPUT, "is no folder. Unpack a bundle's zip first")
    refused(replay, tmp_path / "nowhere", INPUT, "does not exist")


def test_a_changed_model_is_not_opened(replay: Replay, place: Path) -> None:
    path = place / "models" / "model.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    refused(replay, place, INPUT, "its SHA-256 differs")


def with_model(place: Path, model: bytes) -> Path:
    """The bundle with another model, and the digest of that."""
    path = place / "models" / "model.onnx"
    path.write_bytes(model)

    def change(d: Any) -> None:
        d["content"]["files"]["models/model.onnx"] = sha256(path)

    return spoil(place, change)


def elsewhere(data: bytes, deep: bool = False) -> bytes:
    """The net with weights in another file; deep: only inside of a graph of a node."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load_from_string(data)
    tensor = TensorProto(name="w", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../etc/passwd")
    if deep:
        graph = helper.make_graph([], "inner", [], [], [tensor])
        model.graph.node.add(op_type="If").attribute.append(helper.make_attribute("then_branch", graph))
    else:
        model.graph.initializer.append(tensor)
    found: bytes = model.SerializeToString()
    return found


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (elsewhere, "keeps its weights in another file"),
        (lambda m: elsewhere(m, deep=True), "keeps its weights in another file"),
        (lambda m: m.replace(b"MatMul", b"MatMu\x80")[:-3], "no protobuf, or truncated"),
        (lambda m: m + b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "no protobuf, or truncated"),
        (lambda m: m + b"\x3d" + bytes(4), "no ONNX message"),
        (lambda m: m[:4] + b"ORTM" + m[8:], "it is a flatbuffer"),
        (lambda m: m + b"\x3a\x0d\x0a\x0b\x22\x09EPContext", "an EPContext node names another file"),
    ],
)
def test_a_model_that_reads_elsewhere_is_not_given_to_its_engine(
    make: Callable[[bytes], bytes], says: str, replay: Replay, place: Path
) -> None:
    from edgepv.base.vet import vet_onnx

    model = make((place / "models" / "model.onnx").read_bytes())
    with pytest.raises(UsageError):
        vet_onnx(model, "model.onnx")
    refused(replay, with_model(place, model), INPUT, says)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (b"x" * 100, "it is no TFLite flatbuffer"),
        (b"\xff\xff\xff\x7fTFL3" + bytes(40), "it is no TFLite flatbuffer"),
        (
            b"\x1e\0\0\0TFL3" + b"\x16\0\x08\0" + bytes(16) + b"\x04\0" + b"\x16\0\0\0" + bytes(8),
            "another file",
        ),
    ],
)
def test_a_tflite_file_is_looked_at_too(model: bytes, says: str, replay: Replay, place: Path) -> None:
    with_model(place, model)
    spoil(place, variant(engine="litert"))
    refused(replay, place, INPUT, says, "-", library("litert"))


def test_a_file_that_its_engine_refuses_is_one_line(replay: Replay, place: Path) -> None:
    refused(replay, with_model(place, b""), ENGINE, "ONNX Runtime cannot load models/model.onnx: ")


@pytest.mark.parametrize(
    "change",
    [
        state(shape=[3, 5]),
        state(dtype="int32"),
        variant(inputs={"clip": "clip", "s": "q"}),
        variant(outputs={"logits": "logits", "t": "q"}),
    ],
)
def test_a_file_of_other_tensors_than_the_manifest_says_is_refused(
    change: Change, replay: Replay, place: Path
) -> None:
    refused(replay, spoil(place, change), INPUT, "of the type and shape that the manifest says")


def test_an_engine_that_is_not_here_is_told(replay: Replay, place: Path, tmp_path: Path) -> None:
    refused(
        replay, place, ENGINE, "libonnxruntime.so.1 is not found where the system keeps libraries", "-", "-"
    )
    refused(replay, place, ENGINE, "is not found at /nowhere.so", "-", "/nowhere.so")
    refused(replay, place, ENGINE, "or lacks its functions", "-", library("litert"))
    refused(replay, place, INPUT, "has no variant 'other'", "other", library("onnxruntime"))
    spoil(place, variant(engine="openvino"))
    refused(replay, place, ENGINE, "is for engine openvino", "onnxruntime-fp32", library("onnxruntime"))
    refused(replay, place, ENGINE, "no variant for litert or onnxruntime", "-", library("onnxruntime"))


def test_a_good_signature_is_taken(replay: Replay, place: Path, keys: tuple[Path, Path]) -> None:
    signing.sign(place, keys[0])
    assert replay.open(place, "-", library("onnxruntime"), keys[1]).returncode == OK


def test_a_signature_of_schema_1_is_taken(replay: Replay, place: Path, keys: tuple[Path, Path]) -> None:
    from cryptography.hazmat.primitives import serialization

    private = serialization.load_pem_private_key(keys[0].read_bytes(), password=None)
    signed = private.sign(signing.PREFIX + (place / "manifest.json").read_bytes())  # type: ignore[union-attr,call-arg]
    found = {"schema": 1, "algorithm": "ed25519", "key": signing.key_id(private.public_key())}
    (place / "manifest.sig").write_text(json.dumps(found | {"signature": base64.b64encode(signed).decode()}))
    assert signing.verify(place, keys[1]).version == 0
    assert replay.open(place, "-", library("onnxruntime"), keys[1]).returncode == OK


def test_nothing_is_read_before_the_signature(replay: Replay, place: Path, keys: tuple[Path, Path]) -> None:
    signing.sign(place, keys[0])
    (place / "manifest.json").write_bytes(b"[" * 100_000)
    refused(replay, place, SIGNATURE, "manifest.json is not what key", "-", "-", keys[1])


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"version": 0},
        {"version": -1},
        {"version": 1 << 70},
        {"version": "1"},
        {"schema": 1},
        {"schema": 3},
        {"algorithm": "rsa"},
        {"key": "0" * 16},
        {"key": "0" * 5000},
        {"signature": ""},
        {"signature": "A" * 88},
        {"signature": "?" * 88},
        {"signature": None},
    ],
)
def test_a_signature_that_is_none_is_refused(
    change: dict[str, Any], replay: Replay, place: Path, keys: tuple[Path, Path]
) -> None:
    signing.sign(place, keys[0])
    path = place / "manifest.sig"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(replay, place, SIGNATURE, "", "-", library("onnxruntime"), keys[1])


def test_who_signed_counts(replay: Replay, place: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    words = ("-", library("onnxruntime"))
    refused(replay, place, SIGNATURE, "manifest.sig cannot be opened", *words, keys[1])
    signing.sign(place, keys[0])
    other = signing.keygen(tmp_path / "other.pem")
    refused(replay, place, SIGNATURE, "the bundle is signed by key", *words, other)
    refused(replay, place, SIGNATURE, "is no Ed25519 public key in PEM", *words, keys[0])
    refused(replay, place, SIGNATURE, "nowhere.pem", *words, tmp_path / "nowhere.pem")
    os.mkfifo(tmp_path / "pipe.pem")
    refused(replay, place, SIGNATURE, "pipe.pem", *words, tmp_path / "pipe.pem")


@pytest.mark.parametrize("point", ["00" * 32, "01" + "00" * 31, "ec" + "ff" * 30 + "7f"])
def test_a_key_for_which_anyone_can_sign_is_refused(
    point: str, replay: Replay, place: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """With a key of small order the signature (R = the key, S = 0) holds for a part of all texts."""
    key = bytes.fromhex(point)
    der = bytes.fromhex("302a300506032b6570032100") + key
    weak = tmp_path / "weak.pem"
    weak.write_text(
        f"-----BEGIN PUBLIC KEY-----\n{base64.b64encode(der).decode()}\n-----END PUBLIC KEY-----\n"
    )
    found = {"schema": 2, "algorithm": "ed25519", "key": hashlib.sha256(key).hexdigest()[:16]}
    for version in range(1, 9):
        text = base64.b64encode(key + bytes(32)).decode()
        (place / "manifest.sig").write_text(json.dumps(found | {"signature": text, "version": version}))
        refused(replay, place, SIGNATURE, "is not what key", "-", library("onnxruntime"), weak)


def test_names_of_a_manifest_cannot_forge_a_second_line(replay: Replay, place: Path) -> None:
    spoil(place, variant(engine="a\n\x1b[31mb"))
    refused(replay, place, ENGINE, "is for engine a??[31mb", "onnxruntime-fp32", library("onnxruntime"))


def test_libfuzzer_finds_nothing_in_a_minute(tmp_path: Path) -> None:
    """The readers of manifests, ONNX and TFLite files; benchmarks/fuzz_reader.json has millions of inputs."""
    probe = tmp_path / "probe.c"
    probe.write_text(
        "int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { (void)d; (void)n; return 0; }\n"
    )
    flags = ("-fsanitize=fuzzer,address,undefined", "-lsodium", "-o", str(tmp_path / "probe"))
    if not shutil.which("clang"):
        pytest.skip("clang is not installed")
    if subprocess.run(["clang", str(probe), *flags], capture_output=True, check=False).returncode:
        pytest.skip("libFuzzer (libclang-rt-dev) or libsodium-dev is not installed")
    out = tmp_path / "found.json"
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "fuzz_reader.py"),
        *("--runs", "0", "--seconds", "60"),
        "--out",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(out.read_text())
    assert found["inputs"] >= 20_000 and found["findings"] == 0 and found["edges"] > 400
