"""Video as a model sees it: files and their times, frames, labelled clips, what is true of them, their split
into sides that share nothing. Torch is not needed.
"""

__all__ = ["calibration", "clips", "container", "degrade", "frames", "split", "truth", "video"]
