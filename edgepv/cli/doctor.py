"""What is installed here, what that allows, and the exact line that installs what is missing."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from edgepv.base.console import tell
from edgepv.base.engines import ENGINES
from edgepv.base.machine import device_facts
from edgepv.base.optional import litert_interpreter, present
from edgepv.base.registry import Registry
from edgepv.base.tasks import TASKS
from edgepv.errors import TargetUnavailableError
from edgepv.firmware.compiler import compiler
from edgepv.quantize.step import broken_steps
from edgepv.runtimes.sinks import SINKS
from edgepv.runtimes.sources import KINDS
from edgepv.targets import TARGETS, jetson, targets
from edgepv.types import encode

PLACES: tuple[Registry[Any], ...] = (TARGETS, ENGINES, KINDS, SINKS, TASKS)
PACKAGES = {
    "numpy": ("numpy", None),
    "cv2": ("opencv-python-headless", None),
    "onnxruntime": ("onnxruntime", "cpu"),
    "openvino": ("openvino", "cpu"),
    "ai_edge_litert": ("ai-edge-litert", "mobile"),
    "torch": ("torch", "compress"),
    "onnx": ("onnx", "compress"),
    "nncf": ("nncf", "compress"),
    "torch_pruning": ("torch-pruning", "compress"),
    "litert_torch": ("litert-torch", "compress"),
    "ai_edge_quantizer": ("ai-edge-quantizer", "compress"),
    "tensorrt_rtx": ("tensorrt-rtx", "trt-check"),
}


def examine() -> dict[str, Any]:
    """Packages, and per target whether it can be built, run and measured here.

    Also what of other packages cannot be loaded, the pip lines that help, and what of the table of Jetsons no
    source was read for.
    """
    packages = {}
    for module, (distribution, extra) in PACKAGES.items():
        packages[distribution] = {"version": _version(distribution, module), "extra": extra}
    by_target, (chosen, unusable) = {}, _compiler()
    cures: set[str] = set()
    for target in targets().values():
        build = [e for m, e in target.needs_build if not present(m)]
        run = [e for m, e in target.needs_run if not _runs(m)]
        lacking = target.engines == ("native",) and not chosen
        by_target[target.name] = {
            "build": not build and not lacking,
            "run": not run and not lacking and target.status != "host-checked",
            "why": "missing: gcc or clang" if lacking else _why(target.status, build, run),
        }
        cures |= {f"pip install 'edgepv[{extra}]'" for extra in (*build, *run)}
    return {
        "device": encode(device_facts()),
        "packages": packages,
        "compiler": chosen,
        "targets": by_target,
        "broken": [*unusable, *(line for one in PLACES for line in one.every()[1]), *broken_steps()],
        "cures": sorted(cures),
        "unverified": jetson.unverified(),
    }


def _compiler() -> tuple[str | None, tuple[str, ...]]:
    """What compiles native variants here, None if nothing does; and why what was named does not."""
    try:
        found = compiler()
    except TargetUnavailableError as e:
        return None, (str(e),)
    return (found.version if found else None), ()


def _version(distribution: str, module: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "installed" if present(module) else None


def _runs(module: str) -> bool:
    """Present, and for LiteRT an interpreter that can really be had."""
    if module != "ai_edge_litert":
        return present(module)
    try:
        return litert_interpreter() is not None
    except TargetUnavailableError:
        return False


def _why(status: str, build: list[str], run: list[str]) -> str:
    missing = sorted({*build, *run})
    if missing:
        return f"missing: edgepv[{','.join(missing)}]"
    if status == "host-checked":
        return "packs and checks here; engines are built, run and timed on the device"
    return "builds, runs and is timed here"


def show(facts: dict[str, Any]) -> None:
    """Print it for a person."""
    device = facts["device"]
    tell(f"{device['cpu']}, {device['cores']} cores, {device['arch']}, {' '.join(device['flags'])}")
    for name, row in facts["packages"].items():
        cure = f"  pip install 'edgepv[{row['extra']}]'" if row["version"] is None else ""
        tell(f"  {name:24} {row['version'] or 'not installed'}{cure}")
    told = facts["compiler"] or "none; native variants need gcc or clang"
    tell(f"  {'C compiler':24} {told}")
    for line in facts["broken"]:
        tell(line)
    for name, row in facts["targets"].items():
        words = ["yes" if row[verb] else "no" for verb in ("build", "run")]
        tell(f"{name:8} build {words[0]:3} run {words[1]:3} {row['why']}")
    for name, fields in facts["unverified"].items():
        tell(f"{name}: not verified: {', '.join(fields)} (edgepv/targets/jetson.json)")
