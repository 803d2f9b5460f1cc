"""Pack for no device: a list of delays in place of a model."""

from __future__ import annotations

from dataclasses import replace

from edgepv.base.files import sha256, write_text
from edgepv.export.request import BuildRequest, BuildResult

FILE = "delays.json"


def build(request: BuildRequest) -> BuildResult:
    """One variant that answers the first label at once."""
    write_text(request.folder / FILE, "[0.0]\n")
    variant = replace(
        request.base, name="null", engine="null", path=FILE, sha256=sha256(request.folder / FILE)
    )
    return BuildResult((variant,))
