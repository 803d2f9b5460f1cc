"""The packing room: a model and a target in, that target's files out, with a parity check."""
