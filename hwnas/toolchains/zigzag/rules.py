"""What ZigZag prices: convolutions and dense products. Its own parser takes pools and sums too, and prices them at 0."""

from __future__ import annotations

from hwnas.graph.quantised import Activation, Constant, Group
from hwnas.graph.view import View
from hwnas.toolchains.partition import Rule


def constant_weights(group: Group, graph: View) -> str | None:
    """an activation meets constant weights"""
    first, *others = group.operands
    if not isinstance(first, Activation):
        return "a constant first operand"
    computed = not others or any(not isinstance(o, Constant) for o in others)
    return "weights that are computed" if computed else None


def image_or_line(group: Group, graph: View) -> str | None:
    """a convolution is over an image or over time"""
    axes = len(group.operands[0].shape) - 2
    return None if axes in (1, 2) else f"{axes} axes"


def one_matrix(group: Group, graph: View) -> str | None:
    """the weights of a dense product are one matrix"""
    axes = len(group.operands[1].shape)
    return None if axes == 2 else f"weights of {axes} axes"


RULES: tuple[Rule, ...] = (
    Rule("convolution", ("Conv",), (constant_weights, image_or_line)),
    Rule("dense", ("Gemm", "MatMul"), (constant_weights, one_matrix)),
)
