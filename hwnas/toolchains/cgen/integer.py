"""The code of quantised kernels, as tensor expressions: 8-bit loads, 32-bit sums, one rescaling, saturation.

Each form of `hwnas.toolchains.cgen.recipes` becomes one PrimFunc whose parameters are the activations, the recipe's
arrays, and the result. Rounding is half to even, as QuantizeLinear's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from hwnas.graph.quantised import Constant, Group
from hwnas.toolchains.cgen.layouts import logical, stored_shape
from hwnas.toolchains.cgen.recipes import Recipe

ROUND = "hwnas_round"
"""The C function that rounds a float32 of less than 2^22 to the nearest integer, ties to even."""


def lower_integer(group: Group, recipe: Recipe, orders: Sequence[bool]) -> Any:
    """The PrimFunc of a recipe. `orders` says of each activation, and last of the result, whether memory holds it NHWC.

    Expressions are written with NCHW indices, whatever the order in memory is.
    """
    from tvm import te

    *read, written = orders
    sources = [
        _Source(
            te.placeholder(stored_shape(a.shape or (1,), nhwc), a.grid.dtype if a.grid else "float32", name=f"x{k}"),
            nhwc,
        )
        for k, (a, nhwc) in enumerate(zip(group.activations, read))
    ]
    constants = [
        te.placeholder(array.values.shape, str(array.values.dtype), name=f"c{k}")
        for k, array in enumerate(recipe.arrays)
    ]
    context = _Context(group, recipe)
    element = _FORMS[recipe.form](context, sources, constants)
    index = logical if written else tuple
    result = te.compute(stored_shape(context.shape, written), lambda *i: element(*index(i)), name="result")
    return te.create_prim_func([*(source.tensor for source in sources), *constants, result])


class _Source:
    """An activation, read with NCHW indices."""

    def __init__(self, tensor: Any, nhwc: bool) -> None:
        self.tensor, self.nhwc = tensor, nhwc
        self.dtype = tensor.dtype
        shape = [int(size) for size in tensor.shape]
        self.shape = logical(shape) if nhwc else tuple(shape)

    def __call__(self, *index: Any) -> Any:
        return self.tensor(index[0], *index[2:], index[1]) if self.nhwc else self.tensor(*index)


class _Context:
    """Group, recipe and the expressions that every form ends with."""

    def __init__(self, group: Group, recipe: Recipe) -> None:
        self.group, self.recipe = group, recipe
        self.shape = group.result.shape or (1,)
        self.kind = recipe.facts.get("kind")
        self.dtype = group.result.grid.dtype if group.result.grid else "float32"

    def saturate(self, integer: Any, ends: Sequence[Any]) -> Any:
        """Add the zero point and keep the bounds: those of the type, or the clamp's."""
        from tvm import tirx

        zero, low, high = ends
        if not self.recipe.facts.get("clamped"):
            grid = self.group.result.grid
            assert grid is not None
            low, high = (tirx.const(limit, "int32") for limit in grid.limits)
        return tirx.min(tirx.max(integer if zero is None else integer + zero, low), high).astype(self.dtype)

    def rescaled(self, total: Any, lift: Any, entry: Any, ends: Sequence[Any]) -> Any:
        """A sum on the result's grid, by a shift or a multiplier; `lift` None: it is known to be 0."""
        from tvm import tirx

        lifted = total if lift is None else tirx.shift_left(total, lift)
        integer = shifted(lifted, entry) if self.kind == "shift" else multiplied(lifted, entry)
        return self.saturate(integer, ends)

    def nearest(self, real: Any, ends: Sequence[Any]) -> Any:
        """The integer nearest to a float32, made small enough first that rounding it cannot overflow."""
        from tvm import tirx

        limit = tirx.const(65536.0, "float32")
        return self.saturate(rounded(tirx.max(tirx.min(real, limit), -limit)), ends)


def rounded(real: Any) -> Any:
    from tvm import tirx

    return tirx.call_pure_extern("int32", ROUND, real)


def shifted(value: Any, shift: Any) -> Any:
    """value / 2^shift, rounded half to even; shift is at least 1."""
    from tvm import tirx

    one = tirx.const(1, "int32")
    odd = tirx.bitwise_and(tirx.shift_right(value, shift), one)
    # 2^(shift - 1) - 1, in a form that is computed once for each channel and not taken apart
    almost_half = tirx.shift_right(tirx.const(2**31 - 1, "int32"), 32 - shift)
    return tirx.shift_right(value + almost_half + odd, shift)


def multiplied(value: Any, multiplier: Any) -> Any:
    """The high word of a product of 64 bits, rounded half up."""
    from tvm import tirx

    product = value.astype("int64") * multiplier.astype("int64") + tirx.const(2**31, "int64")
    return tirx.shift_right(product, tirx.const(32, "int64")).astype("int32")


def _padded(source: Any, pads: Sequence[int], value: Any) -> Any:
    """The source with a border of `value` in its last axes; the source itself where there is none."""
    from tvm import te, tirx

    if not any(pads):
        return source
    spatial = len(pads) // 2
    shape = [int(size) for size in source.shape]
    lead = len(shape) - spatial
    before, after = [0] * lead + list(pads[:spatial]), [0] * lead + list(pads[spatial:])
    grown = [size + b + a for size, b, a in zip(shape, before, after)]

    def element(*index: Any) -> Any:
        inside = [
            test
            for i, size, b, a in zip(index, shape, before, after)
            for test in ([i >= b] if b else []) + ([i < size + b] if a else [])
        ]
        moved = [i - b for i, b in zip(index, before)]
        return tirx.if_then_else(tirx.all(*inside), source(*moved), value)

    return te.compute(grown, element, name="pad")


def _conv(context: _Context, sources: list[Any], constants: list[Any]) -> Any:
    from tvm import te, tirx

    [source], [weight, bias, table, scalars] = sources, constants
    attributes, shape = context.group.attributes, context.shape
    spatial = len(shape) - 2
    strides = attributes.get("strides", (1,) * spatial)
    dilations = attributes.get("dilations", (1,) * spatial)
    groups = attributes.get("group", 1)
    pads = attributes.get("pads", (0,) * (2 * spatial))
    assert isinstance(strides, tuple) and isinstance(dilations, tuple)
    assert isinstance(pads, tuple) and isinstance(groups, int)
    outputs, inputs, *window = (int(size) for size in weight.shape)
    per_group = outputs // groups
    data = _padded(source, [int(p) for p in pads], scalars[0].astype(source.dtype))
    channel = te.reduce_axis((0, inputs), name="rc")
    taps = [te.reduce_axis((0, size), name=f"r{k}") for k, size in enumerate(window)]
    axes = [channel, *taps] if inputs > 1 else taps

    def product(n: Any, o: Any, *place: Any) -> Any:
        c = channel if inputs > 1 else tirx.const(0, "int32")
        from_channel = o // per_group * inputs + c if groups > 1 else c
        at = [p * int(s) + t * int(d) for p, s, t, d in zip(place, strides, taps, dilations)]
        value = data(n, from_channel, *at).astype("int32") * weight(o, c, *taps).astype("int32")
        return te.sum(value, axis=axes)

    sums = te.compute(shape, product, name="sums")
    return lambda n, o, *p: _finished(context, sums(n, o, *p), o, bias, table, scalars)


def _matmul(context: _Context, sources: list[Any], constants: list[Any]) -> Any:
    from tvm import te

    [source], [weight, bias, table, scalars] = sources, constants
    shape, depth = context.shape, int(weight.shape[1])
    k = te.reduce_axis((0, depth), name="k")

    def product(*index: Any) -> Any:
        value = source(*index[:-1], k).astype("int32") * weight(index[-1], k).astype("int32")
        return te.sum(value, axis=k)

    sums = te.compute(shape, product, name="sums")
    return lambda *i: _finished(context, sums(*i), i[-1], bias, table, scalars)


def _finished(context: _Context, total: Any, o: Any, bias: Any, table: Any, scalars: Any) -> Any:
    total = total + bias(o)
    entry = table(o) if int(table.shape[0]) > 1 else table(0)
    if context.group.result.grid is None:
        return total.astype("float32") * entry
    ends = [scalars(k) for k in (2, 3, 4)]
    if context.kind == "float":
        return context.nearest(total.astype("float32") * entry, ends)
    return context.rescaled(total, scalars(1) if context.recipe.facts["lifted"] else None, entry.astype("int32"), ends)


def _operands(context: _Context, sources: list[Any], constants: list[Any]) -> tuple[list[Any], list[Any]]:
    """The elementwise operands, each an accessor by the result's index, and the constants behind them."""
    live, stored = iter(sources), iter(constants)
    tensors = [next(stored) if isinstance(o, Constant) else next(live) for o in context.group.operands]
    rank = len(context.shape)

    def accessor(tensor: Any) -> Callable[..., Any]:
        sizes = [int(size) for size in tensor.shape]

        def at(*index: Any) -> Any:
            own = index[rank - len(sizes) :]
            return tensor(*(0 if size == 1 else i for i, size in zip(own, sizes)))

        return at

    return [accessor(tensor) for tensor in tensors], list(stored)


def _add(context: _Context, sources: list[Any], constants: list[Any]) -> Any:
    from tvm import tirx

    [a, b], [scalars, *rest] = _operands(context, sources, constants)
    minus = context.recipe.facts["sign"] < 0

    def element(*i: Any) -> Any:
        x, y = a(*i).astype("int32"), b(*i).astype("int32")
        ends = [scalars(k) for k in (4, 5, 6)]
        if context.kind == "float":
            [scale] = rest
            left = (x - scalars(0)).astype("float32") * scale(0)
            right = (y - scalars(1)).astype("float32") * scale(1)
            real = left - right if minus else left + right
            return context.nearest(real / scale(2), [scalars(k) for k in (2, 3, 4)])
        total = x * scalars(0) + y * scalars(1) + scalars(2)
        if context.kind == "shift":
            return context.saturate(shifted(total, scalars(3)), ends)
        return context.saturate(tirx.shift_right(total, scalars(3)), [None, *ends[1:]])

    return element


def _mul(context: _Context, sources: list[Any], constants: list[Any]) -> Any:
    [a, b], [scalars, *rest] = _operands(context, sources, constants)

    def element(*i: Any) -> Any:
        x, y = a(*i).astype("int32") - scalars(0), b(*i).astype("int32") - scalars(1)
        if context.kind != "float":
            return context.rescaled(x * y, scalars(2), scalars(3), [scalars(k) for k in (4, 5, 6)])
        [scale] = rest
        real = (x.astype("float32") * scale(0)) * (y.astype("float32") * scale(1))
        return context.nearest(real / scale(2), [scalars(k) for k in (2, 3, 4)])

    return element


def _mean(context: _Context, sources: list[Any], constants: list[Any]) -> Any:
    from tvm import te, tirx

    [source], [scalars, *rest] = sources, constants
    size = source.shape
    attributes, pooled = context.group.attributes, "window" in context.recipe.facts
    window = [int(v) for v in context.recipe.facts.get("window", size[2:])]
    strides, pads = _geometry(attributes, pooled)
    counts_pads = bool(attributes.get("count_include_pad", 0))
    data = _padded(source, pads, scalars(0).astype(source.dtype))
    taps = [te.reduce_axis((0, extent), name=f"r{k}") for k, extent in enumerate(window)]
    spatial = (*size[:2], *(context.shape[2:] if pooled else (1, 1)))
    sums = te.compute(
        spatial,
        lambda n, c, y, x: te.sum(
            data(n, c, y * strides[0] + taps[0], x * strides[1] + taps[1]).astype("int32"), axis=taps
        ),
        name="sums",
    )

    def element(*i: Any) -> Any:
        n, c, y, x = i if len(i) == 4 else (*i, 0, 0)
        held: Any = prod(window)  # every padded element of the sum is a zero point
        share = held
        if any(pads) and not counts_pads:
            share = 1
            for place, stride, pad, extent, whole in zip((y, x), strides, pads, window, size[2:]):
                first = place * stride - pad
                share = share * (tirx.min(first + extent, whole) - tirx.max(first, 0))
        total = sums(n, c, y, x) - held * scalars(0)
        if context.kind == "multiply":
            [table] = rest
            entry = table(share - 1) if int(table.shape[0]) > 1 else table(0)
            return context.rescaled(total, scalars(1), entry, [scalars(k) for k in (2, 3, 4)])
        share = tirx.const(share, "int32") if isinstance(share, int) else share.astype("int32")
        if context.kind == "float":
            [scale] = rest
            real = total.astype("float32") / share.astype("float32")
            return context.nearest(real * scale(0) / scale(1), [scalars(k) for k in (1, 2, 3)])
        divisor = tirx.shift_left(share, scalars(1))
        lifted = tirx.shift_left(total, scalars(2)) + divisor * scalars(3)
        quotient = tirx.truncdiv(lifted, divisor)
        twice = (lifted - quotient * divisor) * 2
        odd = tirx.bitwise_and(quotient, tirx.const(1, "int32"))
        # 2r > d, or 2r == d and the quotient is odd
        up = (twice + odd > divisor).astype("int32")
        return context.saturate(quotient + up - scalars(3), [scalars(k) for k in (4, 5, 6)])

    return element


def _geometry(attributes: Any, pooled: bool) -> tuple[list[int], list[int]]:
    if not pooled:
        return [1, 1], [0, 0, 0, 0]
    strides, pads = attributes.get("strides", (1, 1)), attributes.get("pads", (0, 0, 0, 0))
    return [int(s) for s in strides], [int(p) for p in pads]


def _maxpool(context: _Context, sources: list[Any], constants: list[Any]) -> Any:
    from tvm import te, tirx

    [source], _ = sources, constants
    window = context.group.attributes["kernel_shape"]
    assert isinstance(window, tuple)
    strides, pads = _geometry(context.group.attributes, True)
    data = _padded(source, pads, tirx.min_value(str(source.dtype)))
    taps = [te.reduce_axis((0, int(extent)), name=f"r{k}") for k, extent in enumerate(window)]
    best = te.compute(
        context.shape,
        lambda n, c, y, x: te.max(data(n, c, y * strides[0] + taps[0], x * strides[1] + taps[1]), axis=taps),
        name="best",
    )
    return lambda *i: _moved(context, best(*i), 0, constants)


def _moved(context: _Context, value: Any, k: int, constants: list[Any]) -> Any:
    """An integer of the k-th operand's grid on the result's."""
    scalars, *rest = constants
    operands = len(context.group.operands)
    if context.kind != "float":
        ends = [scalars(3 * operands + j) for j in range(3)]
        centred = value.astype("int32") - scalars(3 * k)
        return context.rescaled(centred, scalars(3 * k + 1), scalars(3 * k + 2), ends)
    [scale] = rest
    real = (value.astype("int32") - scalars(k)).astype("float32") * scale(k) / scale(operands)
    return context.nearest(real, [scalars(operands + j) for j in range(3)])


def _concat(context: _Context, sources: list[Any], constants: list[Any]) -> Any:
    from tvm import tirx

    axis = context.group.attributes["axis"]
    assert isinstance(axis, int)
    axis %= len(context.shape)

    def element(*i: Any) -> Any:
        start = sum(int(s.shape[axis]) for s in sources)
        chosen = None
        for k in range(len(sources) - 1, -1, -1):
            start -= int(sources[k].shape[axis])
            value = _moved(context, sources[k](*i[:axis], i[axis] - start, *i[axis + 1 :]), k, constants)
            chosen = (
                value
                if chosen is None
                else tirx.if_then_else(i[axis] >= start + int(sources[k].shape[axis]), chosen, value)
            )
        return chosen

    return element


def _quantize(context: _Context, sources: list[Any], constants: list[Any]) -> Any:
    from tvm import tirx

    [source], [scalars, floats] = sources, constants

    def element(*i: Any) -> Any:
        scaled = source(*i) * floats(0) if context.kind == "shift" else source(*i) / floats(0)
        kept = tirx.min(tirx.max(scaled, floats(1)), floats(2))
        return (rounded(kept) + scalars(0)).astype(context.dtype)

    return element


def _dequantize(context: _Context, sources: list[Any], constants: list[Any]) -> Any:
    [source], [scalars, scale] = sources, constants
    return lambda *i: (source(*i).astype("int32") - scalars(0)).astype("float32") * scale(0)


def _table(context: _Context, sources: list[Any], constants: list[Any]) -> Any:
    [source], [table] = sources, constants
    low = 0 if str(source.dtype) == "uint8" else -128
    return lambda *i: table(source(*i).astype("int32") - low)


_FORMS: dict[str, Callable[[_Context, list[Any], list[Any]], Any]] = {
    "conv": _conv, "matmul": _matmul, "add": _add, "mul": _mul, "mean": _mean, "maxpool": _maxpool,
    "concat": _concat, "quantize": _quantize, "dequantize": _dequantize, "table": _table,
}  # fmt: skip
