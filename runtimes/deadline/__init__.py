"""The deadline runtime: which frame, which variant, and what is said when time is up."""

from __future__ import annotations

from edgepv.runtimes.deadline.controller import Controller
from edgepv.runtimes.deadline.runner import DeadlineRunner, profile
from edgepv.runtimes.deadline.scheduler import Reply

__all__ = ["Controller", "DeadlineRunner", "Reply", "profile"]
