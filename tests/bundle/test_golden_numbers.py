"""Golden answers hold a model's further numbers, such as a surprise, to what they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from null_bundle import write_null_bundle

from edgepv import bundle
from edgepv.bundle.golden import replay
from edgepv.errors import ParityError


def test_a_number_that_is_what_it_was_passes(tmp_path: Path) -> None:
    found = bundle.read(write_null_bundle(tmp_path / "same", surprise=0.0))
    assert [one.error for one in replay(found)] == [0.0]


def test_a_number_that_is_not_what_it_was_fails_though_the_answer_is(tmp_path: Path) -> None:
    found = bundle.read(write_null_bundle(tmp_path / "other", surprise=0.3))
    with pytest.raises(ParityError, match="null answers 'surprise' otherwise here"):
        replay(found)


def test_a_bundle_from_before_numbers_were_recorded_is_replayed_without_them(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = write_null_bundle(tmp_path / "old", surprise=0.3)
    tensors = load_file(folder / bundle.GOLDEN)
    kept = {name: value for name, value in tensors.items() if "/numbers/" not in name}
    assert len(kept) == len(tensors) - 2
    older = write_null_bundle(tmp_path / "older", surprise=0.3)
    save_file(kept, older / bundle.GOLDEN)
    content = bundle.read(folder).content
    bundle.write(
        older,
        replace(content, files=bundle.digests(older, [bundle.GOLDEN, "models/delays.json"])),
        bundle.read(folder).measured,
    )
    assert [one.error for one in replay(bundle.read(older))] == [0.0]
