"""Convolutions and matrix products of 8-bit activations with 8-bit constants: 32-bit sums in registers, one pass.

The activations' zero point is folded into the bias (or taken off where they are widened), weights are packed in the
order in which the dot product of the core reads them, and the sums are requantised before they leave the registers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import gcd, prod
from typing import Any

import numpy as np

from hwnas.toolchains.schedules.dot import Dot
from hwnas.toolchains.schedules.geometry import Window
from hwnas.toolchains.schedules.integer import padded_to, settled
from hwnas.toolchains.schedules.isa import Isa
from hwnas.toolchains.schedules.microkernel import annotation, block_list, block_name, extent, spread
from hwnas.toolchains.schedules.tiles import TAIL, Tile, blocks, divisors

VECTORS = 8
"""Vectors of a register block at most."""


@dataclass(frozen=True, slots=True)
class Product:
    """A convolution of a window over images with channels last, or a matrix product: kernel 1 over an image of rows."""

    window: Window
    outputs: int
    groups: int = 1

    @property
    def depth(self) -> int:
        """Input channels of a group."""
        return self.window.channels // self.groups

    @property
    def width(self) -> int:
        """Output channels of a group."""
        return self.outputs // self.groups

    def flat(self, dot: Dot) -> bool:
        """Whether rows of the image are read as bytes in a run: the last products of a pixel reach into the next one,
        where their weights are zero."""
        return bool(self.depth % dot.group)

    def merged(self, dot: Dot) -> bool:
        """Whether a whole row of the kernel is one run of bytes."""
        return self.flat(dot) and self.groups == 1 and self.window.dilation[1] == 1

    def steps(self, dot: Dot) -> tuple[int, int]:
        """Of one row of the kernel: columns, and groups of products for each."""
        if self.merged(dot):
            return 1, blocks(self.window.kernel[1] * self.depth, dot.group)
        return self.window.kernel[1], blocks(self.depth, dot.group)


def choose_tile(isa: Isa, dot: Dot, product: Product) -> Tile:
    """The register block of least estimated cycles for the whole product."""
    height, width = product.window.output
    across = blocks(product.width, dot.lanes)
    parts = max(1, dot.lanes // isa.lanes)  # registers of one vector of sums
    best: tuple[tuple[float, int], Tile] | None = None
    for vectors in range(1, min(across, VECTORS) + 1):
        for rows in divisors(height):
            for columns in range(1, min(width, isa.registers) + 1):
                pixels = rows * columns
                spare = 1 if dot.operations == 1 and dot.intrinsic else 2
                if (pixels * vectors + vectors) * parts + spare > isa.registers:
                    break
                dots, loads = pixels * vectors * parts, pixels + vectors * parts
                issued = dots * dot.operations + loads + 2
                cycles = max(dots / isa.fma, loads / isa.loads, isa.latency, issued / isa.issue)
                count = height // rows * blocks(width, columns) * blocks(across, vectors)
                key = (cycles * count * (TAIL if width % columns else 1.0), -pixels * vectors)
                if best is None or key < best[0]:
                    best = key, Tile(rows, columns, vectors)
    assert best is not None  # one pixel by one vector fits every core
    return best[1]


def pack(weights: np.ndarray, dot: Dot, product: Product, tile: Tile) -> np.ndarray:
    """Weights outputs x depth x kernel (h, w) as groups x blocks x h x columns x steps x vectors x lanes x group."""
    columns, steps = product.steps(dot)
    kernel = product.window.kernel
    split = weights.reshape(product.groups, product.width, product.depth, *kernel).transpose(0, 1, 3, 4, 2)
    split = split.reshape(product.groups, product.width, kernel[0], columns, -1)
    block = tile.vectors * dot.lanes
    count = blocks(product.width, block)
    full = padded_to(padded_to(split, steps * dot.group, 4), count * block, 1)
    shape = (product.groups, count, tile.vectors, dot.lanes, kernel[0], columns, steps, dot.group)
    return np.ascontiguousarray(full.reshape(shape).transpose(0, 1, 4, 5, 6, 2, 3, 7).astype(dot.weight))


def per_output(values: np.ndarray, dot: Dot, product: Product, tile: Tile) -> np.ndarray:
    """One number for each output as groups x (blocks of lanes): zeros where lanes hold no output."""
    block = tile.vectors * dot.lanes
    return padded_to(values.reshape(product.groups, product.width), blocks(product.width, block) * block, 1)


def product_of(
    source: Any, weights: Any, bias: Any, factors: Any, base: Any, ends: Any, zero: Any,
    *, dot: Dot, product: Product, tile: Tile, dtype: str, shape: tuple[int, ...],
) -> Any:  # fmt: skip
    """The result of a source with channels last, in `shape`: channels last too, and of groups each on its own.

    `base` (2) is what is taken off the source, and its border.
    """
    from tvm import te, tirx

    window = product.window
    height, width = window.output
    columns, steps = product.steps(dot)
    whole = blocks(width, tile.columns) * tile.columns
    data = _data(source, base, dot, product)
    ry, rx, rb, rk = (
        te.reduce_axis((0, size), name)
        for size, name in ((window.kernel[0], "ry"), (columns, "rx"), (steps, "rb"), (dot.group, "rk"))
    )
    (sy, sx), (dy, dx) = window.stride, window.dilation

    def term(g: Any, o: Any, n: Any, i: Any, j: Any, u: Any, v: Any) -> Any:
        at = tirx.min(j, width - 1) if whole != width else j
        k = g * product.depth + rb * dot.group + rk
        if product.flat(dot):
            value = data(n, i * sy + ry * dy, (at * sx + rx * dx) * window.channels + k)
        else:
            value = data(n, i * sy + ry * dy, at * sx + rx * dx, k)
        return te.sum(
            value.astype("int32") * weights[g, o, ry, rx, rb, u, v, rk].astype("int32"), axis=[ry, rx, rb, rk]
        )

    block = tile.vectors * dot.lanes
    count = blocks(product.width, block)
    sums = te.compute(
        (product.groups, count, window.batch, height, whole, tile.vectors, dot.lanes), term, name="hw_qproduct",
        attrs={"hw_tile": [tile.rows, tile.columns, tile.vectors, dot.lanes], "hw_intrinsic": dot.intrinsic or ""},
    )  # fmt: skip

    def result(n: Any, i: Any, j: Any, g: Any, c: Any) -> Any:
        total = sums[g, c // block, n, i, j, c % block // dot.lanes, c % dot.lanes] + bias[g, c]
        factor = factors[g, c] if int(factors.shape[1]) > 1 else factors[0, 0]
        return settled(total.astype("float32") * factor, dtype, ends, zero)

    if product.groups > 1:
        return te.compute(shape, result, name="hw_out")
    if len(shape) == 4 and shape[:2] == (window.batch, height):
        return te.compute(shape, lambda n, i, j, c: result(n, i, j, 0, c), name="hw_out")

    def rows(*index: Any) -> Any:
        return result(0, _flattened(index[:-2], shape[:-2]), index[-2], 0, index[-1])

    return te.compute(shape, rows, name="hw_out")


def _flattened(index: tuple[Any, ...], sizes: tuple[int, ...]) -> Any:
    row: Any = 0
    for i, size in zip(index, sizes):
        row = row * size + i
    return row


def _data(source: Any, base: Any, dot: Dot, product: Product) -> Callable[..., Any]:
    """The source as the dot product reads it: widened or shifted, with its border, in whole groups of channels."""
    from tvm import te, tirx

    window, sizes = product.window, [int(size) for size in source.shape]
    images = sizes == [window.batch, window.height, window.width, window.channels]

    def pixel(n: Any, y: Any, x: Any, c: Any) -> Any:
        if images:
            return source[n, y, x, c]
        index = []
        for size in reversed(sizes[:-2]):
            index.append(y % size)
            y = y // size
        return source[(*reversed(index), x, c)]

    top, left, bottom, right = window.padding
    plain = not any(window.padding) and str(source.dtype) == dot.data and product.depth % dot.group == 0
    if plain:
        return pixel
    border = base[1].astype(dot.data)
    h, w, channels = window.height, window.width, window.channels

    def moved(n: Any, y: Any, x: Any, c: Any, tests: list[Any]) -> Any:
        value = pixel(n, y, x, c)
        if str(source.dtype) != dot.data:
            value = (value.astype("int32") - base[0]).astype(dot.data)
        tests += [y >= 0] if top else []
        tests += [y < h] if bottom else []
        return tirx.if_then_else(tirx.all(*tests), value, border) if tests else value

    if product.flat(dot):
        steps = product.steps(dot)[1]
        slack = steps * dot.group - product.depth * (window.kernel[1] if product.merged(dot) else 1)

        def run(n: Any, i: Any, t: Any) -> Any:
            tests = [t >= left * channels] if left else []
            tests += [t < (w + left) * channels] if right or slack else []
            at = t - left * channels
            return moved(n, i - top, at // channels, at % channels, tests)

        copy = te.compute(
            (window.batch, h + top + bottom, (w + left + right) * channels + slack), run, name="hw_qrun",
            attrs={"hw_parts": [left * channels, w * channels]},
        )  # fmt: skip
    else:

        def place(n: Any, i: Any, j: Any, c: Any) -> Any:
            tests = [j >= left] if left else []
            tests += [j < w + left] if right else []
            return moved(n, i - top, j - left, c, tests)

        copy = te.compute((window.batch, h + top + bottom, w + left + right, channels), place, name="hw_qcopy")
    return lambda *index: copy[index]


def schedule_copies(schedule: Any, isa: Isa) -> None:
    """Vectorise the copies that widen, shift or pad a source (blocks hw_qcopy and hw_qrun)."""
    for block in block_list(schedule):
        name = block_name(schedule, block)
        if not name.startswith(("hw_qcopy", "hw_qrun")):
            continue
        *outer, last = schedule.get_loops(block)
        spread(schedule, isa, outer[:2], prod(extent(schedule, loop) for loop in (*outer, last)) // 8)
        if not name.startswith("hw_qrun"):
            vectorize_bytes(schedule, isa, last)
            continue
        before, inside = annotation(schedule, block, "hw_parts")
        sizes = [before] * (before > 0) + _pieces(inside, isa.lanes * 4)
        pieces = schedule.loop_partition(last, [*sizes, None]) if sum(sizes) < extent(schedule, last) else None
        if pieces is None:
            pieces = schedule.loop_partition(last, [*sizes[:-1], None]) if len(sizes) > 1 else [last]
        for piece in pieces[before > 0 : len(sizes)]:
            schedule.vectorize(piece)


def _pieces(size: int, most: int) -> list[int]:
    """A run as vectors of at most `most` bytes, the last ones of smaller powers of two."""
    found = [most] * (size // most)
    rest = size % most
    return found + [1 << k for k in range(rest.bit_length() - 1, -1, -1) if rest >> k & 1]


def vectorize_bytes(schedule: Any, isa: Isa, loop: Any) -> None:
    """Vectorise a loop over bytes by the widest power of two that divides it, up to four registers of 32-bit values."""
    width = gcd(extent(schedule, loop), isa.lanes * 4)
    if width > 1:
        _, inner = schedule.split(loop, [None, width])
        schedule.vectorize(inner)


def schedule_product(schedule: Any, isa: Isa, anchor: Any) -> None:
    """The accumulators of a register block over the whole reduction, then its epilogue."""
    rows, columns, _, lanes = annotation(schedule, anchor, "hw_tile")
    intrinsic = str(schedule.get(anchor).annotations["hw_intrinsic"])
    result = schedule.get_sblock(block_name(schedule, block_list(schedule)[-1]))
    schedule_copies(schedule, isa)
    g, o, n, i, j, u, v, ry, rx, rb, rk = schedule.get_loops(anchor)
    work = prod(extent(schedule, loop) for loop in (g, o, n, i, j, u, ry, rx, rb))
    io, ii = schedule.split(i, [None, rows])
    jo, ji = schedule.split(j, [None, columns])
    schedule.reorder(g, o, n, io, jo, ry, rx, rb, ii, ji, u, v, rk)
    schedule.reverse_compute_at(result, jo, preserve_unit_loops=True)
    for loop in (ii, ji, u):
        schedule.unroll(loop)
    _schedule_result(schedule, schedule.get_loops(result), lanes)
    if not intrinsic:
        schedule.vectorize(v)
    schedule.decompose_reduction(anchor, ry)
    if intrinsic:
        schedule.tensorize(v, intrinsic)
    spread(schedule, isa, [g, o, n, io], work)


def _schedule_result(schedule: Any, loops: list[Any], lanes: int) -> None:
    channels = loops[-1]
    size = extent(schedule, channels)
    width = gcd(size, lanes)
    if width > 1:
        outer, inner = schedule.split(channels, [None, width])
        schedule.vectorize(inner)
        schedule.unroll(outer)


RULES: Mapping[str, Callable[[Any, Isa, Any], None]] = {"hw_qproduct": schedule_product}
