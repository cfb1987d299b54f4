"""Reductions over any axes: sum, mean, max, min, prod, variance and standard deviation.

Where the innermost axis is kept, vectors of it accumulate (`generic`). Where it is reduced, each row becomes partial
results in lanes, folded at last by a balanced tree; rows of any length need neither a mask nor a scalar rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from hwnas.toolchains.schedules.access import accesses, breaks_of
from hwnas.toolchains.schedules.generic import accumulate_lanes, inline_cheap, schedule_any, vectorise
from hwnas.toolchains.schedules.geometry import is_fp32, shape_of
from hwnas.toolchains.schedules.isa import Isa
from hwnas.toolchains.schedules.microkernel import annotation, block_names, call, extent, reduces, spread

VECTORS = (4, 2, 1)
"""Vectors of partial results, most first: enough to hide the latency of an addition."""

Value = Callable[[Sequence[Any], Any], Any]
"""The element at (indices of the row, place in the row)."""


def combiner(kind: str) -> Callable[[Any, Any], Any]:
    """The operation of a kind of reduction on two values."""
    from tvm import tirx

    operations: dict[str, Callable[[Any, Any], Any]] = {
        "sum": lambda a, b: a + b,
        "prod": lambda a, b: a * b,
        "max": lambda a, b: tirx.max(a, b),
        "min": lambda a, b: tirx.min(a, b),
    }
    return operations[kind]


def reducer(kind: str) -> Any:
    """TE's reduction of a kind."""
    from tvm import te

    if kind == "sum":
        return te.sum
    # TE's own maximum begins with the least finite number, which is above minus infinity.
    return te.comm_reducer(combiner(kind), lambda dtype: identity(kind), name=kind)


def identity(kind: str) -> Any:
    """The fp32 constant that a kind of reduction leaves a value unchanged with."""
    from tvm import tirx

    return tirx.const({"sum": 0.0, "prod": 1.0, "max": float("-inf"), "min": float("inf")}[kind], "float32")


def tree(values: list[Any], kind: str) -> Any:
    """A balanced tree over values, the first half against the second: LLVM makes vectors of it."""
    join = combiner(kind)
    while len(values) > 1:
        half = len(values) // 2
        rest = values[2 * half :]
        values = [join(a, b) for a, b in zip(values[:half], values[half : 2 * half])] + rest
    return values[0]


def row_total(rows: tuple[int, ...], depth: int, value: Value, kind: str, lanes: int, name: str) -> Any:
    """TE of one result for each of `rows` from its `depth` values; its blocks are named hw_row_NAME..."""
    from tvm import te, tirx

    rank = len(rows)
    mark = {"hw_rows": [rank]}
    if depth <= lanes:
        each = te.compute(
            (*rows, depth), lambda *index: value(index[:rank], index[rank]), name=f"hw_row_{name}_part", attrs=mark
        )
        return te.compute(
            rows,
            lambda *index: tree([each[(*index, k)] for k in range(depth)], kind),
            name=f"hw_row_{name}",
            attrs=mark,
        )
    vectors = next(count for count in VECTORS if depth >= count * lanes)
    wide = vectors * lanes
    done = depth - depth % wide
    k = te.reduce_axis((0, depth // wide), "k")
    part = te.compute(
        (*rows, wide),
        lambda *index: reducer(kind)(value(index[:rank], k * wide + index[rank]), axis=[k]),
        name=f"hw_row_{name}_part",
        attrs=mark,
    )

    def folded(*index: Any) -> Any:
        row, lane = index[:rank], index[rank]
        found = [part[(*row, lane + n * lanes)] for n in range(vectors)]
        found += [value(row, first + lane) for first in range(done, depth - lanes + 1, lanes)]
        total = tree(found, kind)
        if rest := depth % lanes:
            last = value(row, depth - rest + lane)
            total = combiner(kind)(total, tirx.if_then_else(lane < rest, last, identity(kind)))
        return total

    lane = te.compute((*rows, lanes), folded, name=f"hw_row_{name}_fold", attrs=mark) if depth > lanes else part
    return te.compute(
        rows, lambda *index: tree([lane[(*index, n)] for n in range(lanes)], kind), name=f"hw_row_{name}", attrs=mark
    )


def schedule_rows(schedule: Any, isa: Isa, anchor: Any) -> None:
    """Schedule kernels made of rows (softmax, layer norm, sums over the last axis): every step row by row, in cache."""
    inline_cheap(schedule)
    (rank,) = annotation(schedule, anchor, "hw_rows")
    names = block_names(schedule)
    rows = [int(axis.dom.extent) for axis in schedule.get(anchor).iter_vars][:rank]
    while rows and rows[-1] == 1:
        rows.pop()
    last = schedule.get_sblock(names[-1])
    loops = schedule.get_loops(last)
    sizes = [extent(schedule, loop) for loop in loops]
    outputs = schedule.get_output_blocks(schedule.get_sblock("root"))
    if len(outputs) != 1 or reduces(schedule, last) or sizes[: len(rows)] != rows or not loops:
        schedule_any(schedule, isa)
        return
    if not rows:
        row, inner = schedule.add_unit_loop(loops[0]), loops
    else:
        row = schedule.fuse(*loops[: len(rows)]) if len(rows) > 1 else loops[0]
        inner = loops[len(rows) :]
    for name in reversed(names[:-1]):
        schedule.compute_at(schedule.get_sblock(name), row, preserve_unit_loops=True)
    spread(schedule, isa, [row], prod(sizes) * len(names))
    for name in names[:-1]:
        _schedule_step(schedule, isa, schedule.get_sblock(name))
    if inner:
        _vectorise_last(schedule, isa, last, inner[-1])


def _schedule_step(schedule: Any, isa: Isa, block: Any) -> None:
    """Vectorise one step of a row."""
    axes = schedule.get(block).iter_vars
    loops = schedule.get_loops(block)[-len(axes) :]
    reduced = [loop for loop, axis in zip(loops, axes) if int(axis.iter_type) == 2]
    if reduced:
        lane = loops[len(loops) - len(reduced) - 1]
        if extent(schedule, lane) > 1:
            accumulate_lanes(schedule, isa, block, lane, reduced)
        else:
            schedule.decompose_reduction(block, reduced[0])
    elif loops:
        _vectorise_last(schedule, isa, block, loops[-1])


def _vectorise_last(schedule: Any, isa: Isa, block: Any, loop: Any) -> None:
    found = accesses(schedule.get(block))
    vectorise(schedule, loop, isa.lanes, breaks_of(found, len(found.axes) - 1))


def reduction(source: Any, axes: tuple[int, ...], keep: bool, kind: str, lanes: int) -> Any:
    """TE of a reduction; `kind` is of `combiner`, or mean, variance, std (of the whole population)."""
    from tvm import te, tirx

    shape = shape_of(source)
    count = prod(shape[axis] for axis in axes)
    result = tuple(1 if axis in axes else size for axis, size in enumerate(shape) if keep or axis not in axes)

    def placed(index: Sequence[Any], inner: Sequence[Any]) -> list[Any]:
        """Indices of the source from those of the result and of the reduced axes."""
        inside, outside = iter(inner), iter(index)
        places = []
        for axis in range(len(shape)):
            if axis in axes:
                places.append(next(inside))
                if keep:
                    next(outside)
            else:
                places.append(next(outside))
        return places

    def total(value: Callable[[Sequence[Any]], Any], joined: str, name: str) -> Any:
        """One reduction of `value(indices of the source)`."""
        wide = [axis for axis in range(len(shape)) if shape[axis] > 1]
        deep = [axis for axis in axes if shape[axis] > 1]
        if deep and deep == wide[len(wide) - len(deep) :]:  # the innermost axes: rows

            def along(index: Sequence[Any], k: Any) -> Any:
                inner = []
                for axis in reversed(axes):
                    if shape[axis] == 1:
                        inner.append(tirx.const(0, "int64"))
                    else:
                        inner.append(k % shape[axis] if axis != deep[0] else k)
                        k = k // shape[axis]
                return value(placed(index, inner[::-1]))

            return row_total(result, count, along, joined, lanes, name)
        inner = [te.reduce_axis((0, shape[axis]), f"k{axis}") for axis in axes]
        return te.compute(
            result, lambda *index: reducer(joined)(value(placed(index, inner)), axis=inner), name=f"hw_pad_{name}"
        )

    if kind in ("sum", "prod", "max", "min"):
        whole = total(lambda place: source[tuple(place)], kind, kind)
        return te.compute(result, lambda *index: whole[index], name="hw_out")
    share = tirx.const(1.0 / count, "float32")
    first = total(lambda place: source[tuple(place)], "sum", "sum")
    if kind == "mean":
        return te.compute(result, lambda *index: first[index] * share, name="hw_out")

    def deviation(place: Sequence[Any]) -> Any:
        index = tuple(0 if axis in axes else at for axis, at in enumerate(place) if keep or axis not in axes)
        off = source[tuple(place)] - first[index] * share
        return off * off

    second = total(deviation, "sum", "square")
    if kind == "variance":
        return te.compute(result, lambda *index: second[index] * share, name="hw_out")
    return te.compute(result, lambda *index: tirx.sqrt(second[index] * share), name="hw_out")


def legal_reduction(kind: str) -> Callable[[Isa], Any]:
    """The legalisation of one kind of fp32 reduction; None for other types and for empty tensors."""

    def make(isa: Isa) -> Any:
        def legalise(builder: Any, operator: Any) -> Any:
            (source,) = operator.args
            shape = shape_of(source)
            if not is_fp32(source) or 0 in shape or not shape:
                return None
            given = operator.attrs.axis
            axes = range(len(shape)) if given is None else sorted(int(axis) % len(shape) for axis in given)
            if not axes:
                return None
            return call(
                builder, f"hw_{kind}", reduction, source, axes=tuple(axes), keep=bool(operator.attrs.keepdims),
                kind=kind, lanes=isa.lanes,
            )  # fmt: skip

        return legalise

    return make


LEGAL = {f"relax.{kind}": legal_reduction(kind) for kind in ("sum", "prod", "max", "min", "mean", "variance", "std")}
RULES = {"hw_row": schedule_rows}
