"""What a device is, as far as an engine depends on it, and what is refused before TensorRT is loaded."""

from __future__ import annotations

import contextlib
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Iterator

from edgepv.errors import DeviceError, TargetUnavailableError, UsageError
from edgepv.runtimes.trt import cuda

STRONG_SINCE = (10, 12)
"""The first TensorRT whose engines are built with the file's own types; see edgepv/targets/jetson.py."""
NOT_ON_JETSON = ((11, 0), (11, 3))
"""From the first to the last TensorRT that runs on no Jetson; 11.4.1 does (NVIDIA's page on migrating to
11)."""
ANSWER_S = 5.0  # for nvpmodel, which answers at once or hangs


@dataclass(frozen=True)
class Device:
    """One machine with its software. None: not known, which is said and never guessed.

    model: as the device tree calls it. sm: compute capability, "8.7". free, total: bytes of the GPU's memory.
    power: the mode of nvpmodel. clocks: MHz by name, now and at most. stats: what jetson-stats tells.
    """

    model: str | None
    board: str | None
    l4t: str | None
    jetpack: str | None
    tensorrt: str
    cuda_devices: int
    sm: str
    free: int
    total: int
    integrated: bool
    python: str
    power: str | None
    clocks: dict[str, tuple[float, float]]
    stats: dict[str, str] | None

    @property
    def key(self) -> dict[str, str | None]:
        """What an engine belongs to besides its model."""
        return {"tensorrt": self.tensorrt, "sm": self.sm, "jetpack": self.jetpack, "board": self.board}

    @property
    def strong(self) -> bool:
        """Whether engines take their types from the file."""
        return number(self.tensorrt) >= STRONG_SINCE

    def told(self) -> Iterator[str]:
        """What a person wants to see of it, a line each."""
        memory = f"{self.free >> 20} of {self.total >> 20} MiB free"
        yield f"device: {self.model or 'no Jetson'}, SM {self.sm}, {memory}"
        known = self.jetpack or "not known"
        yield f"software: JetPack {known}, TensorRT {self.tensorrt}, Python {self.python}"
        clocks = ", ".join(f"{name} {now:.0f} of {most:.0f} MHz" for name, (now, most) in self.clocks.items())
        yield f"power mode: {self.power or 'not known'}; clocks: {clocks or 'not known'}"
        stats = ", ".join(f"{key} {value}" for key, value in (self.stats or {}).items())
        yield f"jetson-stats: {stats or 'no answer'}"

    def as_json(self) -> dict[str, object]:
        """All of it as plain JSON data."""
        return asdict(self)


def table() -> dict[str, Any]:
    """Boards and JetPacks, from edgepv/targets/jetson.json."""
    data = pkgutil.get_data("edgepv.targets", "jetson.json")
    assert data is not None
    tables: dict[str, Any] = json.loads(data)
    return tables


def number(version: str) -> tuple[int, ...]:
    """ "10.3.0.26" -> (10, 3, 0, 26), which compares."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:4])


def tensorrt() -> Any:
    """The tensorrt module. Asked for only after ``cuda.device_count`` found a GPU.

    Raises TargetUnavailableError if this Python has none.
    """
    try:
        return importlib.import_module("tensorrt")
    except ImportError as e:
        python = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise TargetUnavailableError(
            f"Python {python} cannot import tensorrt ({e}). JetPack's is for the system's python3: use "
            f"that, or a "
            "virtual environment with --system-site-packages"
        ) from e


def find(root: Path = Path("/"), *, stats: bool = False) -> Device:
    """What is here. root: where the machine's files lie. stats: whether to ask jetson-stats, for a second.

    Raises TargetUnavailableError where there is no GPU or no tensorrt, and for a TensorRT that is refused.
    """
    count, why = cuda.device_count()
    if not count:
        raise TargetUnavailableError(
            f"no GPU for TensorRT on this machine: {why}. Run the bundle on the Jetson, or replay its "
            f"Q/DQ file "
            "here with --engine onnxruntime"
        )
    version = str(tensorrt().__version__)
    model = _text(root / "proc/device-tree/model")
    refuse_version(version, jetson=model is not None)
    driver = cuda.Cuda()
    try:
        free, total = driver.memory()
        sm = f"{driver.attribute(cuda.MAJOR)}.{driver.attribute(cuda.MINOR)}"
        integrated = bool(driver.attribute(cuda.INTEGRATED))
        if integrated:  # the driver does not count what the kernel gives back at once, such as file caches
            free = max(free, min(total, _available(root)))
    finally:
        driver.close()
    l4t = _l4t(root)
    return Device(
        model,
        _board(model),
        l4t,
        _jetpack(root, l4t),
        version,
        count,
        sm,
        free,
        total,
        integrated,
        ".".join(map(str, sys.version_info[:3])),
        _power(root),
        _clocks(root),
        _stats() if stats else None,
    )


def refuse_version(version: str, *, jetson: bool) -> None:
    """Raise TargetUnavailableError for a TensorRT that is not to be used."""
    parts = number(version)
    if parts < (8, 5):
        raise TargetUnavailableError(
            f"TensorRT {version} is too old: named tensors come with 8.5. Update JetPack to 5.1"
        )
    if parts[:3] == (10, 2, 0):
        raise TargetUnavailableError("TensorRT 10.2.0 is refused: no JetPack has it. Install 10.3 or later")
    if jetson and NOT_ON_JETSON[0] <= parts[:2] <= NOT_ON_JETSON[1]:
        raise TargetUnavailableError(
            f"TensorRT {version} is for no Jetson: 11.0 to 11.3 are for other GPUs. Install 11.4.1 or "
            f"JetPack's own"
        )


def refuse_target(device: Device, target: str) -> None:
    """Raise TargetUnavailableError for a bundle of another compute capability or JetPack than this device's.

    A bundle for ``jetson`` is for every board, and may be tried on any GPU. Boards of one compute capability
    take each other's: an engine is built anew on each.
    """
    board, _, jetpack = target.partition("@")
    boards = table()["boards"]
    if board == "jetson" or board not in boards:
        return
    if boards[board]["sm"] != device.sm:
        raise TargetUnavailableError(
            f"the bundle is for {board} (SM {boards[board]['sm']}), and this GPU is SM {device.sm}. "
            f"Export for it: "
            f"--target {device.board or 'jetson'}"
        )
    if jetpack and device.jetpack and not f"{device.jetpack}.".startswith(f"{jetpack}."):
        raise TargetUnavailableError(
            f"the bundle is for JetPack {jetpack}, and {device.jetpack} is here. Export for it: "
            f"--target {board}@{device.jetpack}"
        )


def refuse_memory(device: Device, needed: int, what: str) -> None:
    """Raise DeviceError if less than ``needed`` bytes of the GPU's memory are free."""
    if device.free < needed:
        raise DeviceError(
            f"{what} needs about {needed >> 20} MiB, and {device.free >> 20} MiB are free. Close other "
            f"programs, stop "
            "the desktop (sudo systemctl isolate multi-user), or add swap"
        )


def refuse_stranger(device: Device, built: dict[str, object], name: str) -> None:
    """Raise UsageError for an engine that was built on another device or with other software than this."""
    other = [
        f"{key} {built.get(key)}, here {value}"
        for key, value in device.key.items()
        if built.get(key) != value
    ]
    if other:
        raise UsageError(
            f"the engine of {name} was built elsewhere ({'; '.join(other)}), and engines do not move. "
            f"Build it here: "
            "edgepv build BUNDLE"
        )


def _text(path: Path) -> str | None:
    try:
        return path.read_bytes().replace(b"\0", b"").decode("utf-8", "replace").strip() or None
    except OSError:
        return None


def _available(root: Path) -> int:
    """Bytes of memory that the kernel says can be had; 0 where it does not say."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _text(root / "proc/meminfo") or "", re.MULTILINE)
    return 1024 * int(match[1]) if match else 0


def _board(model: str | None) -> str | None:
    """The board's name in the table; the longest of its own names that the device tree's model holds."""
    found = [
        (len(own), board)
        for board, row in table()["boards"].items()
        for own in row["models"]
        if own in (model or "").lower()
    ]
    return max(found)[1] if found else None


def _l4t(root: Path) -> str | None:
    """Jetson Linux, "36.4.3", of the line "# R36 (release), REVISION: 4.3, GCID: ..."."""
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release") or "")
    return f"{match[1]}.{match[2]}" if match else None


def _jetpack(root: Path, l4t: str | None) -> str | None:
    """Of the package nvidia-jetpack where it is there, else the table's line with this Jetson Linux."""
    status = _text(root / "var/lib/dpkg/status") or ""
    match = re.search(r"^Package: nvidia-jetpack\n(?:.+\n)*?Version: ([\d.]+)", status, re.MULTILINE)
    if match:
        return match[1]
    lines = {
        name: number(row["l4t"].split(" to ")[0]) for name, row in table()["jetpacks"].items() if row["l4t"]
    }
    fit = [
        name for name, first in lines.items() if l4t and first <= number(l4t) and first[0] == number(l4t)[0]
    ]
    return max(fit, key=lambda name: lines[name], default=None)


def _power(root: Path) -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["nvpmodel", "-q"], capture_output=True, text=True, timeout=ANSWER_S, check=False
        )
        match = re.search(r"NV Power Mode: (\S+)", done.stdout)
        if match:
            return match[1]
    return _text(root / "var/lib/nvpmodel/status")


def _clocks(root: Path) -> dict[str, tuple[float, float]]:
    """MHz now and at most, of the GPU and of the first core."""
    found = {}
    for folder in sorted((root / "sys/class/devfreq").glob("*")):
        if re.search(r"gpu|gv11b|ga10b|gp10b|gb10b|nvgpu", folder.name):
            now, most = _text(folder / "cur_freq"), _text(folder / "max_freq")
            if now and most:
                found["GPU"] = (int(now) / 1e6, int(most) / 1e6)
    core = root / "sys/devices/system/cpu/cpu0/cpufreq"
    now, most = _text(core / "scaling_cur_freq"), _text(core / "cpuinfo_max_freq")
    if now and most and now.isdigit() and most.isdigit():
        found["CPU"] = (int(now) / 1e3, int(most) / 1e3)
    return found


def _stats() -> dict[str, str] | None:
    """Temperatures, power and mode by jetson-stats; None where it is not installed or does not answer."""
    try:
        jtop = importlib.import_module("jtop").jtop
        with jtop(interval=0.5) as stats:
            return {str(key): str(value) for key, value in stats.stats.items()} if stats.ok() else None
    except Exception:  # a service that is not there, another version, another user: none of it matters here
        return None
