"""Measure on this machine: latency interleaved, memory, answers on real clips, a replay at camera speed.

A figure never travels without its machine.
"""

__all__ = [
    "answers",
    "artifacts",
    "bench",
    "camera",
    "compare",
    "fresh",
    "here",
    "latency",
    "layers",
    "loadgen",
    "mallocs",
    "memory",
    "remote",
    "replay",
    "roofline",
    "setup",
]
