"""A trained classifier learns a user's own labels: clips in; weights, a spec and a card for ``edgepv
export`` out.
"""

__all__ = ["card", "data", "head", "lora", "request", "run", "train"]
