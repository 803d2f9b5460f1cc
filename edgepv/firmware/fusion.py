"""What is computed together: a convolution with what follows it, chains of element by element operators."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgepv.firmware.graph import Graph, Node
from edgepv.firmware.operators.pointwise import OPERATORS, act_of

PRODUCTS = frozenset({"Conv", "MatMul", "Gemm"})


@dataclass
class Product:
    """A convolution or a matrix product with what its sums become.

    bias: a constant added to the matrix product. residual: the value that is added to the sums before
    ``act``. scale: of each input channel, "" for none; source: what is then read instead of the node's input.
    """

    node: Node
    residual: str = ""
    act: Node | None = None
    bias: np.ndarray | None = None
    scale: str = ""
    source: str = ""


@dataclass
class Fusions:
    """products: by the value that such a group ends in. inside: outputs of nodes in others' groups."""

    products: dict[str, Product] = field(default_factory=dict)
    inside: set[str] = field(default_factory=set)

    def hide(self, node: Node) -> None:
        """Run a node in another's group."""
        self.inside.add(node.output)


def fuse(graph: Graph) -> Fusions:
    """What of a graph is computed together."""
    found = Fusions()
    for node in graph.nodes:
        if node.op in PRODUCTS:
            _follow(graph, node, found)
    for node in graph.nodes:
        if _joins_next(graph, node, found):
            found.hide(node)
    return found


def _follow(graph: Graph, node: Node, found: Fusions) -> None:
    """Take into a product what comes right behind it, and the scaling of its input.

    A model on codes has one answer to the bit, so that no sum is taken in another order than ONNX has it.
    """
    product, end = Product(node, source=node.inputs[0]), node
    user = graph.only_user(end.output)
    if user and node.op != "Conv" and not graph.codes and (bias := _bias(graph, user, end)) is not None:
        product.bias = bias
        found.hide(end)
        end, user = user, graph.only_user(user.output)
    if user and node.op == "Conv" and not graph.codes and (other := _residual(graph, user, end, found)):
        product.residual = other
        found.hide(end)
        end, user = user, graph.only_user(user.output)
    if user and act_of(graph, user) is not None:
        product.act = user
        found.hide(end)
        end = user
    if not graph.codes:
        _take_scale(graph, product, found)
    found.products[end.output] = product


def _bias(graph: Graph, user: Node, end: Node) -> np.ndarray | None:
    """The constant vector that ``user`` adds to a matrix product."""
    if user.op != "Add" or user.inputs[0] == user.inputs[1]:
        return None
    other = graph.constants.get(user.inputs[1] if user.inputs[0] == end.output else user.inputs[0])
    width = graph.shapes[end.output][-1]
    same = graph.shapes[user.output] == graph.shapes[end.output]
    if other is None or not same or other.size != width or other.shape[-1:] != (width,):
        return None
    return other.reshape(-1)


def _residual(graph: Graph, user: Node, end: Node, found: Fusions) -> str:
    """What ``user`` adds to the sums, where it is as large as they are and not part of another group."""
    if user.op != "Add" or len(set(user.inputs)) != 2:
        return ""
    other = user.inputs[1] if user.inputs[0] == end.output else user.inputs[0]
    same = graph.shapes[other] == graph.shapes[end.output] == graph.shapes[user.output]
    hidden = other in found.inside
    return other if same and other not in graph.constants and not hidden else ""


def _take_scale(graph: Graph, product: Product, found: Fusions) -> None:
    """Scale the weights instead of the picture, where a factor for each channel is all that is in between."""
    node = product.node
    mul = graph.producers.get(node.inputs[0])
    if node.op != "Conv" or mul is None or mul.op != "Mul" or node.attributes.get("group", 1) != 1:
        return
    channels = graph.shapes[mul.output][1]
    for x, scale in (mul.inputs, mul.inputs[::-1]):
        vector = graph.shapes[scale] == (1, channels, 1, 1) and scale not in graph.constants
        larger = np.prod(graph.shapes[x]) > np.prod(graph.shapes[node.inputs[1]])
        if vector and larger and graph.shapes[x] == graph.shapes[mul.output] and graph.only_user(mul.output):
            product.scale, product.source = scale, x
            found.hide(mul)
            return


def _joins_next(graph: Graph, node: Node, found: Fusions) -> bool:
    """Whether an element by element operator is computed inside the one that reads it."""
    user = graph.only_user(node.output)
    alone = node.op in OPERATORS and node.output not in found.products and node.output not in found.inside
    if user is None or not alone or user.op not in OPERATORS:
        return False
    grouped = user.output in found.inside or user.output in found.products
    return not grouped and graph.shapes[user.output] == graph.shapes[node.output]
