"""Video as a model sees it: files, times, frames, labelled clips, their truth, and their split.

Torch is not needed.
"""

__all__ = [
    "annotated",
    "before",
    "boxes",
    "calibration",
    "clips",
    "conditions",
    "container",
    "degrade",
    "frames",
    "masked",
    "masks",
    "split",
    "truth",
    "video",
    "yolo",
]
