"""Boards and JetPacks as data: what a target's name stands for, and what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from support import ROOT

from edgepv.cli.app import main
from edgepv.errors import UsageError
from edgepv.export.tensorrt import plan
from edgepv.targets import jetson, target

TABLE = jetson.table()


@pytest.mark.parametrize(
    ("name", "tensorrt", "opset", "weak", "strong", "precisions", "dla"),
    [
        ("jetson-nano@4.6", "8.0.1 8.2.1", 13, True, False, "fp32 fp16", False),
        ("jetson-nano", "8.0.1 8.2.1", 13, True, False, "fp32 fp16", False),
        ("jetson-xavier@5.1", "8.5.2", 17, True, False, "fp32 fp16 int8", True),
        ("jetson-orin-nano@6.0", "8.6.2", 17, True, False, "fp32 fp16 int8", False),
        ("jetson-orin-nano@6.2", "10.3.0", 20, True, False, "fp32 fp16 int8", False),
        ("jetson-orin-nx@6.2.1", "10.3.0", 20, True, False, "fp32 fp16 int8", True),
        ("jetson-orin-nano@7.2.2", "10.16.2", 24, False, True, "fp32 fp16 int8", False),
        ("jetson-agx-orin@7.2", "10.16.2", 24, False, True, "fp32 fp16 int8", False),
        ("jetson-agx-orin@7.2.2", "10.16.2 11.4.1", 24, False, True, "fp32 fp16 int8", True),
        ("jetson-thor@7.0", "10.13.3", 22, False, True, "fp32 fp16 int8", False),
        ("jetson", "8.5.2 8.6.2 10.3.0 10.13.3 10.16.2 11.4.1", 17, True, True, "fp32 fp16 int8", True),
    ],
)
def test_what_a_name_stands_for(
    name: str, tensorrt: str, opset: int, weak: bool, strong: bool, precisions: str, dla: bool
) -> None:
    device = jetson.device(name)
    assert (" ".join(device.tensorrt), device.opset) == (tensorrt, opset)
    assert (device.weak, device.strong, device.dla) == (weak, strong, dla)
    assert " ".join(device.precisions) == precisions == " ".join(target(name).precisions)
    assert target(name).name == name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("jetson-orin-nanno", "unknown Jetson board .*Did you mean 'jetson-orin-nano'"),
        ("jetson-orin-nano@6.3", "unknown JetPack of jetson-orin-nano '6.3'.*Known: 5.1, 6.0, 6.1, 6.2, 7.2"),
        ("jetson-orin-nano@4.6", "jetson-orin-nano has no JetPack 4.6. It has 5.1"),
        ("jetson-thor@7", "unknown JetPack of jetson-thor '7'"),
        ("jetson-thor@", "unknown JetPack of jetson-thor ''"),
        ("jetson@6.2", "unknown target 'jetson@6.2'"),
        ("cpu-arm", "unknown target 'cpu-arm'"),
    ],
)
def test_what_is_not_known_is_refused_in_one_line_with_the_nearest(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        target(name)
    assert "\n" not in str(caught.value)


def test_every_fact_has_a_source_and_the_two_halves_name_each_other() -> None:
    rows: list[jetson.JetPack | jetson.Board] = [*TABLE.jetpacks.values(), *TABLE.boards.values()]
    for row in rows:
        facts = {f.name for f in fields(row)} - {"notes", "sources", "unverified"}
        assert facts == set(", ".join(row.sources).split(", ")) and all(row.sources.values())
        assert set(row.unverified) <= facts
    for jetpack in TABLE.jetpacks.values():
        assert set(jetpack.boards) <= set(TABLE.boards)
        assert list(jetpack.tensorrt) == sorted(jetpack.tensorrt, key=jetson.number)
    for name, board in TABLE.boards.items():
        assert any(name in j.boards for j in TABLE.jetpacks.values())
        assert all(model == model.lower() for model in board.models)


def test_no_board_is_taken_for_another_by_its_device_tree() -> None:
    seen = {
        "NVIDIA Jetson Nano Developer Kit": "jetson-nano",
        "NVIDIA Jetson Xavier NX Developer Kit": "jetson-xavier",
        "Jetson-AGX Xavier": "jetson-xavier",
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super": "jetson-orin-nano",
        "NVIDIA Jetson Orin NX Engineering Reference Developer Kit": "jetson-orin-nx",
        "NVIDIA Jetson AGX Orin Developer Kit": "jetson-agx-orin",
        "NVIDIA Jetson AGX Thor Developer Kit": "jetson-thor",
    }
    for model, name in seen.items():
        fit = [n for n, board in TABLE.boards.items() if any(m in model.lower() for m in board.models)]
        assert fit == [name]


def test_the_table_needs_nothing_newer_than_json() -> None:
    path = Path(jetson.__file__).with_suffix(".json")
    data = json.loads(path.read_text(encoding="ascii"))
    assert set(data) == {"jetpacks", "boards"}
    assert all(re.fullmatch(r"[0-9.]+", version) for version in data["jetpacks"])


def test_doctor_and_the_page_say_which_facts_were_not_verified(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert "jetson-thor: not verified: models, memory_gb, sparse" in told
    for name, facts in jetson.unverified().items():
        assert f"{name}: not verified: {', '.join(facts)} " in told
        assert f"| {name} | {', '.join(facts)} |\n" in PAGE


PAGE = (ROOT / "docs" / "jetson.md").read_text()


def test_the_page_has_the_table_of_boards_and_of_jetpacks() -> None:
    for name, board in TABLE.boards.items():
        jetpacks = ", ".join(version for version, one in TABLE.jetpacks.items() if name in one.boards)
        sides = (", ".join(map(str, board.dla)), ", ".join(map(str, board.memory_gb)))
        row = (name, board.sm, *sides, ", ".join(board.precisions), jetpacks)
        assert f"| {' | '.join(row)} |\n" in PAGE
    for version, one in TABLE.jetpacks.items():
        row = (version, ", ".join(one.tensorrt), str(one.opset), one.python, one.cuda, one.ubuntu)
        assert f"| {' | '.join(row)} |\n" in PAGE


def test_the_page_has_the_lines_of_trtexec_as_build_sh_has_them() -> None:
    every = tuple(plan.VARIANT_OF.values())
    shown = [line for line in PAGE.splitlines() if line.startswith("trtexec --onnx")]
    calls = [
        call
        for name in ("jetson", "jetson-nano")
        for some in plan.commands(jetson.device(name), every, half=("int8", "fp16")).values()
        for call in some
    ]
    assert shown and set(shown) <= set(calls)
