"""Integer kernels that compute each element on its own: sums, products, tables, and the borders to float."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.graph.view import View
from hwnas.toolchains.schedules.integer import BROADCAST, Kernel, channels_last, finish_of, reals, settled, step_of

if TYPE_CHECKING:
    from hwnas.graph.quantised import Group


def elements(graph: View, group: Group, images: bool) -> Kernel | None:
    """The kernel of an elementwise group, with channels last where `images` says so; None for other groups."""
    if group.op in ("Add", "Sub", "Mul"):
        return _binary(group, images)
    if group.op == "QuantizeLinear":
        return _quantize(group, images)
    if group.op == "DequantizeLinear" and group.result.grid is None:
        return _dequantize(group, images)
    return _unary(graph, group, images)


def _shape(group: Group, images: bool) -> tuple[int, ...]:
    shape = group.result.shape
    return channels_last(shape) if images and len(shape) == 4 else shape


def _binary(group: Group, images: bool) -> Kernel | None:
    """Add, Sub and Mul of two operands, of which one may be a constant; shapes broadcast as numpy's do."""
    from hwnas.graph.quantised import Constant

    if len(group.operands) != 2 or any(o.grid is None or o.grid.scale.size > 1 for o in group.operands):
        return None
    grids = [o.grid for o in group.operands if o.grid is not None]
    shape, step = _shape(group, images), step_of(group)
    zeros = np.array([int(grid.zero[0]) for grid in grids], np.int32)
    scales = [float(grid.scale[0]) for grid in grids]
    if group.op == "Mul":
        factors = np.array([scales[0] * scales[1] / step], np.float32)
    else:
        sign = -1.0 if group.op == "Sub" else 1.0
        factors = np.array([scales[0] / step, sign * scales[1] / step], np.float32)
    stored = []
    for operand in group.operands:
        if images and len(operand.shape) not in (0, 4) and len(shape) == 4 and not isinstance(operand, Constant):
            return None
        if isinstance(operand, Constant):
            if operand.grid.dtype == "int32":
                return None
            values = np.zeros(operand.shape, operand.grid.dtype) if operand.values is None else operand.values
            values = values.reshape((1,) * (len(shape) - values.ndim) + values.shape)
            stored.append(values.transpose(0, 2, 3, 1) if images and len(shape) == 4 else values)
    finish = finish_of(group)
    order = [isinstance(operand, Constant) for operand in group.operands]

    def compute(*tensors: Any) -> Any:
        from tvm import te

        live, held = iter(tensors), iter(tensors[2 - len(stored) :])
        a, b = (next(held) if is_constant else next(live) for is_constant in order)
        zero_in, factor, ends, zero = tensors[2:]

        def element(*index: Any) -> Any:
            x, y = (reals(_at(t, index, shape), zero_in[k]) for k, t in enumerate((a, b)))
            real = x * y * factor[0] if group.op == "Mul" else x * factor[0] + y * factor[1]
            return settled(real, finish.dtype, ends, zero)

        return te.compute(shape, element, name="hw_qelements")

    return Kernel(
        f"hwq_{group.op.lower()}",
        compute,
        (*stored, zeros, factors, finish.ends, finish.zero),
        shape,
        images,
        BROADCAST,
    )


def _at(tensor: Any, index: tuple[Any, ...], shape: tuple[int, ...]) -> Any:
    """The element of a tensor that is broadcast to `shape`."""
    sizes = [int(size) for size in tensor.shape]
    own = zip(sizes, index[len(index) - len(sizes) :], shape[len(shape) - len(sizes) :])
    return tensor[tuple(0 if size == 1 and whole > 1 else i for size, i, whole in own)] if sizes else tensor[()]


def _quantize(group: Group, images: bool) -> Kernel:
    finish = finish_of(group)
    scale = np.float32(step_of(group))
    exact = float(np.frexp(scale)[0]) == 0.5
    # the reciprocal of a power of two is exact, and a product is many times faster than a division
    factor = np.array([1 / scale if exact else scale], np.float32)
    shape = _shape(group, images)

    def compute(source: Any, factor: Any, ends: Any, zero: Any) -> Any:
        from tvm import te

        def element(*index: Any) -> Any:
            real = source[index] * factor[0] if exact else source[index] / factor[0]
            return settled(real, finish.dtype, ends, zero)

        return te.compute(shape, element, name="hw_qelements")

    return Kernel("hwq_quantize", compute, (factor, finish.ends, finish.zero), shape, images, BROADCAST)


def _dequantize(group: Group, images: bool) -> Kernel | None:
    [source] = group.operands
    if source.grid is None or source.grid.scale.size > 1:
        return None
    shape = _shape(group, images)
    constants = (source.grid.zero.astype(np.int32)[:1], source.grid.scale.astype(np.float32)[:1])

    def compute(source: Any, zero: Any, scale: Any) -> Any:
        from tvm import te

        return te.compute(shape, lambda *i: reals(source[i], zero[0]) * scale[0], name="hw_qelements")

    return Kernel("hwq_dequantize", compute, constants, shape, images, BROADCAST)


def moved(group: Group, images: bool) -> Kernel | None:
    """One operand brought to the result's grid, element by element."""
    [source] = group.operands
    if source.grid is None or source.grid.scale.size > 1 or group.result.grid is None:
        return None
    finish, shape = finish_of(group), _shape(group, images)
    factor = np.array([float(source.grid.scale[0]) / step_of(group)], np.float32)
    constants = (source.grid.zero.astype(np.int32)[:1], factor, finish.ends, finish.zero)
    return Kernel("hwq_move", partial(_rescaled, shape=shape, dtype=finish.dtype), constants, shape, images, BROADCAST)


def _rescaled(source: Any, zero_in: Any, factor: Any, ends: Any, zero: Any, *, shape: Any, dtype: str) -> Any:
    from tvm import te

    def element(*index: Any) -> Any:
        return settled(reals(source[index], zero_in[0]) * factor[0], dtype, ends, zero)

    return te.compute(shape, element, name="hw_qelements")


def _unary(graph: View, group: Group, images: bool) -> Kernel | None:
    """A clamp or a change of grid; None for other operators of one operand, which are tables."""
    from hwnas.graph.quantised import bounds_of

    if len(group.operands) != 1 or group.result.grid is None or group.operands[0].grid is None:
        return None
    if group.operands[0].shape != group.result.shape or group.operands[0].grid.scale.size > 1:
        return None
    if group.op in ("DequantizeLinear", "Identity"):
        return moved(group, images)
    if (
        group.op in ("Relu", "Clip")
        and group.clamp is None
        and (bounds := bounds_of(graph, group.operator)) is not None
    ):
        return moved(replace(group, clamp=bounds), images)
    return None  # a table: `integer_tables`
