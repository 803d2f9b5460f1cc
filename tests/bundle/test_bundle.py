"""A bundle is whole, unchanged, stays inside its folder, and its golden answers come back."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from null_bundle import write_null_bundle
from support import in_this_process

from edgepv import bundle
from edgepv.base.files import digest, sha256
from edgepv.bundle import golden
from edgepv.bundle.golden import replay, rmse, tolerance
from edgepv.cli.app import main
from edgepv.errors import ParityError, TargetUnavailableError, UsageError
from edgepv.runtimes import open_session


@pytest.fixture
def copy(step_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(step_bundle, tmp_path / "b"))


def _edit(folder: Path, change: Callable[[Any], None], *, seal: bool) -> None:
    path = folder / bundle.MANIFEST
    data = json.loads(path.read_text())
    change(data)
    if seal:
        data["digest"] = digest(data["content"])
    path.write_text(json.dumps(data))


def test_a_fresh_bundle_passes_every_check(step_bundle: Path) -> None:
    opened = bundle.read(step_bundle)
    assert bundle.check(opened) == len(opened.content.files) + 3
    assert all(r.error is not None and r.error <= r.limit for r in replay(opened) if r.limit)


def test_a_flipped_byte_is_found(copy: Path) -> None:
    model = next((copy / "models").glob("*.onnx"))
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    with pytest.raises(UsageError, match="was changed or is damaged"):
        bundle.check(bundle.read(copy))


def test_a_missing_and_an_extra_file_are_found(copy: Path) -> None:
    (copy / "notes.txt").write_text("hi")
    with pytest.raises(UsageError, match=r"notes.txt is not in the manifest"):
        bundle.check(bundle.read(copy))
    (copy / "notes.txt").unlink()
    (copy / "report.md").unlink()
    with pytest.raises(UsageError, match=r"report.md is missing"):
        bundle.check(bundle.read(copy))


def test_an_edited_manifest_is_found(copy: Path) -> None:
    _edit(copy, lambda d: d["content"]["spec"]["labels"].reverse(), seal=False)
    with pytest.raises(UsageError, match="changed after it was written"):
        bundle.read(copy)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "..\\up", ""])
def test_paths_that_leave_the_bundle_are_refused(copy: Path, name: str) -> None:
    _edit(copy, lambda d: d["content"]["files"].update({name: "0" * 64}), seal=True)
    with pytest.raises(UsageError, match="leaves the bundle"):
        bundle.read(copy)


@pytest.mark.parametrize("name", ["./a", "a//b", "a/.", "a/", "models/.hidden", "a\0b", "a\nb"])
def test_a_path_is_written_in_one_plain_way(copy: Path, name: str) -> None:
    _edit(copy, lambda d: d["content"]["files"].update({name: "0" * 64}), seal=True)
    with pytest.raises(UsageError, match="a part of the path"):
        bundle.read(copy)


def test_a_model_outside_the_digests_is_refused(copy: Path) -> None:
    def drop(data: Any) -> None:
        data["content"]["files"].pop(data["content"]["variants"][0]["path"])

    _edit(copy, drop, seal=True)
    with pytest.raises(UsageError, match="has no digest"):
        bundle.read(copy)


def test_a_link_in_place_of_a_file_is_refused(copy: Path) -> None:
    path = copy / "report.md"
    path.rename(copy.parent / "elsewhere.md")
    path.symlink_to(copy.parent / "elsewhere.md")
    with pytest.raises(UsageError, match="is a link"):
        bundle.check(bundle.read(copy))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema=99), "has schema 99; this edgepv reads 1"),
        (lambda d: d.pop("content"), "has no 'content'"),
        (lambda d: d["content"].pop("spec"), "missing key 'spec'"),
        (lambda d: d["content"].update(colour=1), "unknown key 'colour'"),
    ],
)
def test_another_schema_is_named(copy: Path, change: Callable[[Any], None], message: str) -> None:
    _edit(copy, change, seal=False)
    with pytest.raises(UsageError, match=message):
        bundle.read(copy)


def test_the_zip_is_the_same_bundle_and_equal_every_time(step_bundle: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "1.zip", tmp_path / "2.zip"
    bundle.zip_bundle(step_bundle, one)
    bundle.zip_bundle(step_bundle, two)
    assert one.read_bytes() == two.read_bytes()
    with bundle.opened(one) as opened:
        assert opened.digest == bundle.read(step_bundle).digest and bundle.check(opened)
        inside = opened.folder
    assert not inside.exists()


def test_what_is_opened_is_what_was_checked(step_bundle: Path, copy: Path) -> None:
    """Each file is swapped after the check, as a racing process would: none of the new bytes is used."""
    found = bundle.read(copy)
    bundle.check(found)
    for name in found.content.files:
        (copy / name).write_bytes((step_bundle / name).read_bytes() + b"\0")
    for variant in found.content.variants:
        with pytest.raises(UsageError, match="its SHA-256 differs"):
            open_session(variant, found.checked)
    with pytest.raises(UsageError, match=r"golden\.safetensors was changed"):
        replay(found)


@pytest.mark.parametrize("kind", ["a link", "a pipe", "a folder", "nothing"])
def test_only_a_plain_file_is_read_and_a_pipe_does_not_wait(kind: str, tmp_path: Path) -> None:
    found = bundle.read(write_null_bundle(tmp_path / "b"))
    path, name = found.folder / "models" / "delays.json", "models/delays.json"
    path.rename(tmp_path / "elsewhere")
    if kind == "a link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    with pytest.raises(UsageError, match=r"delays\.json (cannot be read|is a link or no plain|is missing)"):
        found.checked(name)


def test_a_hostile_zip_writes_nothing_outside(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../escaped.txt", "x")
    with pytest.raises(UsageError, match="leaves the bundle"), bundle.opened(path):
        pass
    assert not list(tmp_path.rglob("escaped.txt"))


def test_a_truncated_zip_is_one_line(step_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    bundle.zip_bundle(step_bundle, path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UsageError, match="not a whole zip"), bundle.opened(path):
        pass


def test_golden_answers_of_another_model_are_refused(copy: Path) -> None:
    """The digests can be made right again; the answers cannot."""
    from safetensors.numpy import load_file, save

    tensors = load_file(copy / bundle.GOLDEN)
    name = bundle.read(copy).content.variants[0].name
    tensors[name] = tensors[name] + 0.5
    with pytest.raises(ParityError, match=f"{name} answers otherwise here"):
        replay(record(copy, save(tensors)))


def test_a_float_engine_does_not_pass_for_an_int8_one() -> None:
    original = np.array([1.0, -1.0, 0.5])
    quantized = original + np.array([0.02, -0.02, 0.02])
    limit = tolerance("int8", quantized, original)
    assert rmse(original, quantized) > limit  # the float answers fail the self-test
    assert rmse(quantized + 0.005, quantized) <= limit  # another CPU's rounding passes it


def test_measured_files_cannot_cover_for_changed_content(copy: Path) -> None:
    model = next((copy / "models").glob("*.onnx"))
    name = model.relative_to(copy).as_posix()
    model.write_bytes(model.read_bytes() + b" ")
    _edit(copy, lambda d: d["measured"]["files"].update({name: sha256(model)}), seal=False)
    with pytest.raises(UsageError, match="twice"):
        bundle.read(copy)


def test_a_linked_folder_is_refused(copy: Path) -> None:
    (copy / "models").rename(copy.parent / "elsewhere")
    (copy / "models").symlink_to(copy.parent / "elsewhere")
    with pytest.raises(UsageError, match="is a link"):
        bundle.check(bundle.read(copy))


def test_a_damaged_zip_is_one_line_wherever_the_damage_is(step_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    bundle.zip_bundle(step_bundle, path)
    whole = path.read_bytes()
    for place in range(40, len(whole), len(whole) // 25):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with contextlib.suppress(UsageError), bundle.opened(path) as opened:
            bundle.check(opened)


def test_a_bundle_without_keys_that_came_later_is_still_whole(copy: Path) -> None:
    now = bundle.read(copy).content.spec

    def older(data: Any) -> None:
        for spec in (data["content"]["spec"], *(v["spec"] for v in data["content"]["variants"])):
            del spec["particles"], spec["degrade"], spec["outputs"]
        data["digest"] = digest(data["content"])

    _edit(copy, older, seal=False)
    assert bundle.read(copy).content.spec == now


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["measured"].update(run="nul"), "measured.run: unknown variant 'nul'. Known: null."),
        (
            lambda d: d["measured"].update(ladder=[{"variant": "null"}, {"variant": "large"}]),
            r"measured.ladder\[1\]: unknown variant 'large'",
        ),
        (lambda d: d["content"].update(variants=[]), "content.variants is empty"),
        (lambda d: d["content"].update(variants=d["content"]["variants"] * 2), "holds 'null' twice"),
    ],
)
def test_what_a_bundle_says_it_runs_is_in_it(
    change: Callable[[Any], None], message: str, tmp_path: Path
) -> None:
    folder = write_null_bundle(tmp_path / "b")
    _edit(folder, change, seal=True)
    with pytest.raises(UsageError, match=message):
        bundle.read(folder)


NO_PART = ("../x", "/x", "a/b", "..", ".ssh", "a\\b", "a\0", "", "\n", " a", "x" * 201)


@pytest.mark.parametrize("name", NO_PART)
@pytest.mark.parametrize(
    ("change", "whose"),
    [
        (lambda c, name: c.update(name=name), "content.name"),
        (lambda c, name: c["spec"].update(name=name), "manifest.json: name"),
        (lambda c, name: c["variants"][0].update(name=name), "a variant's name"),
        (lambda c, name: c["variants"][0]["spec"].update(name=name), "manifest.json: name"),
    ],
)
def test_a_name_that_could_be_a_path_is_refused_when_it_is_read(
    change: Callable[[Any, str], None], whose: str, name: str, tmp_path: Path
) -> None:
    folder = write_null_bundle(tmp_path / "b")
    _edit(folder, lambda d: change(d["content"], name), seal=True)
    with pytest.raises(UsageError, match=rf"{whose} is .*that can name a file"):
        bundle.read(folder)


def record(folder: Path, data: bytes | None) -> bundle.Bundle:
    """The bundle with other golden bytes, or none, and digests that fit them."""
    path = folder / bundle.GOLDEN
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)

    def seal(manifest: Any) -> None:
        del manifest["content"]["files"][bundle.GOLDEN]
        if data is not None:
            manifest["content"]["files"][bundle.GOLDEN] = sha256(path)

    _edit(folder, seal, seal=True)
    opened = bundle.read(folder)
    bundle.check(opened)
    return opened


FRAMES = np.zeros((2, 8, 8, 3), np.uint8)
LOGITS = np.tile(np.array([1.0, 0.0], np.float32), (2, 1))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"frames": FRAMES, "torch": LOGITS}, "holds no 'null', which variant null needs"),
        ({"torch": LOGITS, "null": LOGITS}, "holds no 'frames', which variant null needs"),
        ({"frames": LOGITS, "torch": LOGITS, "null": LOGITS}, r"'frames' is float32 \(2, 2\), not pictures"),
        ({"frames": FRAMES[:0], "torch": LOGITS, "null": LOGITS}, r"'frames' is uint8 \(0, 8, 8, 3\)"),
        (
            {"frames": FRAMES, "torch": LOGITS, "null": LOGITS[:1]},
            r"null answers \(2, 2\) here; recorded are \(1, 2\) of its own and \(2, 2\) of the original",
        ),
    ],
)
def test_a_recording_that_does_not_fit_the_variant_is_one_line(
    tensors: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    from safetensors.numpy import save

    opened = record(write_null_bundle(tmp_path / "b"), save(tensors))
    with pytest.raises(UsageError, match=message):
        replay(opened)


@pytest.mark.parametrize(
    ("data", "message"),
    [(None, "b holds no golden.safetensors"), (b"junk", "b/golden.safetensors holds no golden answers")],
)
def test_a_missing_and_a_junk_recording_are_one_line(
    data: bytes | None, message: str, tmp_path: Path
) -> None:
    opened = record(write_null_bundle(tmp_path / "b"), data)
    with pytest.raises(UsageError, match=message):
        replay(opened)


def test_an_infinite_original_does_not_allow_every_answer(tmp_path: Path) -> None:
    from safetensors.numpy import save

    infinite: np.ndarray = np.full_like(LOGITS, np.inf)
    tensors: dict[str, np.ndarray] = {"frames": FRAMES, "torch": infinite, "null": LOGITS + 9}
    opened = record(write_null_bundle(tmp_path / "b"), save(tensors))
    with pytest.raises(ParityError, match="null answers otherwise here"):
        replay(opened)


def test_verify_says_that_only_digests_were_checked_where_no_engine_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(*_: object) -> None:
        raise TargetUnavailableError("not here")

    folder = write_null_bundle(tmp_path / "b")
    monkeypatch.setattr(golden, "call", in_this_process)
    monkeypatch.setattr(golden, "open_engine", absent)
    assert main(["verify", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "null: not replayed: not here" in said and "only the digests were checked" in said


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def contents(folder: Path, prefix: str = "") -> dict[str, bytes]:
    """The files of a bundle as somebody zips them."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {prefix + p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


MAC = {"__MACOSX/net/._manifest.json": b"x", "net/.DS_Store": b"x", "net/models/._delays.json": b"x"}


@pytest.mark.parametrize(
    ("prefix", "more"),
    [
        ("net/", {}),
        ("a/b/net/", {}),
        ("net/", MAC),
        ("", {"__MACOSX/._manifest.json": b"x", "Thumbs.db": b"x"}),
        ("net/", {"README.txt": b"read me"}),
    ],
)
def test_a_zip_may_hold_its_bundle_in_a_folder_and_what_systems_leave_beside_it(
    tmp_path: Path, prefix: str, more: dict[str, bytes]
) -> None:
    files = contents(write_null_bundle(tmp_path / "net"), prefix)
    with bundle.opened(zipped(tmp_path / "B.ZIP", files | more)) as found:
        assert bundle.check(found) == len(files) - 1


def test_a_zip_from_windows_with_its_own_separators_is_the_same_bundle(tmp_path: Path) -> None:
    files = contents(write_null_bundle(tmp_path / "net"), "net/")
    turned = {name.replace("/", "\\"): data for name, data in files.items()}
    with bundle.opened(zipped(tmp_path / "b.zip", turned)) as found:
        bundle.check(found)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"one/manifest.json": b"{}", "two/manifest.json": b"{}"}, "b.zip holds 2 bundles: one, two. Unpack"),
        ({"clip.mp4": b"x"}, "b.zip is not a bundle: it has no manifest.json"),
        ({"net/manifest.json": b"{", "../x": b"x"}, "leaves the bundle"),
        ({"net/manifest.json": b"{}"}, "b.zip/manifest.json has schema None"),
    ],
)
def test_what_is_wrong_with_a_zip_is_said_of_the_zip_and_not_of_where_it_was_unpacked(
    tmp_path: Path, files: dict[str, bytes], says: str
) -> None:
    with pytest.raises(UsageError, match=says) as caught, bundle.opened(zipped(tmp_path / "b.zip", files)):
        pass
    assert "edgepv-" not in str(caught.value)


def test_a_file_that_is_changed_in_a_zip_is_named_with_the_zip(tmp_path: Path) -> None:
    files = contents(write_null_bundle(tmp_path / "net"), "net/")
    files["net/models/delays.json"] = b"[1.0]"
    with (
        pytest.raises(UsageError, match=f"^{tmp_path}/b.zip: models/delays.json was changed"),
        bundle.opened(zipped(tmp_path / "b.zip", files)) as found,
    ):
        bundle.check(found)


def test_line_ends_that_git_changed_are_named_with_the_cure(tmp_path: Path) -> None:
    folder = write_null_bundle(tmp_path / "net", delays_ms="[\n0.0\n]\n")
    for name in ("manifest.json", "models/delays.json"):
        (folder / name).write_bytes((folder / name).read_bytes().replace(b"\n", b"\r\n"))
    found = bundle.read(folder)  # JSON does not mind
    for look in (lambda: bundle.check(found), lambda: found.checked("models/delays.json")):
        with pytest.raises(UsageError, match="models/delays.json has other line ends .*core.autocrlf"):
            look()


def test_a_manifest_that_an_editor_gave_a_mark_is_the_same(tmp_path: Path) -> None:
    folder = write_null_bundle(tmp_path / "net")
    manifest = folder / "manifest.json"
    manifest.write_bytes(b"\xef\xbb\xbf" + manifest.read_bytes())
    bundle.check(bundle.read(folder))


def test_what_a_system_leaves_in_a_bundle_folder_is_not_part_of_it(tmp_path: Path) -> None:
    folder = write_null_bundle(tmp_path / "net")
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "models" / "._delays.json").write_bytes(b"x")
    bundle.check(bundle.read(folder))
