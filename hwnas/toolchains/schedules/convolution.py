"""Dense convolutions (one group): any kernel, stride, padding and dilation, over images of one or two spatial axes.

The weights are packed once, in numpy, in the order in which the kernel reads them: `blocks of output channels x blocks
of input channels x kernel height x kernel width x input channels x (vectors * lanes)`, zero padded.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

from hwnas.toolchains.schedules.geometry import Window, images, padded_source, shape_of, window_of
from hwnas.toolchains.schedules.isa import Isa
from hwnas.toolchains.schedules.microkernel import (
    accumulate,
    annotation,
    call,
    channels_of,
    extent,
    inline_epilogue,
    products,
    schedule_copies,
    spread,
    spread_tiles,
    vectorize_channels,
    vectorize_span,
    vectorize_tail,
)
from hwnas.toolchains.schedules.streams import mark_stream
from hwnas.toolchains.schedules.tiles import Tile, blocks, divisors, flat_tile, window_tile
from hwnas.toolchains.schedules.views import traced

if TYPE_CHECKING:
    import numpy as np

LAYOUTS = ("NHWC", "NWC")
NEAR = 6
"""A block of weights that all tiles share takes at most this part of the second cache: the next one comes in beside."""
STREAMED = 8
"""Weights above this part of the second cache are prefetched: between two runs they do not stay."""


def packed(weights: np.ndarray, block: int) -> np.ndarray:
    """`... x channels` to `blocks x ... x block`, zero padded: what one register block reads lies together."""
    import numpy as np

    *outer, channels = weights.shape
    count = blocks(channels, block)
    wide = np.zeros((*outer, count * block), weights.dtype)
    wide[..., :channels] = weights
    return np.ascontiguousarray(np.moveaxis(wide.reshape(*outer, count, block), -2, 0))


def packed_in_order(weights: np.ndarray, block: int, inputs: int) -> np.ndarray:
    """`height x width x inputs x outputs` to `output blocks x input blocks x height x width x inputs x block`."""
    import numpy as np

    wide = packed(weights, block)
    count, height, width, channels, _ = wide.shape
    parts = wide.reshape(count, height, width, channels // inputs, inputs, block)
    return np.ascontiguousarray(parts.transpose(0, 3, 1, 2, 4, 5))


def packing(weights: Any, window: Window, block: int, part: int) -> Any:
    """TE of `packed_in_order`, for weights that the network computes."""
    from tvm import te, tirx

    *kernel, inputs, channels = shape_of(weights)

    def value(o: Any, chunk: Any, y: Any, x: Any, k: Any, v: Any) -> Any:
        place = (y, x)[2 - len(kernel) :]
        inside = weights[(*place, chunk * part + k, tirx.min(o * block + v, channels - 1))]
        return tirx.if_then_else(o * block + v < channels, inside, tirx.const(0.0, "float32"))

    return te.compute((blocks(channels, block), inputs // part, *window.kernel, part, block), value, name="packed")


def input_block(isa: Isa, inputs: int, taps: int, block: int) -> int:
    """Input channels whose weights for one block of outputs stay in the second cache while all tiles use them."""
    most = isa.l2_bytes // NEAR // (4 * taps * block)
    return max((part for part in divisors(inputs) if part <= most), default=1)


def copied(isa: Isa, window: Window) -> float:
    """Cycles of the copy that a tile's overhang makes necessary; 0 where the padding makes it so anyway."""
    if any(window.padding):
        return 0.0
    return 2.0 * window.batch * window.height * window.width * blocks(window.channels, isa.lanes)


def flat_product(image: Any, weights: Any, read: Callable[..., Any], window: Window, channels: int, tile: Tile) -> Any:
    """TE of a pointwise convolution: one product over all pixels."""
    from tvm import te

    height, width = window.height, window.width
    count, chunks, _, _, inputs, block = shape_of(weights)
    chunk, k = te.reduce_axis((0, chunks), "chunk"), te.reduce_axis((0, inputs), "k")

    def product(o: Any, m: Any, v: Any) -> Any:
        place = (m // (height * width), (m // width) % height, m % width, chunk * inputs + k)
        return te.sum(read(image, *place) * weights[o, chunk, 0, 0, k, v], axis=[chunk, k])

    accumulator = te.compute(
        (count, window.batch * height * width, block),
        product,
        name="hw_flat",
        attrs={"hw_tile": [tile.rows, tile.columns, tile.vectors]},
    )
    return images(window, channels, lambda n, i, j, c: accumulator[c // block, (n * height + i) * width + j, c % block])


def convolution(
    image: Any,
    weights: Any,
    read: Callable[..., Any],
    window: Window,
    channels: int,
    tile: Tile,
    groups: int = 1,
) -> Any:
    """TE of a convolution with packed weights; the accumulator overhangs the width by what the tile does.

    With several groups the blocks of weights follow each other group by group.
    """
    from tvm import te

    count, chunks, _, _, inputs, block = shape_of(weights)
    share = count // groups  # blocks of a group
    span = block if groups == 1 else channels // groups // share  # channels of a block
    rows, width = window.output
    columns = blocks(width, tile.columns) * tile.columns
    source = padded_source(image, read, window, rows, columns)
    (sh, sw), (dh, dw) = window.stride, window.dilation
    chunk, y, x, k = (
        te.reduce_axis((0, size), name)
        for size, name in zip((chunks, *window.kernel, inputs), ("chunk", "y", "x", "k"))
    )

    def product(o: Any, n: Any, i: Any, j: Any, v: Any) -> Any:
        first = (o // share * chunks + chunk) * inputs if groups > 1 else chunk * inputs
        value = source(n, i * sh + y * dh, j * sw + x * dw, first + k)
        return te.sum(value * weights[o, chunk, y, x, k, v], axis=[chunk, y, x, k])

    accumulator = te.compute(
        (count, window.batch, rows, columns, block),
        product,
        name="hw_conv",
        attrs={"hw_tile": [tile.rows, tile.columns, tile.vectors, span]},
    )
    return images(window, channels, lambda n, i, j, c: accumulator[c // span, n, i, j, c % span])


def legal_convolution(isa: Isa) -> Any:
    """The legalisation of fp32 relax.nn.conv2d and conv1d with one group; None for any other.

    Weights that are no constants are packed by a kernel of their own.
    """

    def legalise(builder: Any, operator: Any) -> Any:
        from tvm import relax

        image, weights = operator.args
        attrs = operator.attrs
        if attrs.data_layout not in LAYOUTS or int(attrs.groups) != 1 or str(weights.ty.dtype) != "float32":
            return None
        *kernel, inputs, channels = shape_of(weights)
        window = window_of(attrs, shape_of(image), tuple(kernel))
        if window.pointwise:
            tile = flat_tile(isa, window.width, window.height, channels)
        else:
            tile = window_tile(isa, *window.output, channels, prod(window.kernel) * inputs, copied(isa, window))
        block = tile.vectors * isa.lanes
        part = input_block(isa, inputs, prod(window.kernel), block)
        if hasattr(weights, "value"):
            values = weights.value.numpy().reshape(*window.kernel, inputs, channels)
            pack = relax.const(packed_in_order(values, block, part))
        else:
            pack = builder.emit(call(builder, "pack_weights", packing, weights, window=window, block=block, part=part))
        base, read = source_of(builder, image, window)
        name, compute = ("hw_conv1x1", flat_product) if window.pointwise else ("hw_conv", convolution)
        return call(builder, name, compute, base, pack, read=read, window=window, channels=channels, tile=tile)

    return legalise


def source_of(builder: Any, image: Any, window: Window) -> tuple[Any, Callable[..., Any]]:
    """The tensor that a kernel reads, and how: `read(tensor, n, i, j, c)`.

    A kernel that copies nothing reads an image whose rows are contiguous (NCHW) as it lies, without a transpose.
    """
    flat = window.rank == 3

    def index(n: Any, i: Any, j: Any, c: Any) -> list[Any]:
        return [n, j, c] if flat else [n, i, j, c]

    view = traced(builder, image)
    strides = view.strides()
    if view.moves and not any(window.padding) and strides[-2] == 1 and strides[-1] not in (1, None):
        return view.base, lambda tensor, n, i, j, c: tensor[tuple(view.place(index(n, i, j, c)))]
    return image, lambda tensor, n, i, j, c: tensor[tuple(index(n, i, j, c))]


def stream_weights(schedule: Any, isa: Isa, sizes: list[int], step: Any, tile: list[int]) -> None:
    """Prefetch the weights of these extents, unless they stay in the second cache between two runs."""
    size = extent(schedule, step)
    part = next((part for part in (8, 4) if size % part == 0), 0)
    if isa.broadcast and part and 4 * prod(sizes) > isa.l2_bytes // STREAMED:
        outer, _ = schedule.split(step, [None, part])
        mark_stream(schedule, outer, part, tile)


def schedule_flat(schedule: Any, isa: Isa, anchor: Any) -> None:
    """Schedule a product of packed weights: blocks of pixels x vectors accumulate in registers over k."""
    tile = Tile(*annotation(schedule, anchor, "hw_tile"))
    last = inline_epilogue(schedule, anchor)
    *places, channel = schedule.get_loops(last)
    channels = channels_of(schedule, last)
    pixels = schedule.fuse(*places) if len(places) > 1 else places[0]
    outer, inner = schedule.split(pixels, [None, tile.columns])
    block, vectors, lanes = schedule.split(channel, [None, tile.vectors, isa.lanes])
    schedule.reorder(block, outer, inner, vectors, lanes)
    # The anchor goes to its reader: the reader's place in the image is no inverse of the flat index.
    schedule.compute_at(anchor, outer, preserve_unit_loops=True)
    *_, row, vector, chunk, k = schedule.get_loops(anchor)
    schedule.unroll(inner)
    schedule.unroll(vectors)
    weights = [extent(schedule, loop) for loop in (block, vector, chunk, k)]
    work = prod(weights) * extent(schedule, outer) * extent(schedule, row)
    step = accumulate(schedule, isa, anchor, [row], vector, [chunk, k])
    stream_weights(schedule, isa, weights, step, [tile.columns])
    sizes = (channels, extent(schedule, outer) * tile.columns)
    spread_tiles(schedule, isa, [block], outer, sizes, products(isa, work))
    vectorize_tail(schedule, isa, lanes, channels)


def schedule_convolution(schedule: Any, isa: Isa, anchor: Any) -> None:
    """Schedule a convolution: a tile of pixels x vectors accumulates over the window in registers.

    Where the weights are in blocks of input channels, each block serves all tiles before the next one, and the
    epilogue follows the last; else it follows each tile at once.
    """
    *sizes, span = annotation(schedule, anchor, "hw_tile")
    tile = Tile(*sizes)
    last = inline_epilogue(schedule, anchor)
    channels = channels_of(schedule, last)
    block, n, i, j, vector, chunk, y, x, k = schedule.get_loops(anchor)
    weights = [extent(schedule, loop) for loop in (block, vector, chunk, y, x, k)]
    pixels_in_all = prod(extent(schedule, loop) for loop in (n, i, j))
    work = prod(weights) * pixels_in_all
    rows, row = schedule.split(i, [None, tile.rows])
    columns, column = schedule.split(j, [None, tile.columns])
    chunked = extent(schedule, chunk) > 1
    order = [chunk, rows, columns] if chunked else [rows, columns, chunk]
    schedule.reorder(block, n, *order, row, column, vector, y, x, k)
    schedule.reverse_compute_at(last, n if chunked else columns, preserve_unit_loops=True)
    *pixels, channel = schedule.get_loops(last)[2 if chunked else 4 :]
    if not chunked:
        for loop in pixels:
            schedule.unroll(loop)
    step = accumulate(schedule, isa, anchor, [row, column], vector, [y, x, k], outside=chunk)
    stream_weights(schedule, isa, weights, step, [1, tile.rows, tile.columns])
    if chunked:
        spread(schedule, isa, [block, n], products(isa, work))
    else:
        spread_tiles(schedule, isa, [block, n], rows, (channels, pixels_in_all), products(isa, work))
    schedule_copies(schedule, isa)
    if span == tile.vectors * isa.lanes:
        vectorize_channels(schedule, isa, channel, channels)
    else:
        vectorize_span(schedule, isa, channel, span)


LEGAL = {"relax.nn.conv2d": legal_convolution, "relax.nn.conv1d": legal_convolution}
RULES = {"hw_flat": schedule_flat, "hw_conv": schedule_convolution}
