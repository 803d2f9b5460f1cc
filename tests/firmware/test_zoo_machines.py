"""The self-test of the zoo's nets, as ``edgepv firmware`` writes it, on arm64, armv7 and a Cortex-M7."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from building import ARM64, ARMV7, CORTEX_M7, OWN, Machine
from generated import as_it_stands, lowered_net, reference

from edgepv.bundle.golden import golden_answers
from edgepv.cli.firmware import EXACT, followed
from edgepv.data.frames import preprocess
from edgepv.data.video import open_video, taken
from edgepv.firmware import package
from edgepv.firmware.exact import ExactEngine
from edgepv.firmware.package import Golden, write_firmware
from edgepv.quantize import int8_onnx
from edgepv.quantize.step import Calibration
from edgepv.types import Variant
from edgepv.zoo import DEMO_CLIP

pytestmark = pytest.mark.slow
FRAMES = 2
"""Of the demo's clip: the second one reads states that the first one has left."""
FLOAT_CLOSE = 1e-5
"""Share of the answers' own size (RMS): sums in another order. ``edgepv verify`` allows 1e-3."""
SMALLEST = "pv-conv-nano"
"""Compiled as every test is; the others, which take a compiler long, with less optimisation."""
CASES = (
    *itertools.product((SMALLEST,), ("fp32",), (ARM64, ARMV7, CORTEX_M7)),
    *itertools.product((SMALLEST,), ("int8",), (ARM64, CORTEX_M7)),
    ("pv-c3d-valid", "fp32", ARM64),
    ("pv-graph-nano", "fp32", ARMV7),
    ("pv-track-nano", "fp32", CORTEX_M7),
    ("pv-restore-nano", "fp32", CORTEX_M7),
    ("pv-restore-nano", "int8", ARMV7),
)
"""One net of each family, whose larger ones are of the same operators. An emulated step of some takes up
to a minute, so each of those is on one machine."""
CODE, MEMORY = 3_500_000, 3_500_000
"""Bytes of weights and of memory that the board has beside its 16 MiB."""
Folder = Callable[[str, str], Path]


def clip(variant: Variant, count: int) -> np.ndarray:
    """Frames of the demo's clip at the model's size, (count, h, w, 3) uint8 BGR."""
    height, width = variant.spec.input.shape[-2:]
    with open_video(DEMO_CLIP) as video:
        frames = [f.pixels for f in itertools.islice(taken(video, Fraction(variant.spec.fps)), count)]
    return np.stack([cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in frames])


class Plain:
    """ONNX Runtime with the graph as it stands, as an engine."""

    def __init__(self, variant: Variant, data: bytes) -> None:
        self.infer = as_it_stands(variant, data)

    def close(self) -> None:
        """Nothing is held."""


def in_float(variant: Variant, folder: Path) -> tuple[Variant, bytes, Golden]:
    """(variant, file, golden answers) of what lies in a folder."""
    data, frames = (folder / variant.path).read_bytes(), clip(variant, FRAMES)
    if variant.spec.task == "tracking":
        answers = followed(replace(variant, engine="onnxruntime"), folder, frames)
    else:
        answers = golden_answers(Plain(variant, data), variant, frames)
    return variant, data, Golden(frames, answers, "onnxruntime", FLOAT_CLOSE * size(answers))


def in_int8(variant: Variant, folder: Path, out: Path) -> tuple[Variant, bytes, Golden]:
    """The same of its INT8, whose file is ``out``."""
    stepper, feeds = reference(variant, (folder / variant.path).read_bytes()), []
    for frame in clip(variant, 6):
        feeds.append(stepper.feeds(preprocess(frame, variant.spec)) or {})
        stepper.run(feeds[-1])
    made = int8_onnx.Step()(variant, out, Calibration(folder, feeds[2:], "feeds"))
    coded = out.read_bytes()
    frames = clip(variant, FRAMES)
    answers = golden_answers(ExactEngine(made, coded), made, frames)
    return made, coded, Golden(frames, answers, "exact", EXACT * size(answers))


def size(answers: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(answers))))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A firmware folder of a net, made once for all machines; its sizes are not measured here."""
    known: dict[tuple[str, str], Path] = {}

    def write(name: str, precision: str) -> Path:
        if (name, precision) not in known:
            folder = tmp_path_factory.mktemp("net")
            net = lowered_net(name, tmp_path_factory)
            made = in_int8(*net, folder / "int8.onnx") if precision == "int8" else in_float(*net)
            variant, data, golden = made
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(package, "compiler_for", lambda processor: None)
                (folder / "fw").mkdir()
                write_firmware(folder / "fw", variant, data, "0" * 64, golden)
            known[name, precision] = folder / "fw"
        return known[name, precision]

    return write


def roomy(machine: Machine, folder: Path, scratch: Path) -> Machine:
    """The board, with what its first memories are too small for in its large one."""
    if machine.name != CORTEX_M7.name:
        return machine
    script = (OWN / "cortex_m7.ld").read_text()
    told = re.search(r"GOLDEN_MEMORY (\d+)", (folder / "golden.h").read_text())
    assert told
    if int(told[1]) > MEMORY:
        large = "    .large (NOLOAD) : { *(.bss.memory) } > MORE\n    .bss (NOLOAD)"
        script = script.replace("    .bss (NOLOAD)", large)
    if any(path.stat().st_size > CODE for path in folder.glob("*.weights")):
        script = script.replace("SECTIONS\n{", "SECTIONS\n{\n    .weights : { *(.rodata.edgepv*) } > MORE")
    (scratch / "board.ld").write_text(script)
    extra = tuple(f"-T{scratch / 'board.ld'}" if word.startswith("-T") else word for word in machine.extra)
    return replace(machine, extra=extra)


@pytest.mark.parametrize(("name", "precision", "machine"), CASES, ids=lambda v: getattr(v, "name", v))
def test_the_self_test_gives_the_golden_answers(
    name: str, precision: str, machine: Machine, written: Folder, tmp_path: Path
) -> None:
    machine.need()
    folder = written(name, precision)
    board = roomy(replace(machine, level=machine.level if name == SMALLEST else "-O1"), folder, tmp_path)
    sources = sorted(folder.glob("*.c"))
    program = board.build(tmp_path / "selftest", sources, f"-I{folder}", f"-Wa,-I{folder}", "-fdata-sections")
    assert "golden frames: rmse" in board.run(program, folder=tmp_path)
