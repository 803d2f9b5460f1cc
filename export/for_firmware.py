"""Pack for firmware: the float step as ONNX, and beside it the C that is generated of it."""

from __future__ import annotations

from dataclasses import replace

from edgepv.export.request import FLAT, BuildRequest, BuildResult
from edgepv.firmware.compiled import check_native, sources_of
from edgepv.firmware.compiler import needed

VARIANTS = ("native-fp32",)
"""All there are; that of a flat clip model ends in FLAT."""


def build(request: BuildRequest) -> BuildResult:
    """One variant, run by what this machine's compiler makes of its C.

    Self-test, build files and sizes come with ``edgepv firmware BUNDLE``: they need the golden answers, which
    are recorded when the bundle is whole.
    """
    base = request.flat or request.base
    name = VARIANTS[0] + FLAT if request.flat else VARIANTS[0]
    if not request.wants(name, "fp32"):
        return BuildResult(())
    needed()
    check_native(base)
    sources = sources_of(base, (request.folder / base.path).read_bytes())
    for file, data in sources.items():
        (request.folder / file).write_bytes(data)
    variant = replace(base, name=name, engine="native")
    note = "the C lies in models/; edgepv firmware BUNDLE adds a self-test, build files and sizes"
    return BuildResult((variant,), tuple(sorted(sources)), (note,))
