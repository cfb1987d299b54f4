"""Schedule primitives that the rules share: what is inlined, vectorised, unrolled and run in parallel, and how.

A rule's function holds, in this order: copies of its inputs (blocks named hw_pad...), the anchor (a reduction into an
accumulator), hw_out, and whatever FuseTIR appended behind it, which is elementwise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

from hwnas.toolchains.schedules.isa import Isa
from hwnas.toolchains.schedules.threads import mark_parallel

PARALLEL_WORK = 15_000
"""Elements of a copy, some 4 us of work, below which a second thread is not started: that takes .6 to 2 us."""
DROPPED = "hw_dropped"
"""Mark of a loop that is not to run (`predicates.drop_loops`): its elements are made elsewhere."""
REDUCTION = 2
"""TIR's number for a reduction axis (IterVar.CommReduce)."""


FUSABLE = {"op_pattern": 4}
"""Attribute of a kernel that takes an elementwise epilogue (TVM's OpPatternKind.kOutEWiseFusable)."""


def call(builder: Any, name: str, compute: Callable[..., Any], *tensors: Any, **numbers: Any) -> Any:
    """A call of `compute(*tensors, **numbers)` as a kernel of that name which takes an elementwise epilogue."""
    bound = partial(compute, **numbers)
    return builder.call_te(
        lambda *placeholders: bound(*placeholders), *tensors, primfunc_name_hint=name, primfunc_attrs=FUSABLE
    )


def extent(schedule: Any, loop: Any) -> int:
    """Trip count of a loop, which is static in every network we compile."""
    return int(schedule.get(loop).extent)


def block_name(schedule: Any, block: Any) -> str:
    return str(schedule.get(block).name_hint)


def block_list(schedule: Any) -> list[Any]:
    """The blocks of a function, in order."""
    return list(schedule.get_child_blocks(schedule.get_sblock("root")))


def block_names(schedule: Any) -> list[str]:
    return [block_name(schedule, block) for block in block_list(schedule)]


def channels_of(schedule: Any, block: Any) -> int:
    """Extent of the last axis of a block: the channels of an epilogue."""
    return int(schedule.get(block).iter_vars[-1].dom.extent)


def reduces(schedule: Any, block: Any) -> bool:
    """Whether the block has a reduction axis."""
    return any(int(axis.iter_type) == REDUCTION for axis in schedule.get(block).iter_vars)


def annotation(schedule: Any, block: Any, key: str) -> tuple[int, ...]:
    """The whole numbers that a legalisation left on its anchor (`te.compute(..., attrs={key: [...]})`)."""
    return tuple(int(value) for value in schedule.get(block).annotations[key])


def inline_epilogue(schedule: Any, anchor: Any) -> Any:
    """Inline every block between the anchor and the last one, and return the last: the whole epilogue in one block."""
    names = block_names(schedule)
    first = names.index(block_name(schedule, anchor))
    for name in names[first + 1 : -1]:
        schedule.compute_inline(schedule.get_sblock(name))
    return schedule.get_sblock(names[-1])


def vectorize_channels(schedule: Any, isa: Isa, loop: Any, channels: int) -> None:
    """Vectorise the channels of an epilogue, a loop whose last pass may overhang `channels`.

    The lanes are cut where the last vector ends, so that the predicate of each part is the same for all its lanes
    (`predicates`): whole vectors and one shorter one, whether the core has masks or not. It is the last thing to do to
    a block.
    """
    size, lanes, rest = extent(schedule, loop), isa.lanes, channels % isa.lanes
    if size <= lanes and size == channels:
        if size > 1:
            schedule.vectorize(loop)
        return
    if size % lanes:  # the only block of channels: nothing overhangs
        whole, tail = schedule.loop_partition(loop, [size - rest, None])
        if rest > 1:
            schedule.vectorize(tail)
        loop, rest = whole, 0
    outer, inner = schedule.split(loop, [None, lanes])
    schedule.unroll(outer)
    vectorize_tail(schedule, isa, inner, rest)


def vectorize_span(schedule: Any, isa: Isa, loop: Any, span: int) -> None:
    """Vectorise the channels of a block that holds `span` of them; what lies beyond is the next block's and goes."""
    size, rest = extent(schedule, loop), span % isa.lanes
    sizes = [part for part in (span - rest, rest) if part]
    parts = schedule.loop_partition(loop, [*sizes, None]) if size > span or len(sizes) > 1 else [loop]
    for part, width in zip(parts, sizes):
        if width > isa.lanes:
            outer, part = schedule.split(part, [None, isa.lanes])
            schedule.unroll(outer)
        if width > 1:
            schedule.vectorize(part)
    if size > span:
        schedule.annotate(parts[-1], DROPPED, 1)


def vectorize_tail(schedule: Any, isa: Isa, lanes: Any, channels: int) -> None:
    """Vectorise a loop over lanes whose last vector overhangs `channels`: cut where that one ends."""
    rest = channels % isa.lanes
    for part in schedule.loop_partition(lanes, [rest, None]) if rest else [lanes]:
        if extent(schedule, part) > 1:
            schedule.vectorize(part)


def schedule_copies(schedule: Any, isa: Isa) -> None:
    """Vectorise the padded copies (blocks hw_pad...) and spread their rows over the threads.

    A copy's columns (its last axis but one) are cut where the image begins and ends, so that no element asks.
    """
    for block in block_list(schedule):
        if not block_name(schedule, block).startswith("hw_pad"):
            continue
        *outer, column, channel = schedule.get_loops(block)
        work = prod(extent(schedule, loop) for loop in (*outer, column, channel))
        left, width = annotation(schedule, block, "hw_image")
        spread(schedule, isa, outer, work)
        for part in cut_columns(schedule, block, column, left, width):
            vectorize_copy(schedule, isa, schedule.get_loops(part)[-1])


def vectorize_copy(schedule: Any, isa: Isa, loop: Any, cuts: tuple[int, ...] = ()) -> None:
    """Vectorise a loop in whole vectors and one shorter one, cut first where its condition changes."""
    size, lanes = extent(schedule, loop), isa.lanes
    if size == 1:
        return
    if cuts:
        for part in schedule.loop_partition(loop, [*cuts, None]):
            vectorize_copy(schedule, isa, part)
    elif size <= lanes:
        schedule.vectorize(loop)
    elif size % lanes == 0:
        schedule.vectorize(schedule.split(loop, [None, lanes])[1])
    else:
        for part in schedule.loop_partition(loop, [size - size % lanes, None]):
            vectorize_copy(schedule, isa, part)


def cut_columns(schedule: Any, copy: Any, loop: Any, left: int, width: int) -> list[Any]:
    """Cut a copy's loop over columns into padding, image, padding; the blocks of the parts."""
    size = extent(schedule, loop)
    sizes = [part for part in (left, min(width, size - left), size - left - width) if part > 0]
    if len(sizes) == 1:
        return [copy]
    name, variable = block_name(schedule, copy), schedule.get(loop).loop_var.name
    schedule.loop_partition(loop, [*sizes[:-1], None])
    return [schedule.get_sblock(f"{name}_{variable}{index}") for index in range(len(sizes))]


def accumulate(
    schedule: Any,
    isa: Isa,
    anchor: Any,
    pixels: list[Any],
    vector: Any,
    reduction: list[Any],
    outside: Any = None,
) -> Any:
    """Make of an anchor's inner loops a block of accumulators that LLVM keeps in registers over the reduction.

    `outside` is a loop of the reduction further out, if there is one: the accumulators are then in memory between its
    passes. The innermost loop of the reduction, which is left rolled, is returned.
    """
    vectors, lanes = schedule.split(vector, [None, isa.lanes])
    schedule.reorder(*reduction, *pixels, vectors, lanes)
    schedule.vectorize(lanes)
    for loop in (*pixels, vectors):
        schedule.unroll(loop)
    first, last = reduction[0], reduction[-1]
    inner = extent(schedule, last)
    if not isa.broadcast and inner > 4 and inner % 4 == 0:
        # One load of four neighbouring inputs serves four steps (FMLA by element).
        last, four = schedule.split(last, [None, 4])
        schedule.unroll(four)
        if len(reduction) == 1:
            first = last
    schedule.decompose_reduction(anchor, first if outside is None else outside)
    return last


def spread(schedule: Any, isa: Isa, loops: list[Any], work: int) -> None:
    """Run the outer loops in parallel where the build has threads and the work pays for them.

    `work` is in elements of a copy; `products` says what a number of multiplications is worth.
    """
    if isa.threads > 1 and loops and work >= PARALLEL_WORK:
        mark_parallel(schedule, loops)


def spread_tiles(schedule: Any, isa: Isa, blocks: list[Any], tiles: Any, sizes: tuple[int, int], work: int) -> None:
    """As `spread` for blocks of output channels, outermost, over tiles of pixels.

    `sizes` are channels and pixels. Where there are more pixels than channels, each thread takes its share of the
    pixels through all blocks: it reads what it wrote a kernel before, which lies in its own cache.
    """
    channels, pixels = sizes
    if isa.threads > 1 and work >= PARALLEL_WORK and pixels > channels and extent(schedule, tiles) % isa.threads == 0:
        share, rest = schedule.split(tiles, [isa.threads, None])
        schedule.reorder(share, *blocks, rest)
        mark_parallel(schedule, [share])
    else:
        spread(schedule, isa, [*blocks, tiles], work)


def products(isa: Isa, multiplications: int) -> int:
    """Multiplications in vectors as elements of a copy, which take about two cycles each, loads and misses included."""
    return 2 * multiplications // isa.lanes
