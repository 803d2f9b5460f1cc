"""The search: engine x graph form x width x resolution x precision x kept-float layers, by measurement.

space.py      what a candidate is, and all there are
costs.py      a per-layer latency model, fitted to what was measured, to skip hopeless trials
trial.py      build, time and score one candidate
study.py      the Optuna study: many workers, resumable, the same seed the same winner
finals.py     finalists side by side, one look at the final clips
answer.py     the Pareto picture, the table, the files
widths.py     which multiples of channels a target rewards
"""

__all__ = ["answer", "costs", "finals", "space", "study", "trial", "widths"]
