"""Operators that converters lack, written in those that they have, while a module is captured."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from edgepv.base.optional import need


@contextlib.contextmanager
def in_parts() -> Iterator[None]:
    """Have torch compute attention as two products and a softmax, and adaptive pooling window by window.

    torch.onnx takes attention whole in 4-D only, and neither it nor litert-torch knows an adaptive pooling of
    three axes to more than one.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH), _pools():
        yield


def _pools() -> Any:
    """A mode in which adaptive poolings are means and maxima over slices; torch's own classes are bases."""
    torch = need("torch", extra="compress")
    from torch.overrides import TorchFunctionMode

    poolings: dict[Any, tuple[int, bool]] = {}
    for axes in (1, 2, 3):
        for kind, mean in (("avg", True), ("max", False)):
            name = f"adaptive_{kind}_pool{axes}d"
            places = (torch, torch._C._nn, torch.nn.functional)
            functions = [f for f in (getattr(place, name, None) for place in places) if f is not None]
            poolings |= dict.fromkeys(functions, (axes, mean))

    class Pools(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            known = poolings.get(func)
            if known is None or (kwargs or {}).get("return_indices"):
                return func(*args, **(kwargs or {}))
            x, sizes = (*args, *(kwargs or {}).values())[:2]
            pooled = _pooled(x, sizes, *known)
            return pooled if known[1] or func.__module__ == "torch.nn.functional" else (pooled, pooled)

    return Pools()


def _pooled(x: Any, sizes: int | Sequence[int | None] | None, axes: int, mean: bool) -> Any:
    """``x`` pooled over its last axes to ``sizes``; None: as long as it is.

    Position i of m over n values takes those from floor(i n / m) to ceil((i + 1) n / m), as torch does; a
    window is a box, so that one axis goes after another.
    """
    torch = need("torch", extra="compress")
    wanted = [sizes] * axes if sizes is None or isinstance(sizes, int) else list(sizes)
    for axis, size in zip(range(-axes, 0), wanted):
        count = x.shape[axis]
        if size is None or size == count:
            continue
        windows = [(i * count // size, -(-(i + 1) * count // size)) for i in range(size)]
        pool = torch.mean if mean else torch.amax
        x = torch.cat([pool(x.narrow(axis, a, b - a), axis, keepdim=True) for a, b in windows], axis)
    return x
