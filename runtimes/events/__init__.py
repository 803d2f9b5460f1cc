"""Answers become events: rules say when something starts and ends, in which zone.

``watch`` follows them, ``rules`` reads them.
"""

__all__ = ["rules", "watch"]
