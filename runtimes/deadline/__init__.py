"""The deadline runtime: which frame, which variant, and what is said when time is up."""

from __future__ import annotations

from edgepv.runtimes.deadline.controller import Controller
from edgepv.runtimes.deadline.desk import Reply
from edgepv.runtimes.deadline.ladder import Ladder, open_ladder
from edgepv.runtimes.deadline.runner import DeadlineRunner, profile

__all__ = ["Controller", "DeadlineRunner", "Ladder", "Reply", "open_ladder", "profile"]
