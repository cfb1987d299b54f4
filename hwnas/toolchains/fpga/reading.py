"""A quantised kernel read as a product of the core: its geometry, its integers, and what it asks of them."""

from __future__ import annotations

from math import prod

import numpy as np

from hwnas.firmware.fpga.product import Byte, Geometry, Packing, Product, Window
from hwnas.graph.quantised import Activation, Constant, Group, Rescale, rescale
from hwnas.graph.view import View

SUM_LIMIT = 2**31
"""The core sums in 32 bits."""


def geometry_of(group: Group) -> Geometry:
    """The geometry of a Conv, Gemm or MatMul; a convolution over time is one of a single line."""
    given, made = group.operands[0].shape, group.result.shape
    if group.op != "Conv":
        return Geometry((prod(given[:-1]), 1, 1, given[-1]), Window(), made[-1])
    line = len(given) == 3
    top, left, bottom, right = _numbers(group, "pads", (0,) * 2 * (len(given) - 2), line, begin_and_end=True)
    kernel, strides, dilations = (
        _numbers(group, name, (1,) * (len(given) - 2), line) for name in ("kernel_shape", "strides", "dilations")
    )
    window = Window(
        (kernel[0], kernel[1]), (strides[0], strides[1]), (dilations[0], dilations[1]), (top, left, bottom, right)
    )
    height, width = (1, given[2]) if line else (given[2], given[3])
    groups = group.attributes.get("group", 1)
    assert isinstance(groups, int)
    return Geometry((given[0], height, width, given[1]), window, made[1], groups)


def _numbers(
    group: Group, name: str, default: tuple[int, ...], line: bool, begin_and_end: bool = False
) -> tuple[int, ...]:
    """An attribute for height and width, whatever the operator is over."""
    given = group.attributes.get(name, default)
    assert isinstance(given, tuple)
    found = tuple(int(v) for v in given)
    missing = (0 if begin_and_end else 1,)
    if not line:
        return found
    return (*missing, found[0], *missing, found[1]) if begin_and_end else (*missing, *found)


def integer_weights(group: Group) -> np.ndarray:
    """Weights less their zero point, output channels first (int64); zeros where a workload has no values."""
    weight = group.operands[1]
    assert isinstance(weight, Constant)
    values = np.zeros(weight.shape, np.int64) if weight.values is None else weight.values.astype(np.int64)
    if output_axis(group) == 1:
        values = values.T
    found: np.ndarray = values - weight.grid.zero.reshape(-1, *(1,) * (values.ndim - 1))
    return found


def output_axis(group: Group) -> int:
    """The axis of the weights that counts output channels."""
    return 0 if group.op == "Conv" or (group.op == "Gemm" and bool(group.attributes.get("transB", 0))) else 1


def quantised_axis(graph: View, group: Group) -> int:
    """The axis that a weight's scales belong to, of those that it has one for each channel of."""
    weight = group.operands[1]
    assert isinstance(weight, Constant)
    axis = graph.operators[graph.readers[weight.name][0]].attributes.get("axis", 1)
    assert isinstance(axis, int)
    return axis % len(weight.shape)


def integer_bias(group: Group) -> np.ndarray:
    """The bias in steps of the products (int64, one for each output); zeros where there is none."""
    outputs = group.result.shape[1] if group.op == "Conv" else group.result.shape[-1]
    bias = group.operands[2] if len(group.operands) > 2 else None
    if not isinstance(bias, Constant) or bias.values is None:
        return np.zeros(outputs, np.int64)
    found: np.ndarray = bias.values.astype(np.int64).reshape(-1) - bias.grid.zero
    return found


def product_scale(group: Group) -> np.ndarray:
    """What one step of a sum stands for (float64, one or one for each output)."""
    first, weight = group.operands[0].grid, group.operands[1].grid
    assert first is not None and weight is not None
    scale: np.ndarray = first.scale.astype(np.float64) * weight.scale.astype(np.float64)
    return scale


def largest_sum(group: Group) -> float:
    """What no sum of products and bias exceeds in magnitude, at any step."""
    grid = group.operands[0].grid
    assert grid is not None
    zero = int(grid.zero[0])
    reach = max(abs(limit - zero) for limit in grid.limits)
    integers = np.abs(integer_weights(group))
    return float((integers.reshape(integers.shape[0], -1).sum(1) * reach + np.abs(integer_bias(group))).max(initial=0))


def rescaling(group: Group) -> Rescale:
    """How the sums of a group become its result's integers."""
    first, weight, result = group.operands[0].grid, group.operands[1].grid, group.result.grid
    assert first is not None and weight is not None
    ex, ew = first.exponents, weight.exponents
    return rescale(product_scale(group), None if ex is None or ew is None else ex + ew, result, largest_sum(group))


def read_product(group: Group, packing: Packing) -> Product:
    """The product of a group that the rules admit, with its integers."""
    geometry, chosen = geometry_of(group), rescaling(group)
    first, result = group.operands[0], group.result.grid
    assert isinstance(first, Activation) and first.grid is not None and result is not None and chosen.kind != "float"
    low, high = group.bounds
    return Product(
        geometry=geometry,
        packing=packing,
        weights=_folded(integer_weights(group), geometry),
        bias=integer_bias(group).astype(np.int32),
        kind=chosen.kind,
        entries=np.asarray(chosen.values, np.int32).reshape(-1),
        lift=chosen.lift,
        dtype=_byte(first.grid.dtype),
        zero=int(first.grid.zero[0]),
        result_dtype=_byte(result.dtype),
        result_zero=int(result.zero[0]),
        low=low,
        high=high,
    )


def _folded(integers: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Weights as `Geometry.weights` has them, from outputs x inputs of a group (x height) (x width)."""
    groups, rows, columns, inputs, outputs = geometry.weights
    spread = integers.reshape(groups, outputs, inputs, rows, columns)
    return np.ascontiguousarray(spread.transpose(0, 3, 4, 2, 1), np.int8)


def _byte(dtype: str) -> Byte:
    assert dtype in ("uint8", "int8")
    return "uint8" if dtype == "uint8" else "int8"
