"""One rule for each operator: what becomes of it when frames come one at a time.

A rule is registered by its operator's name.
"""

__all__ = ["assign", "memory", "running", "shape", "window"]
