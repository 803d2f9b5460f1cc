"""The bundle: one folder, or one zip of it, that a device can run and anyone can check.

It holds a manifest, golden answers and a signature, and is proven on a machine it was not made on.
"""

from __future__ import annotations

from edgepv.bundle.archive import is_bundle, opened, unpacked, zip_bundle
from edgepv.bundle.manifest import (
    GOLDEN,
    MANIFEST,
    SIGNATURE,
    Bundle,
    Content,
    Measured,
    check,
    digests,
    manifest_bytes,
    parse,
    read,
    read_plain,
    write,
)

__all__ = [
    "GOLDEN",
    "MANIFEST",
    "SIGNATURE",
    "Bundle",
    "Content",
    "Measured",
    "check",
    "digests",
    "is_bundle",
    "manifest_bytes",
    "opened",
    "parse",
    "read",
    "read_plain",
    "unpacked",
    "write",
    "zip_bundle",
]
