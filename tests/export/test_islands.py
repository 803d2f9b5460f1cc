"""What an INT8 artifact does in float is found, joined and priced."""

from __future__ import annotations

import pytest

from edgepv.export.islands import Node, Runs, grouped


def node(name: str, runs: Runs, inputs: str, us: float | None = 1.0) -> Node:
    """Writes one tensor, called like itself."""
    return Node(name, name.rstrip("0123456789"), runs, tuple(inputs.split()), (name,), us)


def test_neighbours_are_one_island_and_an_integer_operator_parts_two() -> None:
    found = grouped(
        [
            node("Quant1", "convert", "x", 5),
            node("Conv1", "int8", "Quant1", 60),
            node("Dequant1", "convert", "Conv1", 5),
            node("Mean1", "float", "Dequant1", 4),
            node("Mul1", "float", "Mean1", 6),
            node("Conv2", "int8", "Mul1", 10),
            node("Softmax1", "float", "Conv2", 10),
        ]
    )
    assert [(i.first, i.operators) for i in found.islands] == [
        ("Mean1", ("Mean", "Mul")),
        ("Softmax1", ("Softmax",)),
    ]
    assert [i.share for i in found.islands] == pytest.approx([0.1, 0.1])
    assert found.conversions == 2 and found.conversions_share == pytest.approx(0.1)


def test_two_branches_that_meet_are_one_island() -> None:
    found = grouped(
        [
            node("A1", "float", "x"),
            node("B1", "float", "y"),
            node("Add1", "float", "A1 B1"),
            node("C1", "float", "Add1"),
        ]
    )
    assert [i.operators for i in found.islands] == [("A", "B", "Add", "C")]


def test_a_move_joins_nothing_and_an_engine_without_times_has_no_shares() -> None:
    found = grouped(
        [
            node("A1", "float", "x", None),
            node("Reshape1", "move", "A1", None),
            node("B1", "float", "Reshape1", None),
        ]
    )
    assert [(i.operators, i.share) for i in found.islands] == [(("A",), None), (("B",), None)]
    assert found.conversions == 0 and found.conversions_share is None
