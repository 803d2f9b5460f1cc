"""What is drawn on pictures, and what is made unrecognisable in them.

Both come before any receiver sees a frame.
"""

__all__ = ["cover", "drawing", "faces", "outlines", "privacy"]
