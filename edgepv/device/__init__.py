"""A camera box as it lives: cameras kept going, updates taken back, a trial for every new bundle.

Power may fail at any line.
"""

__all__ = ["cameras", "canary", "finders", "judge", "normal", "self_test", "slots", "trial"]
