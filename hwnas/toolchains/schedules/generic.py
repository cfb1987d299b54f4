"""The schedule of a kernel that no anchor claims: any group of elementwise blocks and reductions that FuseOps makes.

Cheap blocks are inlined into their readers; what is left is vectorised block by block, along the longest run of
trailing axes that every access walks without gaps, and the outer loops are spread over the threads.
"""

from __future__ import annotations

from math import prod
from typing import Any

from hwnas.toolchains.schedules.access import (
    Accesses,
    accesses,
    breaks_of,
    complexity,
    flat_suffix,
)
from hwnas.toolchains.schedules.isa import Isa
from hwnas.toolchains.schedules.microkernel import REDUCTION, block_list, block_name, extent, reduces, spread

EXPRESSION = 200
"""Nodes that an inlined expression may grow to: beyond, compile time grows and nothing is won."""
KEPT = ("hw_pad", "hw_row")
"""Steps that a legalisation made on purpose: they stay loop nests of their own."""
FEW = 4
"""Elements of an innermost axis that are unrolled rather than made a vector."""
UNROLLED = 16
"""Steps of a small reduction that are unrolled."""


def schedule_any(schedule: Any, isa: Isa, anchor: Any = None) -> None:
    """Schedule every block of a function by its own shape. Raises what TVM raises for a block that is not a compute.

    A reshape is left as it is: the Relax VM knows its form, and gives its result as a view without running it.
    """
    from tvm import relax

    if relax.analysis.has_reshape_pattern(schedule.mod["main"]):
        return
    inline_cheap(schedule)
    for name in [block_name(schedule, block) for block in block_list(schedule)]:
        block = schedule.get_sblock(name)
        if reduces(schedule, block):
            schedule_reduction(schedule, isa, block)
        else:
            schedule_elements(schedule, isa, block)


def inline_cheap(schedule: Any) -> None:
    """Inline each elementwise block whose readers would not compute it much more often than it does."""
    outputs = {block_name(schedule, block) for block in schedule.get_output_blocks(schedule.get_sblock("root"))}
    for block in block_list(schedule):
        name = block_name(schedule, block)
        if name in outputs or name.startswith(KEPT) or reduces(schedule, block):
            continue
        readers = schedule.get_consumers(block)
        if readers and all(_repays(schedule, block, reader, len(readers)) for reader in readers):
            inline(schedule, block)


def inline(schedule: Any, block: Any) -> bool:
    """Inline a block into its readers; False where TVM cannot (it then stays a loop nest of its own)."""
    from tvm.s_tir.schedule import ScheduleError

    try:
        schedule.compute_inline(block)
    except ScheduleError:
        return False
    return True


def _repays(schedule: Any, block: Any, reader: Any, readers: int) -> bool:
    """Whether a reader computes an inlined block about as often as the block itself does, or it is but a few nodes."""
    own, other = complexity(schedule.get(block)), complexity(schedule.get(reader))
    if own.loads == 0 and own.heavy == 0:
        return True
    uses = max(1, other.uses.get(own.written, 1))
    if other.nodes + uses * own.nodes > EXPRESSION:
        return False
    times = uses * other.points / max(own.points, 1)
    if own.guarded:  # a padding: its condition is worth deciding once
        return times <= 1 and not reduces(schedule, reader)
    if own.heavy:
        return times * readers <= 1
    return times <= 4 or own.nodes <= 8


def schedule_elements(schedule: Any, isa: Isa, block: Any) -> None:
    """Vectorise an elementwise block along its trailing axes and run its outer loops in parallel."""
    loops = schedule.get_loops(block)
    if not loops:
        return
    sizes = [extent(schedule, loop) for loop in loops]
    found = accesses(schedule.get(block))
    first = flat_suffix(found, sizes) if len(found.axes) == len(loops) else len(loops) - 1
    breaks = breaks_of(found, len(loops) - 1) if first == len(loops) - 1 else ()
    last = schedule.fuse(*loops[first:]) if len(loops) - first > 1 else loops[first]
    near = _near(found, sizes, first)
    if near is not None and not breaks and _schedule_transpose(schedule, isa, loops[:first], near, last, prod(sizes)):
        return
    spread(schedule, isa, loops[:first], prod(sizes))
    if first == 0 and isa.threads > 1:
        last = _split_for_threads(schedule, isa, last, prod(sizes))
    vectorise(schedule, last, isa.lanes, breaks)


def _near(found: Accesses, sizes: list[int], first: int) -> int | None:
    """Of a block that reads across its last axes, the axis along which it reads element by element; None if none."""
    if len(found.axes) != len(sizes):
        return None
    wide = [axis for axis in range(first, len(sizes)) if sizes[axis] > 1]
    for strides in found.strides:
        if wide and strides[wide[-1]] not in (0, 1, None):
            along = [axis for axis in range(first) if strides[axis] == 1 and sizes[axis] > 1]
            return along[-1] if along else None
    return None


def _schedule_transpose(schedule: Any, isa: Isa, loops: list[Any], near: int, last: Any, work: int) -> bool:
    """Go through a transposition in strips, so that what one read brings into the cache is used up; False if it has
    no form for that."""
    size = extent(schedule, last)
    if size <= FEW:  # interleaved: LLVM makes shuffles of it, over the loop outside
        schedule.unroll(last)
        spread(schedule, isa, [loop for k, loop in enumerate(loops) if k != len(loops) - 1], work)
        return True
    width = next((n for n in range(isa.lanes, isa.lanes // 2 - 1, -1) if size % n == 0), 0)
    if not width or size == width:
        return False
    outer, lane = schedule.split(last, [None, width])
    others = [loop for k, loop in enumerate(loops) if k != near]
    schedule.reorder(*others, outer, loops[near], lane)
    schedule.vectorize(lane)
    spread(schedule, isa, [*others, outer], work)
    return True


def _split_for_threads(schedule: Any, isa: Isa, loop: Any, work: int) -> Any:
    """One long loop as an outer one over the threads and an inner one in whole vectors, where it divides."""
    size = extent(schedule, loop)
    chunks = next((n for n in (4 * isa.threads, 2 * isa.threads, isa.threads) if size % (n * isa.lanes) == 0), 0)
    if not chunks:
        return loop
    outer, inner = schedule.split(loop, [chunks, None])
    spread(schedule, isa, [outer], work)
    return inner


def vectorise(schedule: Any, loop: Any, lanes: int, breaks: tuple[int, ...] = ()) -> None:
    """Vectorise an innermost loop of any extent: whole vectors, and what is left as one shorter vector.

    The loop is cut at `breaks`, where a condition of its body changes, so that no lane needs a mask. It must be the
    last thing done to a block: cutting a loop nests the block in others.
    """
    size = extent(schedule, loop)
    if size <= 1:
        return
    if cuts := [cut for cut in breaks if 0 < cut < size]:
        parts = [b - a for a, b in zip([0, *cuts], cuts)]
        first, *others = schedule.loop_partition(loop, [*parts, None])
        vectorise(schedule, first, lanes)
        for part in others:  # TVM splits no loop that starts behind 0: a long one is left for LLVM to vectorise
            if 1 < extent(schedule, part) <= 4 * lanes:
                schedule.vectorize(part)
        return
    if size < 2 * lanes and size % lanes:
        schedule.vectorize(loop)
        return
    if rest := size % lanes:
        loop, tail = schedule.loop_partition(loop, [size - rest, None])
        if rest > 1:
            schedule.vectorize(tail)
    if size - rest > lanes:
        _, inner = schedule.split(loop, [None, lanes])
        schedule.vectorize(inner)
    else:
        schedule.vectorize(loop)


def schedule_reduction(schedule: Any, isa: Isa, block: Any) -> None:
    """Vectorise a reduction along its last spatial axis where that is contiguous, else along its last reduced one."""
    loops = schedule.get_loops(block)
    found = accesses(schedule.get(block))
    if len(found.axes) != len(loops):
        return
    kinds = [int(axis.iter_type) == REDUCTION for axis in schedule.get(block).iter_vars]
    spatial = [loop for loop, reduced in zip(loops, kinds) if not reduced]
    reduced = [loop for loop, is_reduced in zip(loops, kinds) if is_reduced]
    work = prod(extent(schedule, loop) for loop in loops)
    wide = [k for k, loop in enumerate(loops) if not kinds[k] and extent(schedule, loop) > 1]
    if wide and found.unit(wide[-1]):
        lane = loops[wide[-1]]
        outer = [loop for loop in spatial if loop is not lane]
        schedule.reorder(*outer, lane, *reduced)
        spread(schedule, isa, outer, work)
        accumulate_lanes(schedule, isa, block, lane, reduced)
        return
    deep = [k for k, loop in enumerate(loops) if kinds[k] and extent(schedule, loop) > 1]
    lanes = _factor(extent(schedule, loops[deep[-1]]), isa.lanes) if deep and found.unit(deep[-1]) else 0
    if lanes:
        _reduce_by_lanes(schedule, isa, block, loops[deep[-1]], lanes, work)
        return
    spread(schedule, isa, spatial, work)
    if prod(extent(schedule, loop) for loop in reduced) <= UNROLLED:
        for loop in reduced:
            schedule.unroll(loop)
    schedule.decompose_reduction(block, reduced[0])


def accumulate_lanes(schedule: Any, isa: Isa, block: Any, lane: Any, reduced: list[Any]) -> None:
    """Vectors of a spatial axis accumulate over the reduction; `lane` is the loop just outside the reduced ones."""
    size = extent(schedule, lane)
    lanes = next((n * isa.lanes for n in (4, 2, 1) if size % (n * isa.lanes) == 0), 0)
    inner = lane
    if size > 4 * isa.lanes or (lanes and size > lanes):
        _, inner = schedule.split(lane, [None, lanes or _factor(size, isa.lanes) or size])
    schedule.reorder(*reduced, inner)
    vectors = extent(schedule, inner) // isa.lanes
    if vectors > 1 and extent(schedule, inner) % isa.lanes == 0:
        middle, inner = schedule.split(inner, [vectors, isa.lanes])
        schedule.unroll(middle)
    schedule.vectorize(inner)
    schedule.decompose_reduction(block, reduced[0])


def _factor(size: int, lanes: int) -> int:
    """The best number of lanes that divides `size`: several vectors, one, or a good part of one; 0 for none."""
    for wanted in (4 * lanes, 2 * lanes, lanes):
        if size % wanted == 0:
            return wanted
    return next((d for d in range(lanes - 1, 1, -1) if size % d == 0), 0)


def _reduce_by_lanes(schedule: Any, isa: Isa, block: Any, loop: Any, lanes: int, work: int) -> None:
    """Partial results in lanes (`rfactor`), then one sum over the lanes."""
    from tvm.s_tir.schedule import ScheduleError

    spatial = len([axis for axis in schedule.get(block).iter_vars if int(axis.iter_type) != REDUCTION])
    _, inner = schedule.split(loop, [None, lanes])
    try:
        partial = schedule.rfactor(inner, spatial)
    except ScheduleError:  # TVM knows but a few reductions by their form
        schedule.unroll(inner)
        return
    loops, axes = schedule.get_loops(partial), schedule.get(partial).iter_vars
    bound = _binding(schedule, partial)
    lane = next(loops[bound[k]] for k, axis in reversed(list(enumerate(axes))) if int(axis.iter_type) != REDUCTION)
    reduced = [loops[bound[k]] for k, axis in enumerate(axes) if int(axis.iter_type) == REDUCTION]
    outer = [loop for loop in loops if loop is not lane and not any(loop is other for other in reduced)]
    schedule.reorder(*outer, lane, *reduced)
    spread(schedule, isa, outer, work)
    accumulate_lanes(schedule, isa, partial, lane, reduced)
    rest = schedule.get_loops(block)
    schedule.unroll(rest[-1])
    schedule.decompose_reduction(block, rest[-1])


def _binding(schedule: Any, block: Any) -> list[int]:
    """For each axis of a block the place, among its loops, of the loop that it is bound to."""
    from tvm.s_tir import SBlockRealize

    loops = [schedule.get(loop) for loop in schedule.get_loops(block)]
    realize = loops[-1].body
    assert isinstance(realize, SBlockRealize)
    names = [loop.loop_var.name for loop in loops]
    return [names.index(value.name) if hasattr(value, "name") else 0 for value in realize.iter_values]
