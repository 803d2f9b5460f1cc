"""A trained classifier learns a user's own labels.

Clips go in; weights, a spec and a card for ``edgepv export`` come out.
"""

__all__ = ["card", "data", "head", "kept", "lora", "request", "run", "train"]
