"""The command line that a report names makes the same options again."""

from __future__ import annotations

import shlex

import pytest

from edgepv.cli.app import parser
from edgepv.cli.export import export_options
from edgepv.pipeline.options import Options, typed


@pytest.mark.parametrize(
    "words",
    [
        "pv-c3d-valid",
        "pv-c3d-valid --target cpu,mobile --out 'my bundles' --max-drop 1 --seed 3",
        "my.py:build --weights w.safetensors --spec s.toml --clips c --prune 0.3 --latency-ms 33.5",
        "net.onnx --spec s.toml --stream window --robustness 0 --prefer size --size 96 --precision int8",
    ],
)
def test_a_command_line_comes_back_as_the_options_it_was(words: str) -> None:
    def options(line: list[str]) -> Options:
        found: Options = export_options(parser().parse_args(line))
        return found

    asked = options(["export", *shlex.split(words)])
    line = shlex.split(typed(asked))
    assert line[0] == "edgepv" and options(line[1:]) == asked
