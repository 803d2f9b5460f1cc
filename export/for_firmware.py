"""Pack for firmware: the step as ONNX, in float and INT8, and the C that is generated of it."""

from __future__ import annotations

from edgepv.export.for_cpu import NATIVE, NATIVE_INT8, in_c, wanted_in_c
from edgepv.export.request import BuildRequest, BuildResult
from edgepv.firmware.compiled import sources_of
from edgepv.types import Variant

VARIANTS = (NATIVE, NATIVE_INT8)
"""All there are; that of a flat clip model ends in FLAT."""
STEPS = {NATIVE_INT8: "mixed"}
"""Variant -> the step that makes it."""
CHAIN = False
"""A camera's picture becomes the model's input in C, where no chain of ``ModelSpec.before`` is."""


def build(request: BuildRequest) -> BuildResult:
    """Both, run by what this machine's compiler makes of their C; the sources are those of the first.

    Self-test, build files and sizes come with ``edgepv firmware BUNDLE``: they need the golden answers, which
    are recorded when the bundle is whole.
    """
    variants: list[Variant] = []
    for name, precision in wanted_in_c(request):
        with request.attempt(name):
            variants.append(in_c(request, name, precision))
    if not variants:
        return BuildResult(())
    first = variants[0]
    sources = sources_of(first, (request.folder / first.path).read_bytes())
    for file, data in sources.items():
        (request.folder / file).write_bytes(data)
    more = "edgepv firmware BUNDLE adds a self-test, build files and sizes"
    note = f"the C of {first.name} lies in models/; {more}"
    return BuildResult(tuple(variants), tuple(sorted(sources)), (note,))
