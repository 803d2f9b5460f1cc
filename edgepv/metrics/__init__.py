"""How good answers are, and what a small test set can tell of it: each task's metric, intervals, what a
variant lost. Numbers in, numbers out; nothing is run here.
"""

__all__ = ["gate", "margins", "pareto", "pictures", "stats", "tasks"]
