"""Answers become events: rules say when something starts and ends, in which zone.

``rules`` reads them, ``watch`` follows scores by them; ``odd`` says how odd a picture is, ``tracks`` which
box is whose, ``visits`` what those do.
"""

__all__ = ["event", "odd", "rules", "tracks", "visits", "watch"]
