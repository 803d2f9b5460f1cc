"""Engines that were built here: where they lie, what they belong to, and what is known of each.

An engine has a folder in the cache, by the model's digest, TensorRT, compute capability, JetPack and
precision. Beside it lies status.json: what the engine has earned so far, in this order, and on what.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from edgepv.runtimes.trt.bundle import Model
from edgepv.runtimes.trt.device import Device, refuse_stranger

WORDS = ("host-checked", "built-on-device", "self-tested", "benchmarked")
"""What can be said of a file for TensorRT, each only after the one before it."""
ENGINE, STATUS, LAYERS = "model.engine", "status.json", "layers.json"
DIGITS = 32  # of a SHA-256 in a folder's name, as in edgepv/base/cache.py


def root() -> Path:
    """``$EDGEPV_CACHE`` or the user's cache folder, as ``edgepv.base.cache.root``, and tensorrt in it."""
    chosen = os.environ.get("EDGEPV_CACHE")
    user = Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "edgepv"
    return (Path(chosen) if chosen else user) / "tensorrt"


def key(model: Model, device: Device, kind: str) -> dict[str, str | None]:
    """What an engine is of. kind: the precision it is built for, "int8+fp16"."""
    software = {name: device.key[name] for name in ("tensorrt", "sm", "jetpack")}
    return {"model": model.sha256, **software, "precision": kind}


def folder(model: Model, device: Device, kind: str) -> Path:
    """Where the engine of a model lies on this device."""
    text = json.dumps(key(model, device, kind), sort_keys=True)
    return root() / hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def timing_cache(device: Device) -> Path:
    """Where TensorRT's measured tactics lie; they hold for one TensorRT on one kind of GPU."""
    return root() / f"tactics-{device.tensorrt}-sm{device.sm}.cache"


class Status:
    """What is known of one engine, in a file beside it.

    word: the last of ``WORDS`` that it earned. facts: what each word rests on.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.word = WORDS[0]
        self.facts: dict[str, Any] = {}

    def earn(self, word: str, facts: dict[str, Any]) -> None:
        """Note the next word, or an earlier one anew. Raises ValueError for one out of its turn."""
        now, wanted = WORDS.index(self.word), WORDS.index(word)
        if wanted > now + 1:
            raise ValueError(f"{word} comes after {WORDS[wanted - 1]}, and the engine is {self.word}")
        self.word = word
        self.facts = {w: self.facts[w] for w in WORDS[:wanted] if w in self.facts}
        self.facts[word] = {"at": int(time.time()), **facts}
        write(self.place / STATUS, json.dumps({"status": self.word, **self.facts}, indent=1).encode())

    @classmethod
    def read(cls, place: Path) -> Status:
        """The status in a folder; "host-checked" where nothing was built yet or the file is damaged."""
        found = cls(place)
        with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):
            data = json.loads((place / STATUS).read_text(encoding="utf-8"))
            if data.pop("status") in WORDS and WORDS[1] in data:
                found.facts = data
                found.word = [word for word in WORDS if word in data][-1]
        return found


def built(place: Path, device: Device, name: str) -> bytes | None:
    """The engine in a folder; None if there is no whole one. Raises UsageError if it is of another device."""
    status = Status.read(place)
    if status.word == WORDS[0]:
        return None
    facts = status.facts[WORDS[1]]
    refuse_stranger(device, facts["device"], name)
    try:
        plan = (place / ENGINE).read_bytes()
    except OSError:
        return None
    return plan if hashlib.sha256(plan).hexdigest() == facts["sha256"] else None


def keep(bundle_digest: str, device: Device, facts: dict[str, Any]) -> None:
    """Note which variant of a bundle this device runs, and why."""
    write(_kept(bundle_digest), json.dumps({"device": device.key, **facts}, indent=1).encode())


def judged(bundle_digest: str, device: Device) -> dict[str, dict[str, object]]:
    """What clips said of each engine of a bundle on this device when they were last given; {} if never."""
    return dict(_noted(bundle_digest, device).get("judged", {}))


def _noted(bundle_digest: str, device: Device) -> dict[str, Any]:
    """What ``keep`` noted of a bundle on this device; nothing where it did not, or the file is damaged."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        data: dict[str, Any] = json.loads(_kept(bundle_digest).read_text(encoding="utf-8"))
        if data["device"] == device.key:
            return data
    return {}


def kept(bundle_digest: str, device: Device) -> tuple[str, ...]:
    """The variants of a bundle that this device may run, the kept one first; () if nothing was kept."""
    with contextlib.suppress(KeyError):
        data = _noted(bundle_digest, device)
        return (str(data["variant"]), *(str(n) for n in data.get("fit", ()) if n != data["variant"]))
    return ()


def _kept(bundle_digest: str) -> Path:
    return root() / f"kept-{bundle_digest[:DIGITS]}.json"


def write(path: Path, data: bytes) -> None:
    """Write a file whole: to a temporary name beside it, then renamed over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=str(path.parent), prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
