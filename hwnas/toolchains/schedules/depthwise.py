"""Depthwise convolutions (one input channel a group), with channel multipliers, over one or two spatial axes.

The image is copied, with its padding, to blocks of as many channels as a vector has lanes, so that any number of
channels fills vectors and the kernel reads one contiguous plane; the weights lie in the same blocks.
"""

from __future__ import annotations

from math import prod
from typing import Any

from hwnas.toolchains.schedules.convolution import LAYOUTS, packed
from hwnas.toolchains.schedules.geometry import Window, images, read_image, shape_of, window_of
from hwnas.toolchains.schedules.isa import Isa
from hwnas.toolchains.schedules.microkernel import (
    annotation,
    call,
    channels_of,
    cut_columns,
    extent,
    inline_epilogue,
    products,
    spread,
    vectorize_channels,
    vectorize_copy,
)
from hwnas.toolchains.schedules.tiles import blocks

COLUMNS = 8
"""Pixels a block holds at most: enough to hide the latency of an FMA on two pipes."""
MULTIPLIER = 4
"""Outputs of one input channel at most: with more, a group is wide enough to be a convolution of its own."""
UNROLLED = 9
"""Taps of a window that are unrolled whole; of a larger one, a row at a time."""


def depthwise_tile(isa: Isa, window: Window) -> tuple[int, int]:
    """Rows and columns of outputs that are made of one copy: the copy should fit the first cache with little overlap."""
    height, width = window.output
    columns = min(range(1, COLUMNS + 1), key=lambda size: (blocks(width, size) * size, -size))
    span = window.covering(1, blocks(width, columns) * columns)[1]
    taps = window.kernel[0] * window.kernel[1]

    def cycles(rows: int) -> float:
        copied = window.covering(rows, 1)[0] * span
        near = copied * isa.lanes * 4 <= isa.l1_bytes * 3 // 4
        return blocks(height, rows) * (copied * (1.5 if near else 3.0) + rows * width * (taps / isa.fma + 2))

    return min(range(1, height + 1), key=lambda rows: (cycles(rows), rows)), columns


def depthwise(image: Any, weights: Any, window: Window, channels: int, tile: tuple[int, int]) -> Any:
    """TE of a depthwise convolution; weights `blocks x kernel height x kernel width x lanes`."""
    from tvm import te, tirx

    count, *_, lanes = shape_of(weights)
    multiplier = channels // window.channels
    rows, over = (blocks(size, part) * part for size, part in zip(window.output, tile))
    rest = channels % lanes
    (sh, sw), (dh, dw), (top, left, _, _) = window.stride, window.dilation, window.padding
    height, span = window.covering(rows, over)

    def copied(o: Any, n: Any, i: Any, j: Any, v: Any) -> Any:
        inside = [i >= top, i < window.height + top, j >= left, j < window.width + left]
        if rest:
            inside.append(tirx.any(v < rest, o < count - 1))
        value = read_image(window)(image, n, i - top, j - left, (o * lanes + v) // multiplier)
        return tirx.if_then_else(tirx.all(*inside), value, tirx.const(0.0, image.dtype))

    source = te.compute((count, window.batch, height, span, lanes), copied, name="hw_pad")
    y, x = te.reduce_axis((0, window.kernel[0]), "y"), te.reduce_axis((0, window.kernel[1]), "x")
    accumulator = te.compute(
        (count, window.batch, rows, over, lanes),
        lambda o, n, i, j, v: te.sum(
            source[o, n, i * sh + y * dh, j * sw + x * dw, v] * weights[o, y, x, v], axis=[y, x]
        ),
        name="hw_depthwise",
        attrs={"hw_tile": [*tile, rest, left, window.width]},
    )
    return images(window, channels, lambda n, i, j, c: accumulator[c // lanes, n, i, j, c % lanes])


def legal_depthwise(isa: Isa) -> Any:
    """The legalisation of convolutions with one input channel a group and constant weights; None for any other."""

    def legalise(builder: Any, operator: Any) -> Any:
        import numpy as np
        from tvm import relax, topi

        image, weights = operator.args
        attrs = operator.attrs
        shape = shape_of(image)
        if attrs.data_layout not in LAYOUTS or not hasattr(weights, "value"):
            return None
        values = weights.value.numpy()
        few = values.shape[-1] <= MULTIPLIER * shape[-1]
        if int(attrs.groups) != shape[-1] or shape[-1] == 1 or not few or values.dtype.name != "float32":
            return None
        window = window_of(attrs, shape, values.shape[:-2])
        channels = values.shape[-1]
        if window.pointwise and channels == shape[-1]:  # a factor for each channel, elementwise
            factors = relax.const(np.ascontiguousarray(values.reshape(*(1,) * (len(shape) - 1), channels)))
            return builder.call_te(topi.multiply, image, factors)
        tile = depthwise_tile(isa, window)
        pack = packed(values.reshape(*window.kernel, channels), isa.lanes)
        return call(
            builder,
            "hw_depthwise",
            depthwise,
            image,
            relax.const(pack),
            window=window,
            channels=channels,
            tile=tile,
        )

    return legalise


def schedule_depthwise(schedule: Any, isa: Isa, anchor: Any) -> None:
    """Schedule a depthwise convolution: a row of pixels accumulates in registers over the unrolled window."""
    height, width, rest, left, inside = annotation(schedule, anchor, "hw_tile")
    last = inline_epilogue(schedule, anchor)
    copy = schedule.get_sblock("hw_pad")
    block, n, i, j, lanes, y, x = schedule.get_loops(anchor)
    work = prod(extent(schedule, loop) for loop in (block, n, i, j, lanes, y, x))
    rows, row = schedule.split(i, [None, height])
    columns, column = schedule.split(j, [None, width])
    schedule.reorder(n, rows, block, row, columns, column, lanes, y, x)
    schedule.reverse_compute_at(last, columns, preserve_unit_loops=True)
    schedule.compute_at(copy, block, preserve_unit_loops=True)
    *pixels, channel = schedule.get_loops(last)[5:]
    for loop in pixels:
        schedule.unroll(loop)
    schedule.reorder(y, x, column, lanes)
    schedule.vectorize(lanes)
    for loop in (x, column):
        schedule.unroll(loop)
    if extent(schedule, y) * extent(schedule, x) <= UNROLLED:
        schedule.unroll(y)
    schedule.decompose_reduction(anchor, y)
    spread(schedule, isa, [n, rows, block], products(isa, work))
    for part in cut_columns(schedule, copy, schedule.get_loops(copy)[-2], left, inside):
        vectorize_copy(schedule, isa, schedule.get_loops(part)[-1], (rest,) if rest else ())
    vectorize_channels(schedule, isa, channel, channels_of(schedule, last))


LEGAL = {"relax.nn.conv2d": legal_depthwise, "relax.nn.conv1d": legal_depthwise}
RULES = {"hw_depthwise": schedule_depthwise}
