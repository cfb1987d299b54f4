"""What the core computes: the rule table of FPGA devices. Everything else is the companion CPU's."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from hwnas.firmware.fpga.array import Array
from hwnas.graph.quantised import Activation, Constant, Group
from hwnas.graph.view import View
from hwnas.toolchains.fpga.packing import best_packing
from hwnas.toolchains.fpga.reading import (
    SUM_LIMIT,
    geometry_of,
    integer_bias,
    integer_weights,
    largest_sum,
    output_axis,
    product_scale,
    quantised_axis,
    rescaling,
)
from hwnas.toolchains.partition import Condition, Rule


def constant_weights(group: Group, graph: View) -> str | None:
    """weights and bias are constants, and the other operand is an 8-bit activation"""
    first, *others = group.operands
    if not isinstance(first, Activation) or first.grid is None:
        return "a first operand that is no 8-bit activation"
    if not others or not all(isinstance(o, Constant) for o in others):
        return "weights or a bias that are computed"
    return None


def image_or_line(group: Group, graph: View) -> str | None:
    """a convolution is over an image or over time"""
    axes = len(group.operands[0].shape) - 2
    return None if axes in (1, 2) else f"{axes} axes"


def plain_matrix(group: Group, graph: View) -> str | None:
    """the weights of a matrix product are one matrix; transA is 0, alpha and beta are 1"""
    if len(group.operands[1].shape) != 2:
        return f"weights of {len(group.operands[1].shape)} axes"
    if group.attributes.get("transA", 0):
        return "transA 1"
    odd = [name for name in ("alpha", "beta") if group.attributes.get(name, 1.0) != 1.0]
    return f"{odd[0]} {group.attributes[odd[0]]!r}" if odd else None


def eight_bit_weights(group: Group, graph: View) -> str | None:
    """weights are quantised per tensor or per output channel, and fit 8 bits once their zero point is taken off"""
    weight = group.operands[1]
    assert isinstance(weight, Constant)
    if weight.grid.scale.size > 1 and quantised_axis(graph, group) != output_axis(group):
        return f"weights quantised along axis {quantised_axis(graph, group)}"
    integers = integer_weights(group)
    low, high = int(integers.min(initial=0)), int(integers.max(initial=0))
    return None if low >= -128 and high <= 127 else f"weights from {low} to {high}"


def bias_of_products(group: Group, graph: View) -> str | None:
    """a bias is int32, one an output channel, in steps of input scale x weight scale"""
    if len(group.operands) < 3:
        return None
    bias = group.operands[2]
    assert isinstance(bias, Constant)
    outputs = len(integer_weights(group))
    if bias.grid.dtype != "int32" or int(np.prod(bias.shape)) != outputs:
        return f"a bias of {bias.grid.dtype}, {int(np.prod(bias.shape))} for {outputs} outputs"
    same = bias.values is None or np.allclose(bias.grid.scale, product_scale(group), rtol=1e-5, atol=0)
    return None if same and np.abs(integer_bias(group)).max(initial=0) < SUM_LIMIT else "a bias on a grid of its own"


def sums_of_32_bits(group: Group, graph: View) -> str | None:
    """no sum of products and bias can exceed 32 bits, lifted to the multiplier that the result's scale asks for"""
    reach = largest_sum(group)
    if reach >= SUM_LIMIT:
        return f"sums up to {reach:.3g}"
    return "a result finer than its products" if rescaling(group).kind == "float" else None


ALWAYS: tuple[Condition, ...] = (constant_weights,)
READABLE: tuple[Condition, ...] = (eight_bit_weights, bias_of_products, sums_of_32_bits)


@lru_cache(maxsize=256)
def rules(array: Array) -> tuple[Rule, ...]:
    """The rule table of an array: buffers decide which products fit."""

    def fits_the_buffers(group: Group, graph: View) -> str | None:
        """the inputs of one result fit a row of the activation buffer, and their weights the weight buffer"""
        geometry = geometry_of(group)
        if min(geometry.result) < 1:
            return f"a result of {' x '.join(map(str, geometry.result))}"
        if best_packing(geometry, array) is not None:
            return None
        rows, columns = geometry.window.kernel
        return f"{rows * columns * geometry.group_inputs} inputs of a result, for {array.steps} steps"

    return (
        Rule("convolution", ("Conv",), (*ALWAYS, image_or_line, *READABLE, fits_the_buffers)),
        Rule("matrix product", ("Gemm", "MatMul"), (*ALWAYS, plain_matrix, *READABLE, fits_the_buffers)),
    )
