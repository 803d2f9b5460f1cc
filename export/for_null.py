"""Pack for no device: a list of delays in place of a model."""

from __future__ import annotations

from dataclasses import replace

from edgepv.base.files import sha256, write_text
from edgepv.export.job import Job, Packed

FILE = "delays.json"


def build(job: Job) -> Packed:
    """One variant that answers the first label at once."""
    write_text(job.folder / FILE, "[0.0]\n")
    variant = replace(job.base, name="null", engine="null", path=FILE, sha256=sha256(job.folder / FILE))
    return Packed((variant,))
