"""A product's constants as its kernel takes them: integers of weights, folded bias, factors to the result's step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.graph.view import View
from hwnas.toolchains.schedules.dot import Dot, Rows, byte_dot, row_dot, word_dot
from hwnas.toolchains.schedules.geometry import Window
from hwnas.toolchains.schedules.integer import Kernel, channels_last, finish_of, step_of
from hwnas.toolchains.schedules.integer_depthwise import columns_of, depthwise
from hwnas.toolchains.schedules.integer_depthwise import pack as depthwise_pack
from hwnas.toolchains.schedules.integer_products import Product, choose_tile, pack, per_output, product_of
from hwnas.toolchains.schedules.isa import Isa

if TYPE_CHECKING:
    from hwnas.graph.quantised import Group

SUM_LIMIT = 2**31
EXACT_FLOAT = 2**24
"""Whole numbers below this are exact in float32."""


@dataclass(frozen=True, slots=True)
class Folded:
    """Weights (outputs x ...) and bias (outputs) as integers, and what one unit of their sums is in steps of the result."""

    weights: np.ndarray
    bias: np.ndarray
    factors: np.ndarray


def fold(graph: View, group: Group, axis: int) -> Folded | None:
    """The constants of a Conv, Gemm or MatMul whose weights have their outputs along `axis`.

    None where they are not constants, or where a sum of products could exceed 32 bits.
    """
    from hwnas.graph.quantised import Activation, Constant
    from hwnas.toolchains.cgen.recipes import group_axis

    if len(group.operands) < 2 or not isinstance(group.operands[0], Activation):
        return None
    source, weight = group.operands[0], group.operands[1]
    bias = group.operands[2] if len(group.operands) > 2 else None
    if not isinstance(weight, Constant) or source.grid is None or isinstance(bias, Activation):
        return None
    if weight.grid.scale.size > 1 and group_axis(graph, weight.name) % len(weight.shape) != axis:
        return None
    stored = np.zeros(weight.shape, np.int64) if weight.values is None else weight.values.astype(np.int64)
    weights = np.moveaxis(stored, axis, 0)
    outputs = weights.shape[0]
    weights = weights - weight.grid.zero.reshape(-1, *(1,) * (weights.ndim - 1))
    factors = source.grid.scale.astype(np.float64) * weight.grid.scale.astype(np.float64)
    offsets = np.zeros(outputs, np.int64)
    if bias is not None:
        if bias.grid.dtype != "int32" or prod(bias.shape) != outputs:
            return None
        if bias.values is not None:
            if not np.allclose(bias.grid.scale, factors, rtol=1e-5, atol=0):
                return None
            offsets += bias.values.astype(np.int64).reshape(-1) - bias.grid.zero
    farthest = max(abs(limit - int(source.grid.zero[0])) for limit in source.grid.limits)
    sums = np.abs(weights.reshape(outputs, -1)).sum(1) * farthest + np.abs(offsets)
    if sums.max(initial=0) >= SUM_LIMIT:
        return None
    return Folded(weights, offsets, np.atleast_1d(factors / step_of(group)).astype(np.float32))


def convolution(graph: View, group: Group, isa: Isa) -> Kernel | None:
    """A convolution of images, in groups or not; None for one that is not of rank 4 or whose constants do not fold."""
    source = group.operands[0]
    if len(source.shape) != 4 or len(group.result.shape) != 4 or (folded := fold(graph, group, 0)) is None:
        return None
    window = window_of(group.attributes, channels_last(source.shape), folded.weights.shape[2:])
    groups: Any = group.attributes.get("group", 1)
    product = Product(window, folded.weights.shape[0], int(groups))
    if product.depth == 1 and product.groups > 1 and (window.dilation[0] == 1 or window.stride[0] == 1):
        return _depthwise(group, window, folded, isa)
    shape = channels_last(group.result.shape)
    if product.groups > 1:
        shape = (*shape[:3], product.groups, product.width)
    return _kernel("hwq_conv", group, product, folded, isa, shape, True)


def dense(graph: View, group: Group, isa: Isa) -> Kernel | None:
    """Gemm or MatMul of rows with a constant matrix; None where its form is another."""
    attributes, source = group.attributes, group.operands[0]
    if group.op == "Gemm" and (
        attributes.get("transA", 0) or any(attributes.get(k, 1.0) != 1.0 for k in ("alpha", "beta"))
    ):
        return None
    if len(group.operands) < 2 or len(group.operands[1].shape) != 2 or len(source.shape) < 2:
        return None
    axis = 0 if group.op == "Gemm" and attributes.get("transB", 0) else 1
    if (folded := fold(graph, group, axis)) is None:
        return None
    *lead, rows, depth = source.shape
    window = Window(1, prod(lead), rows, depth, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1))
    folded = Folded(folded.weights.reshape(-1, depth, 1, 1), folded.bias, folded.factors)
    product = Product(window, len(folded.weights))
    if all(size == 1 for size in lead[:-1]):
        return _kernel("hwq_dense", group, product, folded, isa, group.result.shape, False)
    # The epilogue follows block by block only where a row is one axis of the result: several batches become one.
    merged = (prod(lead), rows)
    kernel = _kernel("hwq_dense", group, product, folded, isa, (*merged, product.outputs), False)
    return replace(kernel, source=(*merged, depth))


def _kernel(
    name: str, group: Group, product: Product, folded: Folded, isa: Isa, shape: tuple[int, ...], images: bool
) -> Kernel:
    grid = group.operands[0].grid
    assert grid is not None
    weights = folded.weights
    dot = byte_dot(isa) if weights.size == 0 or (weights.min() >= -128 and weights.max() <= 127) else word_dot(isa)
    zero = int(grid.zero[0])
    base = shift_of(dot, grid.dtype, zero)
    tile = choose_tile(isa, dot, product)
    bias = folded.bias - (zero - base) * weights.reshape(len(weights), -1).sum(1)
    finish = finish_of(group)
    factors = folded.factors
    constants = (
        pack(weights, dot, product, tile),
        per_output(wrapped(bias), dot, product, tile),
        per_output(factors, dot, product, tile) if factors.size > 1 else factors.reshape(1, 1),
        np.array([base, zero - base], np.int32),
        finish.ends,
        finish.zero,
    )
    compute = partial(product_of, dot=dot, product=product, tile=tile, dtype=finish.dtype, shape=shape)
    return Kernel(name, compute, constants, shape, images)


def _depthwise(group: Group, window: Window, folded: Folded, isa: Isa) -> Kernel | None:
    grid = group.operands[0].grid
    assert grid is not None
    weights, rows, zero = folded.weights[:, 0], row_dot(isa), int(grid.zero[0])
    low, high = (int(weights.min(initial=0)), int(weights.max(initial=0)))
    if low < -128 or high > 127:
        return None
    if rows.sums == "float32" and np.abs(weights.astype(np.int64)).sum((1, 2)).max(initial=0) * 255 >= EXACT_FLOAT:
        rows = Rows(isa.lanes, 1, "int16", "int16", "int32", None)
    base = zero if rows.sums == "float32" or rows.data == "int16" else {"uint8": 0, "int8": -128}[grid.dtype]
    bias = folded.bias - (zero - base) * weights.reshape(len(weights), -1).sum(1)
    finish = finish_of(group)
    constants = (
        depthwise_pack(weights, rows),
        wrapped(bias),
        folded.factors,
        np.array([base, zero - base], np.int32),
        finish.ends,
        finish.zero,
    )
    compute = partial(
        depthwise, rows=rows, window=window, columns=columns_of(window), channels=len(weights), dtype=finish.dtype
    )
    return Kernel("hwq_depthwise", compute, constants, channels_last(group.result.shape), True)


def shift_of(dot: Dot, dtype: str, zero: int) -> int:
    """What is taken off stored integers to make operands of a dot product: all of the zero point at 16 bits."""
    if dot.data == "int16":
        return zero
    return {("uint8", "int8"): 128, ("int8", "uint8"): -128}.get((dtype, dot.data), 0)


def wrapped(values: np.ndarray) -> np.ndarray:
    """Integers modulo 2^32 as int32: sums that wrap around on the way still end where they belong."""
    return (values.astype(np.int64) & 0xFFFFFFFF).astype(np.uint32).view(np.int32)


def window_of(attributes: Mapping[str, Any], image: tuple[int, ...], kernel: tuple[int, ...]) -> Window:
    """The window of ONNX attributes over an image n x h x w x c."""
    strides, dilations = attributes.get("strides", (1, 1)), attributes.get("dilations", (1, 1))
    top, left, bottom, right = (int(pad) for pad in attributes.get("pads", (0, 0, 0, 0)))
    n, h, w, c = image
    return Window(
        n, h, w, c, (kernel[0], kernel[1]), (int(strides[0]), int(strides[1])), (top, left, bottom, right),
        (int(dilations[0]), int(dilations[1])),
    )  # fmt: skip
