"""A finished step is read again; a damaged or half-written one is made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgepv.base import cache, files
from edgepv.base.cache import cached, root


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPV_CACHE", str(tmp_path))


def _make(folder: Path) -> dict[str, int]:
    (folder / "model.bin").write_bytes(b"12345")
    return {"n": 5}


def test_the_second_run_reads() -> None:
    first = cached({"step": "x"}, _make)
    second = cached({"step": "x"}, lambda folder: pytest.fail("computed again"))
    assert (first[1], first[2], second[1], second[2]) == ({"n": 5}, False, {"n": 5}, True)


def test_another_key_is_another_result() -> None:
    cached({"step": "x", "ratio": 1}, _make)
    assert cached({"step": "x", "ratio": 2}, _make)[2] is False


def test_a_damaged_entry_is_made_again() -> None:
    folder, _, _ = cached({"step": "x"}, _make)
    (folder / "model.bin").write_bytes(b"12x45")
    again, _, hit = cached({"step": "x"}, _make)
    assert not hit and (again / "model.bin").read_bytes() == b"12345"


def test_a_truncated_result_is_made_again() -> None:
    folder, _, _ = cached({"step": "x"}, _make)
    (folder / "result.json").write_text('{"files": ')
    assert cached({"step": "x"}, _make)[2] is False


def test_no_changed_byte_of_a_result_passes() -> None:
    folder, _, _ = cached({"step": "x"}, _make)
    whole = (folder / "result.json").read_bytes()
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= 1
        (folder / "result.json").write_bytes(data)
        found = cache._read(folder)
        assert found is None or found["result"] == {"n": 5}, at  # a blank may change into another


def test_what_a_killed_run_left_in_the_cache_goes_with_the_next_hit(tmp_path: Path) -> None:
    cached({"step": "x"}, _make)
    (root() / f".0123.abcdefgh.{files._kernel()}.edgepv").mkdir()
    assert cached({"step": "x"}, _make)[2] is True
    assert len(list(root().iterdir())) == 1


def test_a_step_that_fails_leaves_no_entry() -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise ValueError

    with pytest.raises(ValueError):
        cached({"step": "x"}, fail)
    assert list(root().iterdir()) == []


def test_changed_code_is_another_step(monkeypatch: pytest.MonkeyPatch) -> None:
    cached({"step": "x"}, _make)
    monkeypatch.setattr(cache, "code_digest", lambda: "edited")
    assert cached({"step": "x"}, _make)[2] is False


def test_the_code_digest_covers_every_room_at_any_depth() -> None:
    assert {
        "base/cache.py",
        "quantize/prune.py",
        "export/to_onnx.py",
        "runtimes/engines/ort.py",
        "runtimes/sinks/mqtt.py",
        "zoo/pv_conv.py",
        "zoo/particles/interact.py",
    } <= set(cache.sources(Path(cache.__file__).parents[1]))


def test_a_script_is_what_it_imports_from_beside_it(tmp_path: Path) -> None:
    script, blocks, other = (tmp_path / n for n in ("model.py", "blocks.py", "train.py"))
    script.write_text("import torch\nfrom blocks import width\n")
    blocks.write_text("width = 1\n")
    other.write_text("steps = 1\n")
    before = cache.imported(script)
    assert set(before) == {"model.py", "blocks.py"}
    other.write_text("steps = 2\n")
    assert cache.imported(script) == before
    blocks.write_text("width = 2\n")
    assert cache.imported(script) != before
