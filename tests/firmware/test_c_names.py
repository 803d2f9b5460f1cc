"""Names come from files that anybody may have written: none becomes anything but a name in C."""

from __future__ import annotations

import ctypes
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from building import CLANG, CORE, GCC, Machine

from edgepv import bundle
from edgepv.firmware import generate
from edgepv.types import Variant

ENDS = ("*/ int injected; /*", "*\\\n/ int injected; /*", "*??/\n/ int injected; /*", "\n#error injected\n")
"""What would end a comment: as it is, over the end of a line, by a trigraph; and what needs no comment."""
LABELS = (
    '"; int injected; "',
    "???/",
    "a\\",
    "\\u0041",
    "100 %s",
    "tab\tline\n",
    "Schlägerei",
    "闘い",
    "7\0017",
)
"""What would end a string or mean something else in it."""
READERS = tuple(replace(machine, level="-O0") for machine in (GCC, CLANG))
"""How the source is read is looked at, not what is made of it."""


def named(variant: Variant, onnx: bytes, evil: str) -> tuple[Variant, bytes]:
    """The model with an evil name for itself, its nodes and its states."""
    import onnx as format_

    model: Any = format_.load_model_from_string(onnx)
    for number, node in enumerate(model.graph.node):
        node.name = f"{evil}{number}"
    assert variant.stream
    states = tuple(replace(s, name=evil + s.name, output=evil + s.output) for s in variant.stream.states)
    return replace(
        variant,
        spec=replace(variant.spec, name=evil, labels=LABELS[: len(variant.spec.labels)]),
        stream=replace(variant.stream, states=states),
        inputs=variant.inputs | {evil + s.name: variant.inputs[s.name] for s in variant.stream.states},
        outputs=variant.outputs | {evil + s.output: variant.outputs[s.output] for s in variant.stream.states},
    ), model.SerializeToString()  # fmt: skip


def written(folder: Path, sources: dict[str, bytes]) -> Path:
    for name, data in sources.items():
        (folder / name).write_bytes(data)
    return folder / "model.c"


@pytest.mark.parametrize("machine", READERS, ids=lambda m: m.name)
@pytest.mark.parametrize("evil", ENDS)
def test_no_name_ends_a_comment(step_bundle: Path, tmp_path: Path, evil: str, machine: Machine) -> None:
    opened = bundle.read(step_bundle)
    variant = opened.variant("onnxruntime-fp32")
    made = generate(*named(variant, opened.checked(variant.path), evil), opened.digest)
    source = written(tmp_path, made.sources)
    machine.build(tmp_path / "model.o", [source], "-c")
    seen = subprocess.run(
        [machine.compiler[0], "-std=c99", "-E", "-P", f"-I{CORE}", source],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    outside = "".join(part for i, part in enumerate(seen.split('"')) if i % 2 == 0)
    assert "edgepv_model" in outside and not re.search(r"\binjected\b", outside)


@pytest.mark.parametrize("machine", READERS, ids=lambda m: m.name)
def test_every_label_reads_back_as_it_was(step_bundle: Path, tmp_path: Path, machine: Machine) -> None:
    opened = bundle.read(step_bundle)
    variant = opened.variant("onnxruntime-fp32")
    onnx = opened.checked(variant.path)
    for number in range(0, len(LABELS) - 1, 2):
        labels = LABELS[number : number + 2]
        folder = tmp_path / str(number)
        folder.mkdir()
        made = generate(replace(variant, spec=replace(variant.spec, labels=labels)), onnx, opened.digest)
        sources = [written(folder, made.sources), CORE / "edgepv_core.c"]
        library = ctypes.CDLL(str(machine.build(folder / "model.so", sources, "-shared", "-fPIC")))
        library.edgepv_label.restype = ctypes.c_char_p
        model = ctypes.addressof(ctypes.c_char.in_dll(library, made.symbol))
        for at, label in enumerate(labels):
            told = library.edgepv_label(ctypes.c_void_p(model), at)
            assert told.decode("utf-8") == label
