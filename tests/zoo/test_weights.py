"""Shipped weights reach, again, the accuracy the index and the cards state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file

from edgepv import zoo
from edgepv.base.files import read_json
from edgepv.data.clips import find_clips
from edgepv.zoo import pv_conv
from edgepv.zoo.training.data import read_manifest
from edgepv.zoo.training.publish import headline
from edgepv.zoo.training.score import frames_of, scores

ACTIONS = Path(__file__).resolve().parents[3] / "shared" / "data" / "actions"


def trained(name: str) -> pv_conv.PvConv:
    torch.set_num_threads(1)
    found = zoo.checkpoint(name)
    build = getattr(pv_conv, found.builder.rpartition(":")[2])
    net: pv_conv.PvConv = build(len(found.spec.labels))
    net.load_state_dict(load_file(found.weights))
    return net.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pv-conv-small-fight", "pv-conv-nano-fight"])
def test_the_recorded_share_of_shipped_clips_is_right(name: str) -> None:
    want = read_json(zoo.INDEX)[name]["metrics"]["shipped"]
    what = zoo.checkpoint(name).spec
    clips = [c for c in find_clips(zoo.HERE / "clips", what.labels) if c.split == "evaluation"]
    table = scores(trained(name), [frames_of(c.path, what) for c in clips])
    right = [what.labels[i] == c.label for i, c in zip(table.argmax(1), clips, strict=True)]
    assert {"hits": sum(right), "n": len(right)} == want


@pytest.mark.parametrize("name", sorted(read_json(zoo.INDEX)))
def test_index_and_result_file_state_the_same_accuracy(name: str) -> None:
    row = read_json(zoo.INDEX)[name]["metrics"]["test"]
    result = read_json(zoo.HERE / "cards" / f"{name}.json")["test"]
    if "miou" in result:
        figures = [c["figure"] for c in result["clips"]]
        assert row == headline(figures, row["metric"], [c["group"] for c in result["clips"]])
        assert row["value"] == pytest.approx(result["miou"], abs=1e-4)
        return
    if "accuracy" not in result:
        each = [c["psnr_restored"] if isinstance(c, dict) else c for c in result["clips"]]
        assert row == headline(each, row["metric"])
        return
    hits = sum(int(np.argmax(c["scores"])) == c["label"] for c in result["clips"])
    assert (row["hits"], row["n"]) == (hits, len(result["clips"]))
    assert row["value"] == result["accuracy"]["value"] == hits / row["n"]


@pytest.mark.slow
@pytest.mark.skipif(not ACTIONS.is_dir(), reason="needs the full data set in ../shared")
def test_small_fight_reaches_its_card_on_the_whole_test_split() -> None:
    what = zoo.checkpoint("pv-conv-small-fight").spec
    test = [s for s in read_manifest(ACTIONS) if s.split == "test" and s.task == "fight"]
    table = scores(trained("pv-conv-small-fight"), [frames_of(s.path, what) for s in test])
    stated = read_json(zoo.HERE / "cards" / "pv-conv-small-fight.json")["test"]
    assert [s.path.name for s in test] == [c["file"] for c in stated["clips"]]
    assert np.abs(table - np.array([c["scores"] for c in stated["clips"]])).max() < 2e-3
    hits = int((table.argmax(1) == np.array([s.label for s in test])).sum())
    assert hits / len(test) == stated["accuracy"]["value"]
