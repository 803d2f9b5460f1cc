"""The engine room: a variant's file in, answers in time out."""

from __future__ import annotations

from edgepv.runtimes.engine import Engine, open_engine
from edgepv.runtimes.lane import Answer
from edgepv.runtimes.session import Session, open_session

__all__ = ["Answer", "Engine", "Session", "open_engine", "open_session"]
