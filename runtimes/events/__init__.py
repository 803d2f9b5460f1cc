"""Answers become events: rules say when something starts and ends, in which zone.

``rules`` reads them, ``watch`` follows scores by them; ``tracks`` says which box is whose, ``visits`` what
those do.
"""

__all__ = ["event", "rules", "tracks", "visits", "watch"]
