"""edgepv's own variant, as ``edgepv run`` opens it. benchmarks/peers_cases.py has it made."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from serve import ROOT, Case, Infer


def open_model(case: Case, out: Path, made: dict[str, Any]) -> Infer:
    """The variant by its engine, on one thread."""
    sys.path.insert(0, str(ROOT))
    from edgepv.runtimes.engine import open_engine
    from edgepv.types import Variant, decode

    infer: Infer = open_engine(decode(Variant, made["variant"]), Path(made["folder"])).infer
    return infer
