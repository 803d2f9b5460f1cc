"""The command ``firmware``: a bundle's step as a folder of C."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepv.base.console import say_next, tell
from edgepv.base.tasks import task_of
from edgepv.cli.arguments import Commands
from edgepv.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from edgepv.types import Variant


def add_firmware(commands: Commands) -> None:
    """Add ``edgepv firmware`` to the commands."""
    text = "write a bundle's step as C that needs no library and no malloc, with a self-test"
    c = commands.add_parser("firmware", help=text, description=text)
    c.add_argument("bundle", metavar="BUNDLE", help="bundle folder or .zip")
    c.add_argument(
        "--out",
        metavar="DIR",
        default="firmware",
        help="new folder for the C; an existing one is never overwritten (default: firmware)",
    )
    c.add_argument(
        "--variant",
        metavar="NAME",
        help="variant whose ONNX file becomes C, float or INT8 (default: the float step of the bundle)",
    )
    c.add_argument("--key", metavar="FILE", help="public key (PEM) that must have signed the bundle")
    c.set_defaults(run=firmware_command)


def firmware_command(a: argparse.Namespace) -> int:
    """edgepv firmware"""
    from edgepv.base.files import refuse_out, whole_folder
    from edgepv.bundle import golden, signing
    from edgepv.bundle.manifest import check
    from edgepv.firmware.package import Golden, write_firmware

    out = Path(a.out)
    refuse_out(out)
    with signing.opened(Path(a.bundle), Path(a.key) if a.key else None) as bundle:
        variant = _variant(bundle, a.variant)
        check(bundle)
        recorded = golden.of_variant(golden.load(bundle), variant.name)
        answers, original = recorded[variant.name], recorded["torch"]
        if task_of(variant.spec).follows:
            answers = original = followed(variant, bundle.checked, recorded["frames"])
        limit = golden.tolerance(variant.precision, answers, original)
        if variant.precision == "int8" and not task_of(variant.spec).follows:
            answers, limit = exact_golden(variant, bundle.checked(variant.path), recorded, limit)
        replayed = Golden(recorded["frames"], answers, variant.name, limit)
        with whole_folder(out) as folder:
            sizes = write_firmware(folder, variant, bundle.checked(variant.path), bundle.digest, replayed)
    tell(
        f"{out}: weights {sizes.weights_bytes} bytes, states {sizes.ram.state_bytes}, "
        f"arena {sizes.ram.arena_bytes} (at least {sizes.ram.arena_lower_bound_bytes})",
        file=sys.stderr,
    )
    for processor, built in sizes.flash.items():
        told = (
            f"code {built.code}, constants {built.constants}, data {built.data}" if built else "not measured"
        )
        tell(f"  {processor}: {told}", file=sys.stderr)
    if sizes.selftest_rmse is None:
        tell("  the self-test was not run: no compiler is here", file=sys.stderr)
    else:
        tell(f"  self-test: rmse {sizes.selftest_rmse:.2g}, limit {limit:.2g}", file=sys.stderr)
    where = shlex.quote(str(out))
    say_next(f"cmake -S {where} -B {where}/build && cmake --build {where}/build")
    return 0


EXACT = 1e-6
"""Share of the answers' own size (RMS) that exp and its like may differ by between two C libraries. One other
code is far more."""


def exact_golden(
    variant: Variant, onnx: bytes, recorded: Mapping[str, np.ndarray], limit: float
) -> tuple[np.ndarray, float]:
    """(what an INT8 step means after each golden frame, how far its C may be from it): code for code.

    recorded: golden frames, and the answers of the engine that the file was made for. Raises ParityError if
    they are further than ``limit`` from what the file means.
    """
    import numpy as np

    from edgepv.bundle.golden import golden_answers
    from edgepv.errors import ParityError
    from edgepv.firmware.exact import ExactEngine

    answers = golden_answers(ExactEngine(variant, onnx), variant, recorded["frames"])
    off = float(np.sqrt(np.mean(np.square(answers - recorded[variant.name]))))
    if not off <= limit:
        raise ParityError(
            f"{variant.name} was recorded with answers that are {off:.2g} from what its file means, and "
            f"{limit:.2g} is the limit. Export the bundle again"
        )
    return answers, EXACT * float(np.sqrt(np.mean(np.square(answers))))


def followed(variant: Any, source: Any, frames: Any) -> Any:
    """What a tracker answers to golden frames, (N, values), with births: recorded answers are without.

    source: the folder that its file lies in, or what reads it.
    """
    import numpy as np

    from edgepv.bundle.golden import VALUES
    from edgepv.runtimes import open_session

    name = variant.spec.answer.name
    with open_session(variant, source) as session:
        rows = np.stack([session.step(frame).outputs[name].reshape(-1) for frame in frames])
    return rows[:, :: -(-rows.shape[1] // VALUES)]


def _variant(bundle: Any, name: str | None) -> Any:
    """The variant that becomes C: the one named, or the float step, that of the native engine first."""
    if name is not None:
        variant = bundle.variant(name)
        if not variant.path.endswith(".onnx"):
            raise UsageError(f"{name} is {variant.path}, and C is generated of ONNX files only. Name another")
        return variant
    steps = [
        v
        for v in bundle.content.variants
        if (v.form == "step" or v.engine == "native") and v.precision == "fp32" and v.path.endswith(".onnx")
    ]
    if not steps:
        raise UsageError(
            f"{bundle.folder} holds no float step as ONNX to make C of. Export the model with --target cpu "
            "or --target firmware"
        )
    return min(steps, key=lambda v: v.engine != "native")
