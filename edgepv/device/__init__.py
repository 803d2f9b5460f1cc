"""A camera box as it lives: cameras kept going, updates that can be taken back, a trial that a new bundle
must pass. Power may fail at any line.
"""

__all__ = ["cameras", "canary", "self_test", "slots", "trial"]
