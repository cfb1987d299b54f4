"""Windowed pooling, channels last: maximum and average, any padding, stride and dilation, rounding up or down.

The window is reduced in registers over a few pixels and vectors of channels. Average pooling that does not count the
padding multiplies by the reciprocal of each pixel's own count, which is a constant wherever no padding is in reach.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from hwnas.toolchains.schedules.generic import inline_cheap, schedule_any, schedule_elements
from hwnas.toolchains.schedules.geometry import Window, is_fp32, padded, shape_of, window_of
from hwnas.toolchains.schedules.isa import Isa
from hwnas.toolchains.schedules.microkernel import (
    annotation,
    block_name,
    block_names,
    call,
    extent,
    spread,
)
from hwnas.toolchains.schedules.reductions import reducer
from hwnas.toolchains.schedules.tiles import blocks, divisors

LAYOUTS = ("NHWC", "NWC")
REGISTERS = 8
"""Vectors of accumulators that one block holds at most."""
WIDEST = 16
"""Vectors of channels in one pixel of a block at most."""
UNROLLED = 9
"""Window positions that are unrolled at most."""


def pool(image: Any, window: Window, kind: str, counted: bool, tile: tuple[int, int]) -> Any:
    """TE of a pool of kind "max" or "avg"; `counted`: the padding counts as elements of value 0; `tile`: pixels x channels."""
    from tvm import te, tirx

    rows, columns = window.output
    fill = float("-inf") if kind == "max" else 0.0
    source = padded(image, window, *_needed(window, rows, columns), fill=fill)
    (sh, sw), (dh, dw) = window.stride, window.dilation
    y, x = (te.reduce_axis((0, size), name) for size, name in zip(window.kernel, "yx"))
    flat = len(shape_of(image)) == 3
    read_flat = flat and len(source.shape) == 3

    def element(n: Any, i: Any, j: Any, c: Any) -> Any:
        row, column = i * sh + y * dh, j * sw + x * dw
        return source[n, column, c] if read_flat else source[n, row, column, c]

    join = "max" if kind == "max" else "sum"
    accumulator = te.compute(
        (window.batch, rows, columns, window.channels),
        lambda n, i, j, c: reducer(join)(element(n, i, j, c), axis=[y, x]),
        name="hw_pool",
        attrs={"hw_tile": list(tile)},
    )

    def scaled(n: Any, i: Any, j: Any, c: Any) -> Any:
        value = accumulator[n, i, j, c]
        if kind == "max":
            return value
        if not any(window.padding) or (counted and not _overhangs(window)):
            return value * tirx.const(1.0 / prod(window.kernel), "float32")
        count = _count(window, 0, i, counted) * _count(window, 1, j, counted)
        return value / count.astype("float32")

    if flat:
        return te.compute((window.batch, columns, window.channels), lambda n, j, c: scaled(n, 0, j, c), name="hw_out")
    return te.compute((window.batch, rows, columns, window.channels), scaled, name="hw_out")


def _overhangs(window: Window) -> bool:
    """Whether the last window reaches beyond the padded image (rounding up): such positions count for nobody."""
    height, width = window.covering(*window.output)
    top, left, bottom, right = window.padding
    return height > window.height + top + bottom or width > window.width + left + right


def _count(window: Window, axis: int, index: Any, counted: bool) -> Any:
    """How many positions of the window at an output index are of the image (or, `counted`, of the padded image)."""
    from tvm import tirx

    size = (window.height, window.width)[axis]
    before, after = window.padding[axis], window.padding[axis + 2]
    low, high = (-before, size + after) if counted else (0, size)
    step = window.dilation[axis]
    start = index * window.stride[axis] - before
    first = tirx.max(tirx.floordiv(low - start + step - 1, step), 0)
    last = tirx.min(tirx.floordiv(high - 1 - start, step), window.kernel[axis] - 1)
    return tirx.max(last - first + 1, 1)


def _needed(window: Window, rows: int, columns: int) -> tuple[int, int]:
    """Height and width of the source that the windows read: never less than the image with the padding in front."""
    height, width = window.covering(rows, columns)
    if not any(window.padding) and height <= window.height and width <= window.width:
        return window.height, window.width
    return height, width


def rounded_up(window: Window) -> Window:
    """The window with the padding behind that ONNX's ceil_mode asks for: the last window starts inside the image."""
    padding = list(window.padding)
    for axis, size in enumerate((window.height, window.width)):
        span = (window.kernel[axis] - 1) * window.dilation[axis] + 1
        before, after = padding[axis], padding[axis + 2]
        stride = window.stride[axis]
        count = -(-(size + before + after - span) // stride) + 1
        if (count - 1) * stride >= size + before:
            count -= 1
        padding[axis + 2] = max(after, (count - 1) * stride + span - size - before)
    top, left, bottom, right = padding
    return replace(window, padding=(top, left, bottom, right))


def legal_pool(kind: str) -> Any:
    """The legalisation of fp32 pools, channels last; None for any other."""

    def make(isa: Isa) -> Any:
        def legalise(builder: Any, operator: Any) -> Any:
            (image,) = operator.args
            attrs, shape = operator.attrs, shape_of(image)
            if attrs.layout not in LAYOUTS or not is_fp32(image) or 0 in shape:
                return None
            window = window_of(attrs, shape, tuple(int(size) for size in attrs.pool_size))
            counted = bool(attrs.count_include_pad) if kind == "avg" else False
            if attrs.ceil_mode:
                up = rounded_up(window)
                if up != window and kind == "avg" and counted:
                    return None  # the padding counts, what rounding up adds does not: TVM's own form
                window = up
            rows, columns = window.output
            expected = (rows, columns) if len(shape) == 4 else (columns,)
            if shape_of(operator)[1:-1] != expected or min(rows, columns) < 1:
                return None
            chunk = channel_chunk(shape[-1], isa.lanes)
            most = max(1, REGISTERS // blocks(chunk, isa.lanes))
            pixels = max(size for size in range(1, most + 1) if columns % size == 0)
            return call(
                builder, f"hw_{kind}_pool", pool, image, window=window, kind=kind, counted=counted,
                tile=(pixels, chunk),
            )  # fmt: skip

        return legalise

    return make


def channel_chunk(channels: int, lanes: int) -> int:
    """How many channels a block holds: a divisor of them, one vector where that divides, else with the least waste."""
    if channels % lanes == 0:
        return lanes
    small = [size for size in divisors(channels) if size <= WIDEST * lanes] if channels > WIDEST * lanes else [channels]
    return min(small, key=lambda size: (blocks(size, lanes) * lanes / size, -size))


def schedule_pool(schedule: Any, isa: Isa, anchor: Any) -> None:
    """Schedule a pool: pixels x a chunk of channels in registers over the unrolled window, then the epilogue."""
    pixels, chunk = annotation(schedule, anchor, "hw_tile")
    name = block_name(schedule, anchor)
    inline_cheap(schedule)
    names = block_names(schedule)
    before, last = names[: names.index(name)], schedule.get_sblock(names[-1])
    axes = schedule.get(anchor).iter_vars
    own = prod(int(axis.dom.extent) for axis in axes[:4])
    work = prod(int(axis.dom.extent) for axis in axes)
    loops = schedule.get_loops(last)
    if names != [*before, name, names[-1]] or prod(extent(schedule, loop) for loop in loops) != own or len(loops) < 3:
        schedule_any(schedule, isa)
        return
    *lines, j, c = loops
    columns, column = schedule.split(j, [None, pixels])
    chunks, lane = schedule.split(c, [None, chunk])
    schedule.reorder(*lines, columns, chunks, column, lane)
    schedule.vectorize(lane)
    schedule.unroll(column)
    schedule.compute_at(anchor, chunks, preserve_unit_loops=True)
    *_, pixel, channel, y, x = schedule.get_loops(anchor)
    schedule.reorder(y, x, pixel, channel)
    schedule.vectorize(channel)
    schedule.unroll(pixel)
    if extent(schedule, x) <= UNROLLED:
        schedule.unroll(x)
        if extent(schedule, x) * extent(schedule, y) <= UNROLLED:
            schedule.unroll(y)
    spread(schedule, isa, lines, work)
    schedule.decompose_reduction(anchor, y)
    for label in before:
        schedule_elements(schedule, isa, schedule.get_sblock(label))


LEGAL = {
    "relax.nn.max_pool2d": legal_pool("max"),
    "relax.nn.avg_pool2d": legal_pool("avg"),
    "relax.nn.max_pool1d": legal_pool("max"),
    "relax.nn.avg_pool1d": legal_pool("avg"),
}
RULES = {"hw_pool": schedule_pool}
