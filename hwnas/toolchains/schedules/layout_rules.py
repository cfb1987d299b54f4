"""What a held tensor (`layouts.Held`) becomes under each operator; an operator that is not listed gets a plain one."""

from __future__ import annotations

from typing import Any

from hwnas.toolchains.schedules.geometry import shape_of
from hwnas.toolchains.schedules.layouts import (
    Held,
    Order,
    Rewriter,
    Value,
    channels_last,
    inverse,
    is_constant,
    reshaped,
)

UNARY = (
    "abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "exp", "floor", "log",
    "logical_not", "negative", "round", "rsqrt", "sigmoid", "sign", "sin", "sinh", "square", "sqrt", "tan", "tanh",
    "trunc", "erf", "isfinite", "isinf", "isnan", "clip", "astype", "nn.relu", "nn.relu6", "nn.leakyrelu", "nn.gelu",
    "nn.gelu_tanh", "nn.selu", "nn.silu", "nn.softplus",
)  # fmt: skip
NARY = (
    "add", "divide", "floor_divide", "log_add_exp", "multiply", "power", "atan2", "subtract", "mod", "floor_mod",
    "equal", "greater", "greater_equal", "less", "less_equal", "not_equal", "maximum", "minimum", "logical_and",
    "logical_or", "logical_xor", "where", "ewise_fma",
)  # fmt: skip
REDUCTIONS = ("max", "mean", "min", "prod", "sum", "std", "variance")
POOLS = {
    "max_pool1d": 1, "max_pool2d": 2, "avg_pool1d": 1, "avg_pool2d": 2, "adaptive_avg_pool1d": 1, "adaptive_avg_pool2d": 2,
}  # fmt: skip


def _rank(value: Value) -> int:
    return len(value.order) if isinstance(value, Held) else len(shape_of(value))


def _tensor(value: Any) -> bool:
    return isinstance(value, Held) or (
        hasattr(value, "ty") and hasattr(value.ty, "shape") and value.ty.shape is not None
    )


def unary(rewriter: Rewriter, call: Any) -> Value | None:
    from tvm import relax

    value = rewriter.value(call.args[0])
    if not isinstance(value, Held):
        return None
    return rewriter.held(relax.Call(call.op, [value.stored, *call.args[1:]], call.attrs), value.order)


def nary(rewriter: Rewriter, call: Any) -> Value | None:
    """Elementwise with broadcasting: every operand in the order of the largest held one."""
    from tvm import relax

    values = [rewriter.value(argument) for argument in call.args]
    rank = len(shape_of(call))
    orders = [value.order for value in values if isinstance(value, Held) and len(value.order) == rank]
    if not orders:
        return None
    arguments = [_broadcast(rewriter, value, orders[0]) for value in values]
    return rewriter.held(relax.Call(call.op, arguments, call.attrs), orders[0])


def _broadcast(rewriter: Rewriter, value: Value, order: Order) -> Any:
    from tvm import relax

    missing = len(order) - _rank(value)
    if missing == len(order):
        return value
    if not missing:
        return rewriter.stored(value, order)
    plain = rewriter.plain(value)
    shape = (1,) * missing + shape_of(plain)
    if is_constant(plain):
        wide = relax.const(plain.value.numpy().reshape(shape))
    else:
        wide = rewriter.emit(relax.op.reshape(plain, list(shape)))
    return rewriter.permuted(wide, order)


def convolution(rewriter: Rewriter, call: Any) -> Value | None:
    """conv1d and conv2d: the image channels last, the weights spatial axes first, then inputs and outputs."""
    from tvm import relax

    attrs, weights = call.attrs, rewriter.plain(rewriter.value(call.args[1]))
    spatial = len(shape_of(weights)) - 2
    if attrs.data_layout != ("NCW", "NCHW")[spatial - 1] or attrs.kernel_layout != ("OIW", "OIHW")[spatial - 1]:
        return None
    order = channels_last(spatial + 2, spatial)
    image = rewriter.stored(rewriter.value(call.args[0]), order)
    kernel = rewriter.permuted(weights, (*range(2, spatial + 2), 1, 0))
    make = (relax.op.nn.conv1d, relax.op.nn.conv2d)[spatial - 1]
    result = make(
        image, kernel, _ints(attrs.strides), _ints(attrs.padding), _ints(attrs.dilation), int(attrs.groups),
        ("NWC", "NHWC")[spatial - 1], ("WIO", "HWIO")[spatial - 1], out_dtype=attrs.out_dtype or None,
    )  # fmt: skip
    return rewriter.held(result, order)


def transposed_convolution(rewriter: Rewriter, call: Any) -> Value | None:
    """conv2d_transpose with constant weights: the convolution of the image, spread by its stride, with flipped weights."""
    import numpy as np
    from tvm import relax, topi

    attrs, weights = call.attrs, rewriter.value(call.args[1])
    if attrs.data_layout != "NCHW" or attrs.kernel_layout != "IOHW" or not is_constant(weights):
        return None
    values, groups = weights.value.numpy(), int(attrs.groups)
    inputs, outputs, height, width = values.shape
    dilation, strides, extra = _ints(attrs.dilation), _ints(attrs.strides), _ints(attrs.output_padding)
    top, left, bottom, right = _ints(attrs.padding)
    reach = [(size - 1) * step for size, step in zip((height, width), dilation)]
    padding = [reach[0] - top, reach[1] - left, reach[0] - bottom + extra[0], reach[1] - right + extra[1]]
    if min(padding) < 0:
        return None
    image = rewriter.stored(rewriter.value(call.args[0]), channels_last(4))
    if strides != [1, 1]:
        image = rewriter.emit(
            rewriter.builder.call_te(topi.nn.dilate, image, [1, *strides, 1], primfunc_name_hint="spread")
        )
    flipped = values.reshape(groups, inputs // groups, outputs, height, width)[..., ::-1, ::-1]
    kernel = flipped.transpose(3, 4, 1, 0, 2).reshape(height, width, inputs // groups, groups * outputs)
    result = relax.op.nn.conv2d(
        image, relax.const(np.ascontiguousarray(kernel)), [1, 1], padding, dilation, groups, "NHWC", "HWIO"
    )
    return rewriter.held(result, channels_last(4))


def pool(rewriter: Rewriter, call: Any) -> Value | None:
    from tvm import relax

    attrs, name = call.attrs, call.op.name.removeprefix("relax.nn.")
    spatial = POOLS[name]
    if attrs.layout != ("NCW", "NCHW")[spatial - 1]:
        return None
    order = channels_last(spatial + 2, spatial)
    image, layout = rewriter.stored(rewriter.value(call.args[0]), order), ("NWC", "NHWC")[spatial - 1]
    make = getattr(relax.op.nn, name)
    if name.startswith("adaptive"):
        size = None if attrs.output_size is None else _ints(attrs.output_size)
        return rewriter.held(make(image, size, layout), order)
    result = make(
        image, _ints(attrs.pool_size), _ints(attrs.strides), _ints(attrs.padding), _ints(attrs.dilation),
        bool(attrs.ceil_mode), bool(attrs.count_include_pad), layout,
    )  # fmt: skip
    return rewriter.held(result, order)


def transpose(rewriter: Rewriter, call: Any) -> Value | None:
    """Nothing moves: the axes get other names."""
    value = rewriter.value(call.args[0])
    rank = _rank(value)
    axes = tuple(reversed(range(rank))) if call.attrs.axes is None else tuple(a % rank for a in _ints(call.attrs.axes))
    held = value if isinstance(value, Held) else Held(value, tuple(range(rank)))
    if is_constant(held.stored):
        return rewriter.permuted(held.stored, tuple(inverse(held.order)[axis] for axis in axes))
    order = tuple(inverse(axes)[axis] for axis in held.order)
    return held.stored if order == tuple(range(rank)) else Held(held.stored, order)


def reshape(rewriter: Rewriter, call: Any) -> Value | None:
    """reshape, squeeze, expand_dims, flatten: in place where the grouped axes lie side by side in storage."""
    from tvm import relax

    value = rewriter.value(call.args[0])
    if is_constant(value):
        return relax.const(value.value.numpy().reshape(shape_of(call)))
    if (
        isinstance(value, Held)
        and reshaped(value, shape_of(call)) is None
        and value.order[1:3] == (last := channels_last(len(value.order)))[1:3]
    ):
        # The channel shuffle: channels change places among themselves, the image stays channels last.
        value = Held(rewriter.stored(value, last), last)
    if not isinstance(value, Held) or (found := reshaped(value, shape_of(call))) is None:
        plain = rewriter.plain(value)
        return None if not _tensor(plain) else rewriter.emit(relax.op.reshape(plain, list(shape_of(call))))
    shape, order = found
    return rewriter.held(relax.op.reshape(value.stored, list(shape)), order)


def reduction(rewriter: Rewriter, call: Any) -> Value | None:
    from tvm import relax

    value = rewriter.value(call.args[0])
    if not isinstance(value, Held):
        return None
    rank = len(value.order)
    axes = list(range(rank)) if call.attrs.axis is None else [axis % rank for axis in _ints(call.attrs.axis)]
    position = inverse(value.order)
    keep = bool(call.attrs.keepdims)
    make = getattr(relax.op, call.op.name.removeprefix("relax."))
    stored = make(value.stored, sorted(position[axis] for axis in axes), keep)
    if keep:
        return rewriter.held(stored, value.order)
    left = sorted(set(range(rank)) - set(axes))
    return rewriter.held(stored, tuple(left.index(axis) for axis in value.order if axis in left))


def concat(rewriter: Rewriter, call: Any) -> Value | None:
    from tvm import relax

    values = rewriter.value(call.args[0])
    orders = [value.order for value in values if isinstance(value, Held)] if isinstance(values, list) else []
    if not orders:
        return None
    axis = inverse(orders[0])[int(call.attrs.axis or 0) % len(orders[0])]
    return rewriter.held(relax.op.concat([rewriter.stored(value, orders[0]) for value in values], axis), orders[0])


def split(rewriter: Rewriter, call: Any) -> Value | None:
    from tvm import relax

    value = rewriter.value(call.args[0])
    if not isinstance(value, Held):
        return None
    sections = call.attrs.indices_or_sections
    sections = int(sections) if isinstance(sections, int) or hasattr(sections, "value") else _ints(sections)
    axis = inverse(value.order)[int(call.attrs.axis) % len(value.order)]
    parts = rewriter.emit(relax.op.split(value.stored, sections, axis))
    return [rewriter.held(relax.TupleGetItem(parts, index), value.order) for index in range(len(call.ty.fields))]


def strided_slice(rewriter: Rewriter, call: Any) -> Value | None:
    from tvm import relax

    value = rewriter.value(call.args[0])
    if not isinstance(value, Held):
        return None
    axes = [inverse(value.order)[_int(axis) % len(value.order)] for axis in call.args[1].fields]
    shaped = relax.Tuple([relax.prim_value(axis) for axis in axes])
    return rewriter.held(relax.Call(call.op, [value.stored, shaped, *call.args[2:]], call.attrs), value.order)


def pad(rewriter: Rewriter, call: Any) -> Value | None:
    from tvm import relax

    value = rewriter.value(call.args[0])
    if not isinstance(value, Held):
        return None
    widths = _ints(call.attrs.pad_width)
    stored = [width for axis in value.order for width in widths[2 * axis : 2 * axis + 2]]
    fill = float(call.attrs.pad_value) if hasattr(call.attrs, "pad_value") else 0.0
    return rewriter.held(relax.op.nn.pad(value.stored, stored, call.attrs.pad_mode, fill), value.order)


def resize(rewriter: Rewriter, call: Any) -> Value | None:
    from tvm import relax

    value, attrs = rewriter.value(call.args[0]), call.attrs
    if not isinstance(value, Held) or value.order != channels_last(4) or attrs.layout != "NCHW":
        return None
    result = relax.op.image.resize2d(
        value.stored, call.args[1], [float(v) for v in attrs.roi], "NHWC", attrs.method,
        attrs.coordinate_transformation_mode, attrs.rounding_method, float(attrs.cubic_alpha),
        int(attrs.cubic_exclude), float(attrs.extrapolation_value), attrs.out_dtype or None,
    )  # fmt: skip
    return rewriter.held(result, value.order)


def softmax(rewriter: Rewriter, call: Any) -> Value | None:
    """Over the stored axis, unless that would take the reduction away from the last axis of storage."""
    from tvm import relax

    value = rewriter.value(call.args[0])
    if not isinstance(value, Held):
        return None
    axis = int(call.attrs.axis) % len(value.order)
    stored = inverse(value.order)[axis]
    if axis == len(value.order) - 1 and stored != axis:
        return None
    make = getattr(relax.op.nn, call.op.name.removeprefix("relax.nn."))
    return rewriter.held(make(value.stored, stored), value.order)


def prelu(rewriter: Rewriter, call: Any) -> Value | None:
    from tvm import relax

    value = rewriter.value(call.args[0])
    if not isinstance(value, Held):
        return None
    axis = inverse(value.order)[int(call.attrs.axis) % len(value.order)]
    slope = rewriter.plain(rewriter.value(call.args[1]))
    return rewriter.held(relax.op.nn.prelu(value.stored, slope, axis), value.order)


def quantisation(rewriter: Rewriter, call: Any) -> Value | None:
    """quantize and dequantize: the axis of their scales moves with the tensor."""
    from tvm import relax

    value = rewriter.value(call.args[0])
    if not isinstance(value, Held):
        return None
    axis = inverse(value.order)[int(call.attrs.axis) % len(value.order)]
    make = getattr(relax.op, call.op.name.removeprefix("relax."))
    grid = [rewriter.plain(rewriter.value(argument)) for argument in call.args[1:]]
    return rewriter.held(make(value.stored, *grid, axis=axis, out_dtype=call.attrs.out_dtype), value.order)


def shape_tensor(rewriter: Rewriter, call: Any) -> Value | None:
    """shape_of and shape_to_tensor of static shapes are constants."""
    import numpy as np
    from tvm import relax

    if call.op.name == "relax.shape_of":
        value = rewriter.value(call.args[0])
        shape = value.shape if isinstance(value, Held) else shape_of(value)
        return relax.ShapeExpr(shape)
    value = rewriter.value(call.args[0])
    if not isinstance(value, relax.ShapeExpr):
        return None
    return relax.const(np.array([int(size) for size in value.values], "int64"), "int64")


def _int(value: Any) -> int:
    return int(getattr(value, "value", value))


def _ints(values: Any) -> list[int]:
    return [int(value) for value in values]


RULES = {
    **{f"relax.{name}": unary for name in UNARY},
    **{f"relax.{name}": nary for name in NARY},
    **{f"relax.{name}": reduction for name in REDUCTIONS},
    **{f"relax.nn.{name}": pool for name in POOLS},
    "relax.nn.conv1d": convolution,
    "relax.nn.conv2d": convolution,
    "relax.nn.conv2d_transpose": transposed_convolution,
    "relax.permute_dims": transpose,
    **dict.fromkeys(("relax.reshape", "relax.squeeze", "relax.expand_dims", "relax.flatten"), reshape),
    "relax.shape_of": shape_tensor,
    "relax.shape_to_tensor": shape_tensor,
    "relax.concat": concat,
    "relax.split": split,
    "relax.strided_slice": strided_slice,
    "relax.nn.pad": pad,
    "relax.image.resize2d": resize,
    "relax.nn.softmax": softmax,
    "relax.nn.log_softmax": softmax,
    "relax.nn.prelu": prelu,
    "relax.quantize": quantisation,
    "relax.dequantize": quantisation,
}  # fmt: skip
