"""The compression room: pruning and quantization steps; a model in, a smaller model out.

One file per step, one frozen dataclass ``Step`` per file: its fields are its options, calling it does
the work and returns a new value. Nothing is edited in place.
"""
