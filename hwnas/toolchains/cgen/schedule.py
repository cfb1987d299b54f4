"""Loop order and fusion of one kernel's stages: nothing is materialised that need not be.

Stages without a sum are computed where they are read; what follows a sum is computed right behind each of its
elements, so that the sum lives in a register; the border of a convolution that is not computed inline is kept for as
few channels as the convolution needs at a time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

SCHEDULE = "cgen-2"
MAX_SUMS = 8
"""Sums of a tile: 13 registers of a Cortex-M hold them, two loaded values and three addresses."""
LEAST_COPIED = 12
"""Shorter rows are copied with tests for the border: loops of their own would only be more code."""


def scheduled(function: Any) -> tuple[Any, bool]:
    """A PrimFunc with its stages fused, and whether a rule covered it."""
    from tvm import IRModule
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import ScheduleError

    schedule = Schedule(IRModule({"main": function.with_attr("global_symbol", "main")}))
    try:
        covered = _arrange(schedule)
    except ScheduleError:
        schedule = Schedule(IRModule({"main": function.with_attr("global_symbol", "main")}))
        covered = False
    return schedule.mod["main"], covered


def _arrange(schedule: Any) -> bool:
    stages = schedule.get_child_blocks(schedule.get_sblock("root", "main"))
    sums = [stage for stage in stages if _reduces(schedule, stage)]
    if len(sums) > 1:
        return False
    if not sums:
        for stage in stages[:-1]:
            schedule.compute_inline(stage)
        return True
    [total] = sums
    at = next(i for i, stage in enumerate(stages) if stage is total)
    borders = []
    for stage in stages[:at]:
        if _is_border(schedule, stage):
            borders.append(stage)
        else:
            schedule.compute_inline(stage)
    for stage in stages[at + 1 : -1]:
        schedule.compute_inline(stage)
    depthwise = _is_depthwise(schedule, total)
    inside = depthwise and _reads_one_channel(schedule, total)
    tile = _tile(schedule, total, depthwise)
    if stages[-1] is not total:
        schedule.reverse_compute_at(stages[-1], tile.place)
        for loop in schedule.get_loops(stages[-1])[tile.depth :]:
            schedule.unroll(loop)
    if borders and inside:
        schedule.compute_at(borders[0], schedule.get_loops(total)[1])
    for border in borders:
        _partition(schedule, border)
    schedule.decompose_reduction(total, tile.first_sum)
    return True


@dataclass(frozen=True, slots=True)
class _Tile:
    """Where a tile of sums is complete: the loop over tiles, how deep it is, and the first loop of the sum inside it."""

    place: Any
    depth: int
    first_sum: Any


def _tile(schedule: Any, total: Any, depthwise: bool) -> _Tile:
    """Compute a few sums at a time, so that what is loaded is used more than once while it is in a register."""
    loops = schedule.get_loops(total)
    spatial = _spatial(schedule, total)
    outer, sums = list(loops[:spatial]), list(loops[spatial:])
    extents = [_extent(schedule, loop) for loop in outer]
    row = extents[-1]
    if spatial == 4 and not depthwise and all(_extent(schedule, loop) == 1 for loop in sums[1:]):
        extents[2:] = [extents[2] * extents[3]]
        outer[2:] = [schedule.fuse(outer[2], outer[3])]
    if not sums or spatial < 2:
        return _Tile(outer[-1], len(outer), sums[0])
    channel = 1 if spatial == 4 else len(outer) - 1
    across = len(outer) - 1 if spatial == 4 else None
    channels, places = _sizes(extents[channel], extents[across] if across is not None else 1, row, depthwise)
    inner = []
    if channels > 1:
        outer[channel], inside = schedule.split(outer[channel], [None, channels])
        inner.append(inside)
    if across is not None and places > 1:
        outer[across], inside = schedule.split(outer[across], [None, places])
        inner.append(inside)
    schedule.reorder(*outer, *sums, *inner)
    if depthwise and not re.search(r"\bT\.(max|min)\(", str(schedule.get(total))):  # see `check_temporaries`
        schedule.unroll(sums[-1])
    for loop in inner:
        schedule.unroll(loop)
    return _Tile(outer[-1], len(outer), sums[0])


def _sizes(channels: int, places: int, row: int, depthwise: bool) -> tuple[int, int]:
    """How many output channels and neighbouring places a tile has: the fewest instructions a product.

    A tile of c x p sums loads c weights and p values for c * p products, and goes round a loop of some 3 instructions.
    Sums and loaded values have to fit into the registers of a Cortex-M; a tile is a part of a row, or whole rows.
    """
    options = [
        (c, p)
        for c in range(1, MAX_SUMS + 1)
        for p in range(1, MAX_SUMS + 1)
        if c * p <= MAX_SUMS
        and channels % c == 0
        and places % p == 0
        and (row % p == 0 or p % row == 0)
        and (c == 1 or not depthwise)
    ]
    return min(options, key=lambda size: ((sum(size) + 3) / (size[0] * size[1]), size))


def _partition(schedule: Any, border: Any) -> None:
    """Fill a border and copy what it surrounds in loops of their own, instead of asking at each element."""
    block = schedule.get(border)
    [source] = [region for region in block.reads if len(region.region) == len(block.iter_vars)]
    loops = schedule.get_loops(border)
    for axis in range(1, len(block.iter_vars) - 1):  # from the last axis forward: each pass doubles what is outside
        size = int(source.source.shape[-axis])
        shift = re.search(r" - (?:T\.int64\()?(\d+)", str(source.region[-axis].min))
        before, extent = int(shift[1]) if shift else 0, _extent(schedule, loops[-axis])
        copied = min(size, extent - before)
        parts = [part for part in (before, copied, extent - before - copied) if part > 0]
        if len(parts) > 1 and copied >= LEAST_COPIED:
            schedule.loop_partition(loops[-axis], [*parts[:-1], None])


def _extent(schedule: Any, loop: Any) -> int:
    return int(schedule.get(loop).extent)


def _reduces(schedule: Any, stage: Any) -> bool:
    from tvm.tirx import IterVar

    return any(axis.iter_type == IterVar.CommReduce for axis in schedule.get(stage).iter_vars)


def _spatial(schedule: Any, stage: Any) -> int:
    from tvm.tirx import IterVar

    return sum(axis.iter_type == IterVar.DataPar for axis in schedule.get(stage).iter_vars)


def _is_border(schedule: Any, stage: Any) -> bool:
    """Whether a stage pads: reading it inside a sum would test for the border in the innermost loop."""
    return "pad" in schedule.get(stage).name_hint and "if_then_else" in str(schedule.get(stage))


def _is_depthwise(schedule: Any, stage: Any) -> bool:
    """Whether an output channel does not read what the one before it read: depthwise and grouped sums, and pools."""
    if _spatial(schedule, stage) != 4:
        return False
    block = schedule.get(stage)
    channel = str(block.iter_vars[1].var)
    second = [str(region.region[1].min) for region in block.reads if len(region.region) == 4]
    return any(channel in re.findall(r"\w+", index) for index in second)


def _reads_one_channel(schedule: Any, stage: Any) -> bool:
    """Whether a sum runs over the window alone."""
    sums = schedule.get_loops(stage)[_spatial(schedule, stage) :]
    return len(sums) <= 2 or _extent(schedule, sums[0]) == 1
