"""Softmax along one axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgepv.firmware.graph import Node
from edgepv.firmware.loops import nest

if TYPE_CHECKING:
    from edgepv.firmware.lowering import Lowering


def lower(low: Lowering, node: Node) -> None:
    """Exponentials of what is below the largest, divided by their sum."""
    x, y = low.view(node.inputs[0]), low.result(node.output)
    axis = int(node.attributes.get("axis", -1)) % len(x.shape)
    count, x_step, y_step = x.shape[axis], x.strides[axis], y.strides[axis]
    rest = [i for i in range(len(x.shape)) if i != axis]

    def inner(at: list[str]) -> list[str]:
        if x_step == y_step == 1:
            return [f"edgepv_softmax({count}, x0 + {at[1]}, y0 + {at[0]});"]
        loop = f"for (size_t k = 0; k < {count}; k++)"
        return [
            f"const float *const p = x0 + {at[1]};",
            f"float *const q = y0 + {at[0]};",
            "float most = p[0], sum = 0.0f;",
            f"{loop} most = edgepv_max(p[k * {x_step}], most);",
            f"{loop} {{",
            f"    q[k * {y_step}] = expf(p[k * {x_step}] - most);",
            f"    sum += q[k * {y_step}];",
            "}",
            f"{loop} q[k * {y_step}] /= sum;",
        ]

    strides = [tuple(view.strides[i] for i in rest) for view in (y, x)]
    lines = nest(tuple(x.shape[i] for i in rest), strides, inner)
    low.layer("softmax", node.name, (x,), (y,), ("{", *lines, "}"))
