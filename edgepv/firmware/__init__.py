"""Firmware: the step of a streamed model as C99 that needs no library, no malloc and no thread.

``c`` holds what every firmware shares; the rest reads a step graph and writes the C of one model.
"""

from __future__ import annotations

from edgepv.firmware.generator import FLAGS, PRECISIONS, Firmware, generate

__all__ = ["FLAGS", "PRECISIONS", "Firmware", "generate"]
