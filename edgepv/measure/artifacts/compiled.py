"""Generated C outside of a bundle: a folder of ``edgepv firmware``, or a shared object of one."""

from __future__ import annotations

import re
from pathlib import Path

from edgepv.base import cache
from edgepv.base.files import digest, read_json, sha256
from edgepv.errors import EngineError, UsageError
from edgepv.firmware.compiled import HERE
from edgepv.firmware.compiler import cpu_flags, needed, shared_object
from edgepv.firmware.library import ENTRY_C, Library, StatusError
from edgepv.measure.artifacts.artifact import Artifact, Opened, engine_facts, file_facts, film, noise
from edgepv.stream import Tensors

HEADER, GOLDEN, SIZES = "model.h", ("golden.c", "golden.h"), "sizes.json"
FRAME = "frame"
SYMBOL = re.compile(r"extern const edgepv_model (\w+);")


def is_firmware(path: Path) -> bool:
    """Whether a folder holds the C of a model."""
    return (path / HEADER).is_file() and (path / "edgepv.h").is_file()


def of_folder(path: Path, threads: int) -> Artifact:
    """A firmware folder, compiled for this very processor into the cache. What it holds is run.

    Raises TargetUnavailableError without a compiler, EngineError if that fails.
    """
    header = (path / HEADER).read_text(encoding="utf-8", errors="replace")
    symbol = SYMBOL.search(header)
    if symbol is None:
        raise UsageError(f"{path / HEADER} names no model. Write the folder again: edgepv firmware")
    sources = {p.name: p.read_bytes() for p in sorted(path.iterdir()) if _is_source(p)}
    sources["entry.c"] = ENTRY_C.format(symbol=symbol[1]).encode("ascii")
    chosen = needed()
    digests = {name: digest(data.hex()) for name, data in sources.items()}
    key = {
        "firmware": digests,
        "compiler": [chosen.command, chosen.version],
        "options": HERE,
        "flags": sorted(cpu_flags()),
    }

    def make(folder: Path) -> object:
        (folder / "model.so").write_bytes(shared_object(chosen, sources, HERE))
        return symbol[1]

    made = cache.cached(key, make)[0] / "model.so"
    sizes = read_json(path / SIZES) if (path / SIZES).is_file() else {"ram": {}}
    return _artifact(path.name, made, threads, digest(digests), sizes["ram"].get("state_bytes"))


def of_object(path: Path, threads: int) -> Artifact:
    """A shared object of generated C. It is machine code, and is run."""
    return _artifact(path.name, path, threads, sha256(path), None)


def _is_source(path: Path) -> bool:
    return path.suffix in (".c", ".h", ".inc", ".bin", ".S") and path.name not in GOLDEN


def _artifact(name: str, path: Path, threads: int, sha: str, state_bytes: int | None) -> Artifact:
    info = Library(str(path.resolve())).info
    return Artifact(
        name=name,
        kind="generated C",
        **engine_facts("native", threads),
        sha256=sha,
        opener=f"{__name__}:opened",
        arguments={"path": str(path.resolve())},
        precision="fp32",
        bytes=file_facts(path)[1],
        state_bytes=state_bytes,
        rate=info.fps_num / info.fps_den if info.fps_den else None,
        library=f"{__name__}:library",
    )


class CompiledEngine:
    """One session of a shared object. Raises UsageError for a model that takes no tensors."""

    def __init__(self, path: str) -> None:
        library = Library(path)
        info = library.info
        try:
            self._session, self._outputs = library.begin(), info.outputs
        except StatusError as e:
            raise UsageError(
                f"{path} cannot be fed tensors ({e}): a tracker takes pictures. Give its bundle"
            ) from e
        self.chunk, self.shape = max(1, info.chunk), (info.channels, info.height, info.width)

    def infer(self, inputs: Tensors) -> Tensors:
        """Step with each of the frames (N, C, H, W). Raises EngineError for an answer that is not finite."""
        try:
            for frame in inputs[FRAME]:
                self._session.step(frame)
            return {str(i): self._session.output(i) for i in range(self._outputs)}
        except StatusError as e:
            raise EngineError(f"the compiled model fails: {e}. Run its self-test") from e

    def close(self) -> None:
        """End the session."""
        self._session.end()


def opened(path: str, threads: int) -> Opened:
    """Load a shared object. threads: is not asked, generated C runs in the caller's."""
    engine = CompiledEngine(path)
    frames = film((1, *engine.shape))
    call = {FRAME: noise((engine.chunk, *engine.shape), "float32")}
    return Opened(engine, lambda: call, lambda: engine.infer({FRAME: next(frames)}), engine.chunk)


def library(path: str) -> Path:
    """The shared object itself."""
    return Path(path)
