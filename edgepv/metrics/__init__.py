"""How good answers are, and what a small test set can tell of it.

Each task's metric, intervals, what a variant lost: numbers in, numbers out; nothing is run here.
"""

__all__ = [
    "baselines",
    "choice",
    "curves",
    "detection",
    "flips",
    "gate",
    "margins",
    "pareto",
    "pictures",
    "resolution",
    "roofline",
    "segmentation",
    "slices",
    "stats",
    "tails",
    "tasks",
    "times",
]
