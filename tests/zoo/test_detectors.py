"""Detectors by others that ship have a name, and a spec that fits the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgepv import zoo
from edgepv.errors import UsageError
from edgepv.export.from_onnx import read_onnx
from edgepv.model.spec import read_spec
from edgepv.pipeline.options import Options
from edgepv.pipeline.source import load


@pytest.mark.parametrize("name", zoo.ONNX)
def test_a_detector_fits_its_spec(name: str, tmp_path: Path) -> None:
    files = zoo.detector(name)
    assert files is not None
    spec = read_spec(files[1])
    assert spec.name == name and spec.task == "detection"
    variant, _ = read_onnx(files[0], spec, tmp_path / "float.onnx")
    assert variant.spec == spec


def test_a_detector_is_a_model_by_its_name() -> None:
    source = load(Options(model="person-detector"))
    assert source.checkpoint is None and source.spec.labels == ("person",) and source.onnx is not None
    with pytest.raises(UsageError, match="a built-in model with weights of its own"):
        load(Options(model="person-detector", spec="other.toml"))
