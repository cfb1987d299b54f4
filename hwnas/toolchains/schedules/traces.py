"""Kernels under tuned schedules: the rule's code with another tile, or a trace of MetaSchedule, from JSON values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from math import log2
from typing import Any

from hwnas.digest import content_id
from hwnas.toolchains.schedules.isa import Isa
from hwnas.toolchains.schedules.microkernel import annotation, block_names
from hwnas.toolchains.schedules.polynomials import expand
from hwnas.toolchains.schedules.rules import scheduled
from hwnas.toolchains.schedules.tiles import divisors
from hwnas.toolchains.schedules.tuned import Tuned

TILE = "hw_tile"
MOST_PIXELS = 32
"""As many as any core has registers: more only take long to compile."""
TILED: Mapping[str, Mapping[int, int]] = {
    "hw_flat": {1: 1},
    "hw_conv": {0: 2, 1: 3},
    "hw_depthwise": {0: 2, 1: 3},
    "hw_product": {0: -3},
}
"""Prefix of an anchor -> which number of its tile may be any divisor of which of its spatial axes."""


def under(function: Any, schedule: Mapping[str, Any], isa: Isa) -> Any:
    """An unscheduled PrimFunc under a schedule of `tuned.check_schedule`'s form.

    Raises ValueError, or whatever TVM raises, where it does not fit the function.
    """
    import tvm
    from tvm.s_tir.schedule import Trace

    function = function.with_attr("global_symbol", "main")
    if "tile" in schedule:
        retiled, reason = scheduled(with_tile(function, schedule["tile"]), isa)
        if reason:
            raise ValueError(reason)
        return retiled
    made = tvm.s_tir.Schedule(tvm.IRModule({"main": function}), debug_mask="none")
    Trace.apply_json_to_schedule(schedule["trace"], made)
    return of_trace(made, isa)


class MisfitError(Exception):
    """A tuned schedule that does not fit its kernel."""


def fitted(function: Any, tuned: Tuned, isa: Isa) -> Any:
    """An unscheduled PrimFunc under its entry's schedule. Raises MisfitError where that does not fit."""
    try:
        return under(function, tuned.schedule or {}, isa)
    except Exception as error:  # TVM raises many classes
        words = " ".join(str(error).split())[-200:]
        raise MisfitError(f"the tuned schedule of {tuned.name} does not fit and was ignored ({words})") from error


def of_trace(schedule: Any, isa: Isa) -> Any:
    """The PrimFunc of a schedule that MetaSchedule made, ready to compile."""
    import tvm_ffi
    from tvm import tirx

    function = schedule.mod["main"]
    if isa.threads == 1:  # starting a parallel region of one thread takes as long as a small kernel
        function = tvm_ffi.structural_map(function, (tirx.For, _serial))
    return expand(function)


def _serial(loop: Any) -> Any:
    from tvm import tirx

    if int(loop.kind) != tirx.ForKind.PARALLEL:
        return loop
    return tirx.For(
        loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body, loop.thread_binding, loop.annotations,
        loop.step, loop.span,
    )  # fmt: skip


def trace_of(schedule: Any) -> list[Any]:
    """The trace of a schedule as plain JSON values: its instructions, and what was decided where."""
    found: list[Any] = plain(schedule.trace.as_json())
    return found


def plain(value: Any) -> Any:
    """A value of TVM as a JSON value. Raises TypeError for what is none."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return str(value)
    if type(value).__name__ in ("IntImm", "FloatImm"):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if hasattr(value, "__iter__"):
        return [plain(part) for part in value]
    raise TypeError(f"{type(value).__name__} is no JSON value")


def form_id(function: Any) -> str:
    """A content id of what a schedule sees of an unscheduled kernel: its arrays, and its blocks with their loops.

    Kernels of one form, such as sums of x + y and of y + x, have one tuned schedule; none changes what they compute.
    """
    import tvm

    schedule = tvm.s_tir.Schedule(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}))
    arrays = [[[int(size) for size in p.shape], str(p.dtype)] for p in function.params]
    found: list[Any] = []
    for name in block_names(schedule):
        block = schedule.get(schedule.get_sblock(name))
        axes = [[int(axis.iter_type), int(axis.dom.extent)] for axis in block.iter_vars]
        found.append([name, axes, sorted([str(k), str(v)] for k, v in block.annotations.items())])
    return content_id([arrays, found])


def tiles_near(function: Any) -> Iterator[list[int]]:
    """Other tiles for a kernel's anchor, those nearest in size to its own first; none where its family has no choice."""
    import tvm

    schedule = tvm.s_tir.Schedule(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}))
    if (name := _anchor(schedule)) is None:
        return
    block = schedule.get_sblock(name)
    own = annotation(schedule, block, TILE)
    places = next(places for prefix, places in TILED.items() if name.startswith(prefix))
    axes = [int(axis.dom.extent) for axis in schedule.get(block).iter_vars if int(axis.iter_type) == axis.DataPar]
    found = []
    for sizes in product(*(divisors(axes[axis]) for axis in places.values())):
        tile = list(own)
        for number, size in zip(places, sizes):
            tile[number] = size
        pixels, before = _product(sizes), _product(own[number] for number in places)
        if tile != list(own) and pixels <= min(4 * before, MOST_PIXELS):
            found.append((abs(log2(pixels / before)), tile))
    yield from (tile for _, tile in sorted(found))


def with_tile(function: Any, tile: list[int]) -> Any:
    """The PrimFunc whose rule will use another tile. Raises ValueError where its family leaves no choice."""
    import tvm

    schedule = tvm.s_tir.Schedule(tvm.IRModule({"main": function}))
    if (name := _anchor(schedule)) is None:
        raise ValueError("the kernel has no tile to choose")
    block = schedule.get_sblock(name)
    own = annotation(schedule, block, TILE)
    places = next(places for prefix, places in TILED.items() if name.startswith(prefix))
    if len(tile) != len(own) or any(tile[n] != own[n] for n in range(len(own)) if n not in places):
        raise ValueError(f"{tile} is no tile in place of {list(own)}")
    schedule.unannotate(block, TILE)
    schedule.annotate(block, TILE, tile)
    return schedule.mod["main"]


def _anchor(schedule: Any) -> str | None:
    for name in block_names(schedule):
        if name.startswith(tuple(TILED)) and TILE in schedule.get(schedule.get_sblock(name)).annotations:
            return name
    return None


def _product(sizes: Any) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result
