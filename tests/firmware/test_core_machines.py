"""One replay of frames, everywhere: with sanitizers, under valgrind, on arm64, armv7 and a Cortex-M7."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from building import CLANG, CORE_WITH_TOY, CORTEX_M7, ELSEWHERE, GCC, OWN, SANITIZED, Machine
from toy_core import LABELS, NOT_FINITE, OK, Toy, Tracker, camera, picture, session_of, twin

from edgepv.errors import EngineError
from edgepv.runtimes.lane import Answer

pytestmark = pytest.mark.slow
SOURCES = (*CORE_WITH_TOY, OWN / "replay.c")
COUNT = 14
CLOSE = 1e-6
"""Each C library has an exp of its own; the scores of one differ from another's in the last place."""

RECORD = np.dtype(
    [
        *(("status", "<i4"), ("", "V4"), ("size", "<u4"), ("label", "<i4"), ("score", "<f4")),
        *(("valid", "<u4"), ("restarted", "<u4"), ("missed", "<u4"), ("index", "<u8"), ("pts_ns", "<u8")),
        *(("scores", "<f4", (len(LABELS),)), ("", "V4")),
    ]
)


@dataclass(frozen=True)
class Replay:
    """Frames of a camera for a toy model; ``write`` makes the program's input, ``check`` reads its output."""

    toy: Toy | Tracker
    width: int
    height: int
    kind: str

    def pictures(self) -> list[tuple[list[np.ndarray], np.ndarray]]:
        rng = np.random.default_rng(0)
        return [picture(rng, self.width, self.height, self.kind, padded=False) for _ in range(COUNT)]

    def write(self, folder: Path) -> None:
        pictures = self.pictures()
        sizes = [plane.size for plane in pictures[0][0]] + [0]
        row = pictures[0][0][0].shape[1]
        tracked = self.toy.particles if isinstance(self.toy, Tracker) else 0
        options = self.toy if isinstance(self.toy, Toy) else Toy(self.toy.width, self.toy.height)
        head = bytes(options.options()) + np.uint32(tracked).tobytes()
        head += bytes(camera(self.width, self.height, self.kind))
        head += np.array([COUNT, *sizes[:2], row], np.uint32).tobytes()
        frames = b"".join(plane.tobytes() for planes, _ in pictures for plane in planes)
        (folder / "in.bin").write_bytes(head + frames)

    def check(self, folder: Path) -> None:
        out = (folder / "out.bin").read_bytes()
        engine = twin(self.toy)
        session = session_of(engine, self.toy.variant)
        for number, (_, bgr) in enumerate(self.pictures()):
            record, out = np.frombuffer(out[: RECORD.itemsize], RECORD)[0], out[RECORD.itemsize :]
            engine.broken = number % 6 == 5 and isinstance(self.toy, Toy)
            try:
                wanted = session.step(bgr, missed=number // 4 if number % 4 == 2 else 0)
            except EngineError:
                assert record["status"] == NOT_FINITE
            else:
                out = self._compare(record, out, wanted)
                assert record["pts_ns"] == number
            if number == 8:
                session.reset()
        assert not out

    def _compare(self, record: np.void, out: bytes, wanted: Answer) -> bytes:
        assert record["status"] == OK
        named = ("index", "valid", "restarted", "missed")
        assert [record[name] for name in named] == [getattr(wanted, name) for name in named]
        assert wanted.label == (LABELS[record["label"]] if wanted.scores else None)
        np.testing.assert_allclose(record["scores"], wanted.scores or (0, 0, 0), atol=CLOSE)
        values = [a.astype(np.float32).ravel() for a in wanted.outputs.values()]
        for value in (*values, *([np.array(wanted.ids, np.int32)] if wanted.ids else [])):
            np.testing.assert_array_equal(np.frombuffer(out[: value.nbytes], value.dtype), value)
            out = out[value.nbytes :]
        return out


REPLAYS = {
    "area": Replay(Toy(9, 7), 40, 24, "nv12"),
    "area of three bytes": Replay(Toy(13, 7), 40, 24, "rgb"),
    "area as wide as before": Replay(Toy(11, 7), 11, 24, "bgr"),
    "linear": Replay(Toy(20, 17, "bgr", chunk=2), 12, 31, "bgr"),
    "whole": Replay(Toy(8, 6, "grey", warmup=0), 16, 12, "grey"),
    "births": Replay(Tracker(24, 18, 12), 60, 48, "grey"),
    "same": Replay(Toy(10, 6, chunk=3, warmup=6), 10, 6, "rgb"),
}


@pytest.fixture(params=REPLAYS)
def replay(request: pytest.FixtureRequest, tmp_path: Path) -> Replay:
    chosen = REPLAYS[request.param]
    chosen.write(tmp_path)
    return chosen


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"folder": tmp_path_factory.mktemp("replay")}


def program(built: dict[str, Path], machine: Machine, *options: str) -> Path:
    """Compiled once for all replays."""
    name = "-".join([machine.name, *(o.strip("-") for o in options)])
    if name not in built:
        built[name] = machine.build(built["folder"] / name, SOURCES, *options)
    return built[name]


@pytest.mark.parametrize("machine", [SANITIZED, CLANG, *ELSEWHERE], ids=lambda m: m.name)
def test_every_machine_answers_as_python_does(
    replay: Replay, machine: Machine, built: dict[str, Path], tmp_path: Path
) -> None:
    machine.run(program(built, machine), folder=tmp_path)
    replay.check(tmp_path)


def test_without_vectors_and_for_size(replay: Replay, built: dict[str, Path], tmp_path: Path) -> None:
    CORTEX_M7.run(program(built, CORTEX_M7, "-Os"), folder=tmp_path)
    replay.check(tmp_path)


def test_valgrind_finds_nothing(replay: Replay, built: dict[str, Path], tmp_path: Path) -> None:
    if not shutil.which("valgrind"):
        pytest.skip("valgrind is not installed")
    watch = ("valgrind", "-q", "--error-exitcode=9", "--leak-check=full", "--track-origins=yes")
    GCC.run(program(built, GCC, "-g"), folder=tmp_path, before=watch)
    replay.check(tmp_path)


def test_nothing_is_allocated_between_begin_and_end(
    replay: Replay, built: dict[str, Path], tmp_path: Path
) -> None:
    said = GCC.run(program(built, GCC, "-DCOUNT_MALLOC"), folder=tmp_path)
    none, of, every = said.split()[1:4]
    assert (none, of) == ("0", "of") and int(every) > 0  # those of the files: the counter counts
    replay.check(tmp_path)


def test_the_sanitizers_would_tell(built: dict[str, Path], tmp_path: Path) -> None:
    """A session in less than it needs, with that check taken out."""
    source = CORE_WITH_TOY[0].read_text().replace("bytes < needed", "bytes == 0")
    careless = tmp_path / "careless.c"
    careless.write_text(source)
    short = SOURCES[-1].read_text().replace("aligned(bytes, align)", "aligned(bytes - 64, align)")
    (tmp_path / "short.c").write_text(short)
    REPLAYS["area"].write(tmp_path)
    run = SANITIZED.build(tmp_path / "run", [careless, *CORE_WITH_TOY[1:], tmp_path / "short.c"], f"-I{OWN}")
    with pytest.raises(AssertionError, match="heap-buffer-overflow"):
        SANITIZED.run(run, folder=tmp_path)
