"""What ``edgepv bench`` found: every artifact of one run, and the machine that it ran on."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgepv.types.measured import DeviceFacts, Latency


@dataclass(frozen=True)
class BenchSetup:
    """What a time depends on beside the artifact: results of unlike setups are not compared.

    device: its ``load`` is of the moment, and no part of the setup. governor: of the cores that the process
    may use. mhz: least and largest clock frequency they are allowed. power_mode: of nvpmodel. threads: of the
    engine. edgepv: its version.
    """

    device: DeviceFacts
    threads: int
    edgepv: str
    governor: str | None = None
    mhz: tuple[float, float] | None = None
    power_mode: str | None = None


@dataclass(frozen=True)
class ColdStart:
    """A fresh process to its first answer, medians of ``n`` processes, in ms.

    process_ms: since the system made the process, the start of Python among it; None where it does not tell.
    open_ms: the engine imported and the model opened. first_ms: the first call.
    """

    open_ms: float
    first_ms: float
    n: int
    process_ms: float | None = None


@dataclass(frozen=True)
class CameraLoad:
    """Frames that came at a camera's rate, whether or not the one before was answered.

    overruns: frames whose answer was not there when the next one came. dropped: frames that were never
    computed, as a newer one came while they waited. p50_ms to p999_ms: from the moment a frame came to its
    answer; None where so few do not support that percentile. most_ms: the longest. The states are fed back.
    """

    fps: float
    frames: int
    overruns: int
    dropped: int
    p50_ms: float
    p95_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    most_ms: float
    inconclusive: str | None = None


@dataclass(frozen=True)
class LoadGenCheck:
    """What LoadGen (SingleStream) says of the same calls: its p90 and its early-stopping estimate, in ms.

    It is the load generator alone, and no MLPerf result. estimate_ms: None where it had too few queries.
    """

    version: str
    queries: int
    p90_ms: float
    estimate_ms: float | None


@dataclass(frozen=True)
class BenchRow:
    """One artifact. None is "not measured".

    kind: what the artifact is, such as "bundle" or "onnx". engine, build, policy: what ran it, which build of
    that, and with which threads. sha256: of the model file; of a firmware folder, of all that is compiled.
    latency: of one call, interleaved with the other rows; its ratios are to the first row and to the float
    rows of bundles (of one bundle alone, to these only). p90_ms: of the same calls. fps: frames a
    second of one stream, one call after another; a call may take several frames.
    turns_ms, turns_cpu_ms: wall and CPU time of a call of each turn, in the order of measuring.
    rate: frames a second of the camera it is for. cameras_per_core: whose frames one core has CPU time for.
    rss_mib: peak memory of a process that does nothing else. mallocs: of one step, of generated C.
    energy_mj: of one call, by a sensor of the whole machine, what it takes when idle among it.
    """

    name: str
    kind: str
    engine: str
    build: str
    policy: str
    sha256: str
    latency: Latency
    p90_ms: float | None
    fps: float
    turns_ms: tuple[float, ...] = field(repr=False)
    turns_cpu_ms: tuple[float, ...] = field(repr=False)
    precision: str | None = None
    rate: float | None = None
    cameras_per_core: float | None = None
    bytes: int | None = None
    state_bytes: int | None = None
    rss_mib: float | None = None
    cold_start: ColdStart | None = None
    camera: CameraLoad | None = None
    loadgen: LoadGenCheck | None = None
    mallocs: int | None = None
    energy_mj: float | None = None


@dataclass(frozen=True)
class BenchResult:
    """One run of ``edgepv bench``.

    at: date and time in UTC. celsius: of the hottest sensor, before and after. left_out: what of the asked
    could not run, and why.
    """

    schema: int
    at: str
    setup: BenchSetup
    rows: tuple[BenchRow, ...]
    celsius: tuple[float, float] | None = None
    left_out: tuple[str, ...] = ()

    def row(self, name: str) -> BenchRow | None:
        """The row called ``name``; None if there is none."""
        return next((row for row in self.rows if row.name == name), None)

    @property
    def inconclusive(self) -> str | None:
        """Why these times are no ground for a choice; None where nothing speaks against it."""
        told = (r.latency.inconclusive or (r.camera.inconclusive if r.camera else None) for r in self.rows)
        return next(filter(None, told), None)
