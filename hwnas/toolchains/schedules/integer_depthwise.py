"""Depthwise convolutions of 8-bit images: vectors over channels, one pass.

With an 8-bit dot product, four rows of the window are one operand: the image is copied column by column, so that the
rows of a place lie side by side, and one permutation of bytes brings them together channel by channel. On x86 without
it a float32 multiply-add is the widest exact one (9 bits by 8, fewer than 2^24 in a sum); on Arm that is SMLAL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import gcd, prod
from typing import Any

import numpy as np

from hwnas.toolchains.schedules.dot import Rows
from hwnas.toolchains.schedules.geometry import Window
from hwnas.toolchains.schedules.integer import padded_to, settled
from hwnas.toolchains.schedules.isa import Isa
from hwnas.toolchains.schedules.microkernel import annotation, block_list, block_name, extent, spread
from hwnas.toolchains.schedules.tiles import blocks

COLUMNS = 8
"""Pixels of a register block at most."""


def columns_of(window: Window) -> int:
    """How many neighbouring pixels are computed at once: what leaves least over at the end of a row."""
    width = window.output[1]
    return min(range(1, COLUMNS + 1), key=lambda size: (blocks(width, size) * size, -size))


def pack(weights: np.ndarray, rows: Rows) -> np.ndarray:
    """Weights channels x h x w as blocks x steps x w x lanes x group: rows of the window in steps, zeros behind."""
    channels, height, width = weights.shape
    count, steps = blocks(channels, rows.lanes), blocks(height, rows.group)
    full = padded_to(padded_to(weights, count * rows.lanes, 0), steps * rows.group, 1)
    split = full.reshape(count, rows.lanes, steps, rows.group, width)
    return np.ascontiguousarray(split.transpose(0, 2, 4, 1, 3).astype(rows.weight))


def depthwise(
    source: Any, weights: Any, bias: Any, factors: Any, base: Any, ends: Any, zero: Any,
    *, rows: Rows, window: Window, columns: int, channels: int, dtype: str,
) -> Any:  # fmt: skip
    """The result n x h x w x channels of an image with channels last; `base` (2) is its shift and its border."""
    from tvm import te, tirx

    count, steps, _, lanes, group = (int(size) for size in weights.shape)
    multiplier = channels // window.channels
    height, width = window.output
    (sh, sw), (dh, dw), (top, left, _, _) = window.stride, window.dilation, window.padding
    over = blocks(width, columns) * columns
    # output rows i and i + dh read neighbouring rows of one phase
    tall = (blocks(height, dh) - 1) * sh + steps * group
    span = window.covering(1, over)[1]
    border = base[1].astype(rows.data)

    def copied(o: Any, n: Any, j: Any, p: Any, q: Any, v: Any) -> Any:
        i, c = q * dh + p - top, o * lanes + v
        inside = [i >= 0, i < window.height, j >= left, j < window.width + left]
        if channels % lanes:
            inside.append(c < channels)
        value = source[n, i, j - left, c // multiplier]
        if str(source.dtype) != rows.data:
            value = (value.astype("int32") - base[0]).astype(rows.data)
        return tirx.if_then_else(tirx.all(*inside), value, border)

    copy = te.compute((count, window.batch, span, dh, tall, lanes), copied, name="hw_qcopy",
                      attrs={"hw_width": [gcd(channels, lanes) if multiplier == 1 else 1]})  # fmt: skip
    g, x, r = (
        te.reduce_axis((0, steps), "g"),
        te.reduce_axis((0, window.kernel[1]), "x"),
        te.reduce_axis((0, group), "r"),
    )
    kind = rows.sums

    def term(o: Any, n: Any, i: Any, j: Any, v: Any) -> Any:
        value = copy[o, n, j * sw + x * dw, i % dh, i // dh * sh + g * group + r, v].astype(kind)
        return te.sum(value * weights[o, g, x, v, r].astype(kind), axis=[g, x, r])

    sums = te.compute(
        (count, window.batch, height, over, lanes), term, name="hw_qdepthwise",
        attrs={"hw_tile": [columns], "hw_intrinsic": rows.intrinsic or ""},
    )  # fmt: skip

    def result(n: Any, i: Any, j: Any, c: Any) -> Any:
        # a float32 sum is exact, and so is what it makes with a bias, where that is at all: they round once, together
        total = (sums[c // lanes, n, i, j, c % lanes].astype("int32") + bias[c]).astype("float32")
        return settled(total * factors[c if int(factors.shape[0]) > 1 else 0], dtype, ends, zero)

    return te.compute((window.batch, height, width, channels), result, name="hw_out")


def schedule_depthwise(schedule: Any, isa: Isa, anchor: Any) -> None:
    """A run of pixels accumulates in registers over the whole window, which is unrolled."""
    (size,) = annotation(schedule, anchor, "hw_tile")
    intrinsic = str(schedule.get(anchor).annotations["hw_intrinsic"])
    result = schedule.get_sblock(block_name(schedule, block_list(schedule)[-1]))
    copy = schedule.get_sblock("hw_qcopy")
    o, n, j, p, q, v = schedule.get_loops(copy)
    (width,) = annotation(schedule, copy, "hw_width")
    work = prod(extent(schedule, loop) for loop in (o, n, j, p, q)) * 4
    spread(schedule, isa, [o, n, j], work)
    if width > 1:
        _, inner = schedule.split(v, [None, width])
        schedule.vectorize(inner)
    o, n, i, j, v, g, x, r = schedule.get_loops(anchor)
    work = prod(extent(schedule, loop) for loop in (o, n, i, j, v, g, x))
    jo, ji = schedule.split(j, [None, size])
    schedule.reorder(o, n, i, jo, g, x, ji, v, r)
    schedule.reverse_compute_at(result, jo, preserve_unit_loops=True)
    *pixels, channels = schedule.get_loops(result)[4:]
    if (
        width := gcd(
            extent(schedule, channels),
            int(schedule.get(v).extent),
        )
    ) > 1:
        outer, inner = schedule.split(channels, [None, width])
        schedule.vectorize(inner)
        pixels.append(outer)
    for loop in (*pixels, ji, x):
        schedule.unroll(loop)
    if extent(schedule, g) * extent(schedule, x) <= 10:
        schedule.unroll(g)
    if not intrinsic:
        schedule.reorder(r, ji, v)
        schedule.unroll(r)
        schedule.vectorize(v)
    schedule.decompose_reduction(anchor, g)
    if intrinsic:
        schedule.tensorize(v, intrinsic)
    spread(schedule, isa, [o, n, i], work)


RULES: Mapping[str, Callable[[Any, Isa, Any], None]] = {"hw_qdepthwise": schedule_depthwise}
