"""The product that dense and batched matmul share: TE of a packed product, its register block, its schedule rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

from hwnas.toolchains.schedules.generic import inline_cheap, schedule_elements, vectorise
from hwnas.toolchains.schedules.isa import Isa
from hwnas.toolchains.schedules.microkernel import (
    accumulate,
    annotation,
    block_list,
    block_name,
    block_names,
    extent,
    products,
    reduces,
    spread,
)
from hwnas.toolchains.schedules.tiles import VECTORS, blocks, step_cycles

CHUNKS = (8, 4, 2)
"""Partial sums that a product with too few outputs is split into, to hide the latency of an FMA."""


@dataclass(frozen=True, slots=True)
class Block:
    """A register block: `rows` x `vectors` x `chunks` (partial sums over the depth) accumulators.

    `exact`: rows and columns divide into blocks, so that the epilogue runs on each block as it leaves the registers.
    """

    rows: int
    vectors: int
    chunks: int
    exact: bool


@lru_cache(maxsize=4096)
def register_block(isa: Isa, rows: int, columns: int, depth: int, together: int) -> Block:
    """The block with the least time for a `rows x depth` by `depth x columns` product, in closed form.

    `together`: neighbouring rows that lie evenly, of which a block has to be made for an exact epilogue.
    """
    wanted = blocks(columns, isa.lanes)
    best: tuple[tuple[float, int], Block] | None = None
    for vectors in range(1, min(wanted, 8 if rows == 1 else VECTORS) + 1):
        for height in range(1, min(rows, isa.registers) + 1):
            for chunks in (1, *CHUNKS):
                if chunks > 1 and (depth % chunks or height * vectors * chunks > 2 * isa.fma * isa.latency):
                    continue
                cycles = _chunk_cycles(isa, height, vectors, chunks)
                if cycles is None:
                    continue
                exact = together % height == 0 and columns % (vectors * isa.lanes) == 0 and chunks == 1
                # Else the accumulators go through memory: a store, a load and a store for each vector.
                extra = 0.0 if exact else 2.0 * height * vectors * chunks / isa.loads
                total = (cycles * depth / chunks + extra) * blocks(rows, height) * blocks(wanted, vectors)
                key = (total, -height * vectors)
                if best is None or key < best[0]:
                    best = (key, Block(height, vectors, chunks, exact))
    assert best is not None
    return best[1]


def _chunk_cycles(isa: Isa, rows: int, vectors: int, chunks: int) -> float | None:
    """Cycles of `chunks` steps of the depth, each into accumulators of its own."""
    if chunks == 1:
        return step_cycles(isa, rows, vectors)
    if rows * vectors * chunks + vectors + 1 > isa.registers:
        return None
    return max(rows * vectors * chunks / isa.fma, chunks * (rows + vectors) / isa.loads, float(isa.latency)) + (
        0.0 if isa.broadcast else 0.15 * chunks * (rows + vectors)
    )


def product(
    batch: tuple[int, ...],
    rows: int,
    columns: int,
    depth: tuple[int, ...],
    left: Callable[[Sequence[Any], Any, Sequence[Any]], Any],
    right: Callable[[Sequence[Any], Any, Any, Any], Any],
    block: Block,
    lanes: int,
) -> tuple[Any, Callable[[Sequence[Any], Any, Any], Any]]:
    """The accumulators `batch x blocks x rows x chunks x width` of a product, and a reader of the finished product.

    `left(batch, row, k)`, with k one index for each of the `depth`'s extents; `right(batch, block, step, column)` with
    the step counted through. The rows beyond the last repeat it: they fill a block and nobody reads them.
    """
    from tvm import te, tirx

    width, high = block.vectors * lanes, blocks(rows, block.rows) * block.rows
    *outer, inner = depth
    chunks = block.chunks
    axes = [te.reduce_axis((0, size), f"k{n}") for n, size in enumerate((*outer, inner // chunks))]
    rank = len(batch)

    def value(*index: Any) -> Any:
        place, (o, m, s, v) = index[:rank], index[rank:]
        row = m if high == rows else tirx.min(m, rows - 1)
        last = axes[-1].var * chunks + s if chunks > 1 else axes[-1].var
        steps = [*(axis.var for axis in axes[:-1]), last]
        counted = steps[0]
        for step, size in zip(steps[1:], depth[1:]):
            counted = counted * size + step
        return te.sum(left(place, row, steps) * right(place, o, counted, v), axis=axes)

    accumulator = te.compute(
        (*batch, blocks(columns, width), high, chunks, width),
        value,
        name="hw_product",
        attrs={"hw_tile": [block.rows, block.vectors, block.chunks, int(block.exact)], "hw_batch": [rank]},
    )

    def finished(place: Sequence[Any], row: Any, column: Any) -> Any:
        total = accumulator[(*place, column // width, row, 0, column % width)]
        for chunk in range(1, chunks):
            total = total + accumulator[(*place, column // width, row, chunk, column % width)]
        return total

    return accumulator, finished


def schedule_product(schedule: Any, isa: Isa, anchor: Any) -> None:
    """Schedule a product: packed copies, blocks of accumulators in registers over the depth, then the epilogue."""
    rows, vectors, _, exact = annotation(schedule, anchor, "hw_tile")
    (rank,) = annotation(schedule, anchor, "hw_batch")
    name = block_name(schedule, anchor)
    before = block_names(schedule)[: block_names(schedule).index(name)]
    last = _inlined(schedule, name)
    anchor = schedule.get_sblock(name)
    loops = schedule.get_loops(anchor)
    work = products(isa, prod(extent(schedule, loop) for loop in loops))
    batch, (wide, m, s, v), depth = loops[:rank], loops[rank : rank + 4], loops[rank + 4 :]
    fused = last if exact and last is not None and _same_rows(schedule, last, anchor, rank) else None
    if fused is not None:
        places, line, column = _epilogue_loops(schedule, fused, prod(extent(schedule, loop) for loop in batch))
        high, low = schedule.split(line, [None, rows])
        wide, vector, lane = schedule.split(column, [None, vectors, isa.lanes])
        schedule.reorder(*places, wide, high, low, vector, lane)
        schedule.vectorize(lane)
        schedule.unroll(low)
        schedule.unroll(vector)
        schedule.compute_at(anchor, high, preserve_unit_loops=True)
        spread(schedule, isa, [*places, wide, high], work)
        inner = schedule.get_loops(anchor)
        depth, (_, m, s, v) = inner[-len(depth) :], inner[-len(depth) - 4 : -len(depth)]
        accumulate(schedule, isa, anchor, [m, s], v, depth)
    else:
        outside = last is not None and _rows_outside(schedule, isa, last, loops, rank, rows)
        high, low = schedule.split(m, [None, rows])
        if outside:
            # The right operand stays in the second cache: a strip of rows at a time, its epilogue while it is near.
            schedule.reorder(*batch, high, wide, low, s, v, *depth)
            schedule.reverse_compute_at(last, high, preserve_unit_loops=True)
            spread(schedule, isa, [*batch, high], work)
            accumulate(schedule, isa, anchor, [low, s], v, depth)
            vectorise(schedule, schedule.get_loops(last)[-1], isa.lanes)
        else:
            schedule.reorder(*batch, wide, high, low, s, v, *depth)
            spread(schedule, isa, [*batch, wide, high], work)
            accumulate(schedule, isa, anchor, [low, s], v, depth)
            _schedule_rest(schedule, isa, name, before)
    for label in before:
        schedule_elements(schedule, isa, schedule.get_sblock(label))


def _schedule_rest(schedule: Any, isa: Isa, name: str, before: list[str]) -> None:
    """What follows the product, as loop nests of their own."""
    for other in block_list(schedule):
        label = block_name(schedule, other)
        if label not in before and not label.startswith(name) and not reduces(schedule, other):
            schedule_elements(schedule, isa, other)


def _rows_outside(schedule: Any, isa: Isa, last: Any, loops: list[Any], rank: int, rows: int) -> bool:
    """Whether all columns of a strip of rows are computed before the next strip.

    That pays where the right operand fits half of the second cache, and needs an epilogue with the product's own axes.
    """
    wide, m, s, v, *depth = (extent(schedule, loop) for loop in loops[rank:])
    sizes = [extent(schedule, loop) for loop in schedule.get_loops(last)]
    batch = [extent(schedule, loop) for loop in loops[:rank]]
    fits = s == 1 and m > 1 and 4 * wide * v * prod(depth) <= isa.l2_bytes / 2
    return (
        fits
        and len(sizes) == rank + 2
        and sizes[:rank] == batch
        and 0 <= m - sizes[-2] < rows
        and sizes[-1] <= wide * v
    )


def _inlined(schedule: Any, name: str) -> Any:
    """Inline what follows the anchor where cheap; the last block where it is the only one left, else None."""
    inline_cheap(schedule)
    names = block_names(schedule)
    after = names[names.index(name) + 1 :]
    return schedule.get_sblock(after[0]) if len(after) == 1 else None


def _same_rows(schedule: Any, last: Any, anchor: Any, rank: int) -> bool:
    """Whether the epilogue has one element for each of the product's: it then can follow block by block."""
    own = prod(extent(schedule, loop) for loop in schedule.get_loops(last))
    batch = schedule.get_loops(anchor)[:rank]
    o, m, _, v = schedule.get_loops(anchor)[rank : rank + 4]
    return own == prod(extent(schedule, loop) for loop in (*batch, o, m, v))


def _epilogue_loops(schedule: Any, block: Any, batch: int) -> tuple[list[Any], Any, Any]:
    """The epilogue's loops as batch (of that many elements in all), rows (fused) and columns."""
    *lines, column = schedule.get_loops(block)
    places = []
    while batch > 1:
        places.append(lines.pop(0))
        batch //= extent(schedule, places[-1])
    line = schedule.fuse(*lines) if len(lines) > 1 else lines[0] if lines else None
    if line is None:
        line = schedule.add_unit_loop(column)
    return places, line, column
