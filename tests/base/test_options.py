"""Options that a dataclass declares, as a file and a command line give them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from edgepv.base.options import option, options_of, values_of
from edgepv.errors import UsageError
from edgepv.pipeline.options import Options, check_options, options_from
from edgepv.types import StepRecord, decode


@dataclass(frozen=True)
class Cake:
    """One option of every kind."""

    layers: int = option(3, "how many", check=lambda n: n > 0, hint="give a number above 0")
    sugar: float | None = option(None, "how sweet", key="sweet")
    slices: tuple[float, ...] = option((), "how wide", hint="give widths like 1,2")
    icing: bool = option(False, "with icing")
    kind: Literal["plain", "nut"] = option("plain", "which")
    oven: str = "ours"


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ([], {}),
        (["--layers", "2", "--sweet", "0.25"], {"layers": 2, "sugar": 0.25}),
        (["--slices", "1,2.5", "--icing"], {"slices": (1.0, 2.5), "icing": True}),
        (["--kind", "nut"], {"kind": "nut"}),
    ],
)
def test_what_is_typed_is_what_the_dataclass_has(words: list[str], values: dict[str, Any]) -> None:
    parser = argparse.ArgumentParser()
    for one in options_of(Cake):
        parser.add_argument(one.flag, **one.argument())
    given = {key: v for key, v in vars(parser.parse_args(words)).items() if v is not None}
    assert values_of(Cake, given) == values
    typed = [w for o in options_of(Cake) if o.key in given for w in o.words(values[o.field])]
    assert typed == words


@pytest.mark.parametrize(("value", "text"), [(0.25, "0.25"), (5.0, "5"), (0.1234567891, "0.1234567891")])
def test_no_digit_of_a_number_is_lost(value: float, text: str) -> None:
    assert options_of(Cake)[1].text(value) == text and float(text) == value


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"low_rnk": 0.9}, "c.toml: unknown key 'low_rnk'.*Did you mean 'low_rank'"),
        ({"steps": {}}, "c.toml: unknown key 'steps'"),
        ({"qat": "two"}, "c.toml.qat: expected a int, got 'two'"),
        ({"ranges": "max"}, "c.toml.ranges: unknown value 'max'"),
        ({"prune": [0.5, 1.0]}, "--prune 0.5,1: give the share of channels to remove, like 0.25"),
        ({"low_rank": 0}, "--low-rank 0: give the share of energy to keep, like 0.9"),
        ({"multiple": 0}, "--multiple 0: give a number of channels above 0"),
        ({"tune_epochs": -1}, "--tune-epochs -1: give a number of epochs, 0 or more"),
        ({"qat": 10_001}, "--qat 10001: give a number up to 10000"),
        ({"keep_float": -1}, "--keep-float -1: give a number of layers, 0 or more"),
        ({"min_sqnr": 0}, "--min-sqnr 0: give decibels above 0, like 30"),
        ({"stream": "of"}, "unknown --stream 'of'.*Did you mean 'off'"),
        ({"size": 100}, "--size 100: give a multiple of 16 from 32 to 4096"),
    ],
)
def test_a_value_that_is_none_is_refused(data: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_options(options_from(data, "c.toml"), [])


def test_of_the_steps_only_what_was_asked_is_kept() -> None:
    found = options_from({"prune": 0.25, "multiple": 8, "ranges": "minmax", "tune_epochs": 0}, "c.toml")
    assert found == Options(steps={"prune": (0.25,), "tune_epochs": 0})


def test_a_record_of_an_old_bundle_opens() -> None:
    old = {"name": "qat", "options": {"epochs": 3}, "inputs": {}, "outputs": {}, "tools": {}}
    assert decode(StepRecord, old).version == 1
