"""A firmware folder: one model as C with all that compiles it, a self-test, and what it takes of a device."""

from __future__ import annotations

import platform
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgepv.base.files import write_json, write_text
from edgepv.base.machine import versions
from edgepv.base.optional import need
from edgepv.base.tasks import task_of
from edgepv.base.vet import vet_onnx
from edgepv.errors import EngineError, ParityError, UsageError
from edgepv.firmware import Firmware, generate
from edgepv.firmware.compiled import shared_sources
from edgepv.firmware.compiler import PROCESSORS, Compiler, Processor, compile_objects, compiler_for, link
from edgepv.firmware.library import ABI
from edgepv.firmware.sizes import Flash, Ram, Sizes, sections
from edgepv.types import Variant

CORTEX_M7 = Processor(
    "cortex-m7",
    "",
    (),
    ("-mcpu=cortex-m7", "-mfpu=fpv5-d16", "-mfloat-abi=hard", "-mthumb"),
    ("arm-none-eabi-gcc",),
)
CAMERAS = ((640, 480, "NV12"), (1280, 720, "NV12"), (1920, 1080, "BGR24"))
CAMERAS_TOLD = ("tensors", *(f"{width} x {height} {form}" for width, height, form in CAMERAS))
"""Cameras whose memory the README tells, and what it calls them: first, one that gives tensors."""
SESSION = 4096
"""Bytes of a session beside states, arena, answers and counts of lost frames: generous, for a self-test."""
BIRTHS = 1 << 20
"""Bytes more for a tracker, which looks for corners in a picture of 192 rows, at most three times as wide."""
SELFTEST_S = 600.0
"""Seconds that the self-test may take here: it replays a few dozen frames."""


@dataclass(frozen=True)
class Golden:
    """What the self-test replays. frames: (N, h, w, 3) uint8 BGR, of the model's size.

    answers: (N, values) float32, the first answer after each frame, or values spread evenly over it. variant:
    who gave them. limit: largest root mean square difference.
    """

    frames: np.ndarray
    answers: np.ndarray
    variant: str
    limit: float


def write_firmware(folder: Path, variant: Variant, onnx: bytes, digest: str, golden: Golden) -> Sizes:
    """Fill a folder with the C of a variant; returns what it takes. onnx: the bytes of its file.

    digest: of its bundle. Where a compiler is here, the self-test is run. Raises UsageError for a file that
    is not safe to read or that C cannot be generated of, ParityError if the self-test finds other answers.
    """
    if variant.spec.before:
        raise UsageError(
            f"{variant.spec.name} has {', '.join(variant.spec.before)} before it, which C has not. Export it "
            "with --before none, or run its bundle with edgepv run"
        )
    vet_onnx(onnx, variant.path)
    made = generate(variant, onnx, digest)
    for name, data in {**shared_sources(), **made.sources}.items():
        (folder / name).write_bytes(data)
    names = {
        "symbol": made.symbol,
        "variant": golden.variant,
        "version": "".join(versions(("edgepv",)).values()),
        "abi": ABI,
    }
    write_text(folder / "model.h", _rendered("model.h.j2", **names))
    write_text(folder / "golden.h", _rendered("golden.h.j2", **names, **_golden(variant, made, golden)))
    write_text(folder / "golden.c", _rendered("golden.c.j2", **names))
    library = sorted(p.name for p in folder.glob("*.c") if p.name != "golden.c")
    write_text(folder / "CMakeLists.txt", _rendered("CMakeLists.txt.j2", c_files=library, **names))
    write_text(folder / "edgepv.pc.in", _template("edgepv.pc.in").read_text(encoding="ascii"))
    sizes = _measured(folder, made, library)
    write_json(folder / "sizes.json", sizes)
    write_text(folder / "README.md", _readme(variant, digest, golden, library, sizes, names))
    return sizes


def _measured(folder: Path, made: Firmware, library: Sequence[str]) -> Sizes:
    """Sizes of everything that compiles here, and the self-test's figure."""
    session_bytes: dict[str, int | None] = dict.fromkeys(CAMERAS_TOLD)
    flash: dict[str, Flash | None] = {}
    rmse = None
    for processor in (*PROCESSORS, CORTEX_M7):
        chosen = compiler_for(processor)
        flash[processor.name] = None
        if chosen is None:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            place = Path(scratch)
            for path in folder.iterdir():
                (place / path.name).write_bytes(path.read_bytes())
            objects = compile_objects(chosen, library, processor.options, place)
            flash[processor.name] = _flash(chosen, processor, [place / name for name in objects])
            if processor.arch == platform.machine():
                rmse = _selftest(chosen, processor, objects, place)
                session_bytes = _needs(chosen, processor, made, objects, place)
    ram = Ram(made.state_bytes, made.arena_bytes, made.liveness_bound, session_bytes)
    return Sizes(made.weight_bytes, ram, flash, rmse)


def _flash(chosen: Compiler, processor: Processor, objects: Sequence[Path]) -> Flash:
    code, constants, data = map(sum, zip(*(sections(path.read_bytes()) for path in objects)))
    return Flash(code, constants, data, chosen.version, " ".join(("-O3", *processor.options)))


def _selftest(chosen: Compiler, processor: Processor, objects: Sequence[str], place: Path) -> float | None:
    """The rmse of the golden frames on this machine; None where it does not run what is compiled for.

    Raises ParityError if the limit is not kept.
    """
    golden = compile_objects(chosen, ["golden.c"], processor.options, place)
    link(chosen, ["-o", "selftest", *objects, *golden], place)
    try:
        done = subprocess.run(
            [place / "selftest"], capture_output=True, text=True, timeout=SELFTEST_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise EngineError(f"the self-test cannot be run: {e}. Compile the folder on the device") from e
    if done.returncode < 0:  # an instruction that this older processor has not
        return None
    told = re.search(r"rmse (\S+), limit", done.stdout)
    if done.returncode or told is None:
        raise ParityError(
            f"the C answers otherwise than the bundle recorded: {done.stdout.strip() or 'no line'}. "
            "Please report the model; run it on an engine"
        )
    return float(told[1])


def _needs(
    chosen: Compiler, processor: Processor, made: Firmware, objects: Sequence[str], place: Path
) -> dict[str, int | None]:
    """What a session is given for each camera, as the core says here."""
    cameras = [(w, h, f"EDGEPV_{form}") for w, h, form in CAMERAS]
    write_text(place / "need.c", _rendered("need.c.j2", cameras=cameras, symbol=made.symbol))
    asked = compile_objects(chosen, ["need.c"], processor.options, place)
    link(chosen, ["-o", "need", *objects, *asked], place)
    done = subprocess.run([place / "need"], capture_output=True, text=True, timeout=SELFTEST_S, check=True)
    return {told: int(size) for told, size in zip(CAMERAS_TOLD, done.stdout.split()) if size != "-"}


def _golden(variant: Variant, made: Firmware, golden: Golden) -> dict[str, Any]:
    """What golden.h holds."""
    count, height, width, _ = golden.frames.shape
    values = golden.answers.shape[1]
    answers = sum(int(np.prod(one.shape)) for one in variant.spec.answers)
    warmup = variant.stream.warmup if variant.stream else 1
    beside = 4 * (2 * answers + len(variant.spec.labels) + warmup)
    beside += BIRTHS if task_of(variant.spec).follows else 0
    whole = int(np.prod(variant.spec.answer.shape))
    return {
        "frames": count,
        "width": width,
        "height": height,
        "values": values,
        "every": -(-whole // values),
        "limit": f"{golden.limit:.9g}",
        "memory": made.state_bytes + made.arena_bytes + beside + SESSION,
        "pixels": _rows(golden.frames.reshape(count, -1), str),
        "answers": _rows(golden.answers.astype(np.float32), _float),
    }


def _rows(rows: np.ndarray, told: Any) -> str:
    """Rows of numbers as C initialisers."""
    return ",\n".join("{" + ",".join(map(told, row.tolist())) + "}" for row in rows)


def _float(value: float) -> str:
    """A float32 as C reads it back, to the bit."""
    text = f"{value:.9g}"
    return text + ("f" if set(text) & set(".e") else ".0f")


def _readme(
    variant: Variant,
    digest: str,
    golden: Golden,
    library: Sequence[str],
    sizes: Sizes,
    names: Mapping[str, Any],
) -> str:
    height, width = variant.spec.input.shape[-2:]
    rmse = sizes.selftest_rmse
    tested = (
        "The self-test was not run on the machine that made this."
        if rmse is None
        else f"The self-test was run there: rmse {rmse:.2g}, limit {golden.limit:.2g}."
    )
    return _rendered(
        "README.md.j2",
        **names,
        name=_plain(variant.spec.name),
        labels=[_plain(label) for label in variant.spec.labels],
        fps=f"{float(variant.spec.fps):g}",
        width=width,
        height=height,
        warmup=variant.stream.warmup if variant.stream else variant.spec.frames,
        library_c=" ".join(library),
        all_c=" ".join(["golden.c", *library]),
        frames=len(golden.frames),
        sizes=sizes,
        digest=digest,
        selftest=tested,
        told=lambda value: "not measured" if value is None else value,
    )


def _plain(text: str) -> str:
    """Text of a model that Markdown shows as it is."""
    return re.sub(r"[^\w .-]", "_", text)


def _template(name: str) -> Path:
    return Path(__file__).with_name("templates") / name


def _rendered(template: str, **values: Any) -> str:
    jinja2 = need("jinja2", extra="compress")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    text: str = environment.from_string(_template(template).read_text(encoding="ascii")).render(**values)
    return text
