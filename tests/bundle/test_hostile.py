"""What a hostile bundle can do to its reader: one line, in time, nothing before its signature was checked."""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from null_bundle import write_null_bundle

from edgepv import bundle
from edgepv.base.files import digest, parse_json
from edgepv.bundle import archive, manifest, signing
from edgepv.cli.app import main
from edgepv.device import slots
from edgepv.errors import UsageError

FOR_EVER = "1e999999999"
"""As a fraction: a number of 10^9 digits, which took hours to write out."""


def spoil(folder: Path, change: Callable[[Any], None]) -> Path:
    """The bundle with another manifest, and a digest that fits it: anyone can write both."""
    path = folder / bundle.MANIFEST
    data = json.loads(path.read_text())
    change(data)
    data["digest"] = digest(data["content"])
    path.write_text(json.dumps(data))
    return folder


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    pytest.importorskip("cryptography")
    return tmp_path / "maker.pem", signing.keygen(tmp_path / "maker.pem")


@pytest.mark.parametrize(
    "command",
    [
        ["verify", "BUNDLE", "--key", "KEY"],
        ["run", "BUNDLE", "--source", "x.mp4", "--require-signature", "--key", "KEY"],
        ["run", "BUNDLE", "--source", "x.mp4", "--live", "--require-signature", "--key", "KEY"],
        ["update", "ROOT", "BUNDLE", "--key", "KEY"],
    ],
)
def test_nothing_is_parsed_before_the_signature(
    command: list[str], tmp_path: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A manifest that is not even JSON, beside a signature of another: 9, not 2."""
    folder = write_null_bundle(tmp_path / "b")
    signing.sign(folder, keys[0])
    (folder / bundle.MANIFEST).write_bytes(b"[" * 100_000)
    places = {"BUNDLE": str(folder), "KEY": str(keys[1]), "ROOT": str(tmp_path / "device")}
    assert main([places.get(word, word) for word in command]) == 9
    assert "is not what key" in capsys.readouterr().err


@pytest.mark.parametrize("value", [FOR_EVER, f"-{FOR_EVER}", "1/" + "9" * 5000, "9" * 5000, "1/0", "nan", ""])
def test_a_number_that_takes_for_ever_is_refused_at_once(value: str, tmp_path: Path) -> None:
    folder = spoil(write_null_bundle(tmp_path / "b"), lambda d: d["content"]["spec"].update(fps=value))
    with pytest.raises(UsageError, match="fps: expected a number or 'n/d'"):
        bundle.read(folder)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"[" * 200 + b"]" * 200, "more than 100 lists or tables in each other"),
        (b'{"a": ' * 200 + b"1" + b"}" * 200, "more than 100 lists or tables in each other"),
        (b"[" * 1_000_000, "not valid JSON"),
        (b"[" + b"9" * 4000 + b"]", "a whole number of 4000 digits"),
        (b'{"a": 1, "a": 2}', "key 'a' is there twice"),
        (b'"\\ud800"', "surrogates not allowed"),
        (b'{"\\udfff": 1}', "surrogates not allowed"),
        (b"\xff", "can't decode"),
    ],
)
def test_json_that_no_reader_can_hold_is_one_line(text: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        parse_json(text, tmp_path / "x.json")
    assert len(str(caught.value)) < 400


def test_text_beyond_ascii_is_read_as_it_is(tmp_path: Path) -> None:
    assert parse_json('["é", "\\ud83d\\ude00", -0.0, 1e400]'.encode(), tmp_path)[:2] == ["é", "\U0001f600"]


def test_a_manifest_beyond_its_size_is_not_parsed(tmp_path: Path) -> None:
    folder = write_null_bundle(tmp_path / "b")
    with (folder / bundle.MANIFEST).open("ab") as f:
        f.write(b" " * manifest.MOST_MANIFEST)
    with pytest.raises(UsageError, match=r"manifest\.json is larger than 4194304 bytes"):
        bundle.read(folder)


def states(**values: Any) -> Callable[[Any], None]:
    state = {"name": "s", "output": "t", "shape": [1, 4], **values}
    stream = {"states": [state], "warmup": 1}

    def change(data: Any) -> None:
        (variant,) = data["content"]["variants"]
        variant["spec"]["input"] = {"name": "clip", "shape": [1, 3, 8, 8], "layout": "NCHW"}
        variant.update(stream=stream, inputs={"clip": "c", "s": "s"}, outputs={"logits": "l", "t": "t"})

    return change


@pytest.mark.parametrize(
    "change",
    [
        states(period=1 << 40),
        states(fresh=1 << 40),
        states(fresh=4096, update="shift", shape=[1, 1 << 19]),
        states(first=1 << 40),
        states(shape=[]),
        states(shape=[1] * 9),
        states(shape=[0, 1]),
        states(shape=[1 << 40]),
        lambda d: (states()(d), d["content"]["variants"][0]["stream"].update(warmup=1 << 40)),
        lambda d: (states()(d), d["content"]["variants"][0]["stream"].update(delay=1 << 40)),
    ],
)
def test_states_that_no_camera_can_carry_are_refused(change: Callable[[Any], None], tmp_path: Path) -> None:
    honest = spoil(write_null_bundle(tmp_path / "honest"), states())
    assert bundle.read(honest).content.variants[0].stream
    with pytest.raises(UsageError, match="make no sense"):
        bundle.read(spoil(write_null_bundle(tmp_path / "b"), change))


def variant(**values: Any) -> Callable[[Any], None]:
    return lambda d: d["content"]["variants"][0].update(values)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (variant(inputs={}), "inputs of null: unknown tensor 'clip'"),
        (variant(inputs={"clip": "a", "b": "b"}), "inputs of null: unknown tensor 'b'"),
        (variant(outputs={"x": "y"}), "outputs of null: unknown tensor"),
        (lambda d: d["content"].update(target="cpu"), "the bundle is for target cpu"),
        (lambda d: d["content"]["spec"]["input"].update(dtype="float128"), "unknown value 'float128'"),
        (lambda d: d["content"]["spec"]["input"].update(shape=[]), "does not fit layout"),
        (
            lambda d: d["content"]["spec"].update(outputs=[{"name": "logits", "shape": []}]),
            "none that a model can give",
        ),
        (lambda d: d["measured"].update(status=float("1e400")), "expected a str, got inf"),
    ],
)
def test_what_a_manifest_cannot_mean_is_one_line(
    change: Callable[[Any], None], why: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=why):
        bundle.read(spoil(write_null_bundle(tmp_path / "b"), change))


@pytest.mark.parametrize("delays", ["[-1]", "[1e400]", "[1e12]", "{}", "[null]", "[NaN]", "3", "x"])
def test_the_null_engine_waits_no_longer_than_a_minute(delays: str, tmp_path: Path) -> None:
    found = bundle.read(write_null_bundle(tmp_path / "b", delays_ms=delays))
    with pytest.raises(UsageError, match=r"delays\.json"):
        from edgepv.runtimes import open_engine

        open_engine(found.variant(), found.checked)


def test_a_report_does_not_wait_for_a_pipe_of_its_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "measured.json")
    assert main(["report", str(tmp_path), "--html", str(tmp_path / "page.html")]) == 2


def zipped(path: Path, entries: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def lying_about_its_size(path: Path) -> Path:
    """A zip whose one entry unpacks to 3 MiB and says that it has 10 bytes."""
    data = bytearray(zipped(path, {"a": bytes(3 << 20)}).read_bytes())
    for mark, place in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        struct.pack_into("<I", data, data.index(mark) + place, 10)
    path.write_bytes(data)
    return path


def without_a_name(path: Path) -> Path:
    """A zip whose one entry is called by what stands before a NUL: nothing."""
    path.write_bytes(zipped(path, {"name": b"x"}).read_bytes().replace(b"name", b"\0ame"))
    return path


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda p: zipped(p, {f"f{i}": b"" for i in range(4097)}), "more than 4096 files"),
        (lambda p: zipped(p, {"a": b"x"}, zipfile.ZIP_LZMA), "compressed in a way that no bundle is"),
        (lambda p: zipped(p, {"a": b"x"}, zipfile.ZIP_BZIP2), "compressed in a way that no bundle is"),
        (lambda p: zipped(p, {"a/../../b": b"x"}), "leaves the bundle"),
        (lambda p: zipped(p, {"a/.hidden": b"x"}), "a part of the path"),
        (lambda p: zipped(p, {"a": b"x", "a/b": b"y"}), "not a whole zip file"),
        (lying_about_its_size, "not a whole zip file"),
        (without_a_name, "leaves the bundle"),
        (lambda p: zipped(p, {"x" * 60_000 + str(i): b"" for i in range(80)}), "larger than any bundle's"),
    ],
)
def test_a_zip_beyond_what_a_bundle_may_be_is_refused(
    make: Callable[[Path], Path], why: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=why), bundle.opened(make(tmp_path / "b.zip")):
        pass


def test_what_a_zip_unpacks_to_is_counted_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MOST_BYTES", 1 << 20)
    path = zipped(tmp_path / "b.zip", {f"f{i}": bytes(1 << 19) for i in range(3)})
    with pytest.raises(UsageError, match="unpacks to more than"), bundle.opened(path):
        pass


SMALL_ORDER = [
    "00" * 32,
    "01" + "00" * 31,
    "ec" + "ff" * 30 + "7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "ed" + "ff" * 30 + "7f",
    "ee" + "ff" * 30 + "ff",
]
"""The points of order 1, 2, 4 and 8, two of them written in a second way. Source: libsodium's list."""


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_a_key_for_which_anyone_can_sign_is_refused(point: str, tmp_path: Path) -> None:
    assert signing.small_order(bytes.fromhex(point))


def test_honest_keys_are_not_of_small_order(keys: tuple[Path, Path]) -> None:
    from cryptography.hazmat.primitives.asymmetric import ed25519

    for _ in range(20):
        assert not signing.small_order(ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw())


ENGINE = """
import os, time
__version__ = "0"

def get_available_providers():
    return ["CPUExecutionProvider"]

class RunOptions:
    pass

class SessionOptions:
    def __init__(self):
        {what}
"""


@pytest.fixture
def broken_engine(
    step_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    """A copy of a whole bundle on a machine whose ONNX Runtime does ``what`` when a model is opened."""

    def make(what: str) -> Path:
        package = tmp_path / "onnxruntime"
        package.mkdir()
        (package / "__init__.py").write_text(ENGINE.format(what=what))
        monkeypatch.syspath_prepend(str(tmp_path))
        return Path(shutil.copytree(step_bundle, tmp_path / "b"))

    return make


@pytest.mark.parametrize("command", ["verify", "update"])
@pytest.mark.parametrize(
    ("what", "code", "says"),
    [
        ("os.kill(os.getpid(), 11)", 13, "the process crashed with SIGSEGV"),
        ("time.sleep(60)", 13, "did not finish within 2 s and was stopped"),
        ("raise ZeroDivisionError('inside')", 5, "ZeroDivisionError: inside"),
    ],
)
def test_an_engine_that_crashes_hangs_or_breaks_is_one_line(
    command: str,
    what: str,
    code: int,
    says: str,
    broken_engine: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = {"verify": ["verify"], "update": ["update", str(tmp_path / "device")]}[command]
    begun = time.monotonic()
    found = main([*words, str(broken_engine(what)), *(["--timeout", "2"] if "sleep" in what else [])])
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("edgepv: ")]
    assert (found, len(lines)) == (code, 1) and says in lines[0]
    assert time.monotonic() - begun < 50
    if command == "update":
        (outcome,) = slots.read_state(tmp_path / "device").history
        assert outcome.what == "refused" and not (tmp_path / "device" / "slots" / ".new").exists()


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_a_timeout_that_is_none_is_named(seconds: str, tmp_path: Path) -> None:
    assert main(["verify", str(write_null_bundle(tmp_path / "b")), "--timeout", seconds]) == 2
