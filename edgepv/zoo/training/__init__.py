"""Everything that trains the built-in models: data, losses, loops, baselines, cards.

Nothing of it is needed to run or export one.
"""

__all__ = [
    "baselines",
    "classifiers",
    "command",
    "crossval",
    "data",
    "epochs",
    "graph",
    "motion",
    "parallel",
    "particle",
    "physics",
    "publish",
    "restore",
    "scene_clips",
    "scenes",
    "score",
    "segment",
    "steps",
    "track",
]
