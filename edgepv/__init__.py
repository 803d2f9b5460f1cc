"""edgepv: compress a trained video model, convert it, prove it, and run it on a camera."""

__version__ = "0.1.0"
