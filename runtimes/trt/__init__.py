"""TensorRT on a device: facts, build, proof, measurement, and an engine that keeps its states there.

All of it is Python 3.8 with numpy, ctypes and JetPack's own ``tensorrt``, because JetPack 5 has no newer one:
a bundle carries these files as ``kit.pyz``, and the installed edgepv uses the same.
"""

__all__ = ["builder", "bundle", "cuda", "device", "engine", "kit", "layers", "measure", "store"]
