"""Transposition of matrices in registers: square tiles whose rows are loaded, exchanged by halves, and stored.

One exchange for each bit of the lane number (a butterfly, as in Eklundh's method, IEEE Trans. Computers C-21, 1972)
turns n rows of n lanes into n columns with n log2(n) shuffles of two vectors. The last tiles overlap the ones before.
"""

from __future__ import annotations

from math import prod
from typing import Any

from hwnas.toolchains.schedules.geometry import is_fp32, shape_of
from hwnas.toolchains.schedules.isa import Isa
from hwnas.toolchains.schedules.microkernel import PARALLEL_WORK

LEAST = 1024
"""Elements below which a permutation rather stays fusable with what is around it."""
LARGE = 8192
"""Elements from which tiles of more than 8 rows repay the time that LLVM takes for their shuffles."""
SMALLEST = 4
"""Rows and columns of the smallest tile."""
OPAQUE = 8
"""TVM's OpPatternKind.kOpaque: nothing is fused with the kernel."""
NAME = "hw_transpose"


def as_matrices(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, int, int] | None:
    """`batch x rows x columns` where a permutation only exchanges the last two after merging neighbours; else None."""
    order = [axis for axis in axes if shape[axis] > 1]
    groups: list[list[int]] = []
    kept = [axis for axis in range(len(shape)) if shape[axis] > 1]
    for axis in order:
        if groups and kept.index(axis) == kept.index(groups[-1][-1]) + 1:
            groups[-1].append(axis)
        else:
            groups.append([axis])
    places = [kept.index(group[0]) for group in groups]
    ranks = [sorted(places).index(place) for place in places]
    sizes = [prod(shape[axis] for axis in group) for group in groups]
    if ranks == [1, 0]:
        return 1, sizes[1], sizes[0]
    if ranks == [0, 2, 1]:
        return sizes[0], sizes[2], sizes[1]
    return None


def transposition(batch: int, rows: int, columns: int, side: int, parallel: bool) -> Any:
    """The PrimFunc from `batch x rows x columns` to `batch x columns x rows` in tiles of `side` (a power of two)."""
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.tirx.script import builder as T

    across, down = -(-columns // side), -(-rows // side)
    with IRBuilder() as made, T.prim_func(is_private=True, s_tir=True):
        T.func_name(NAME)
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE, NAME: 1})
        source = T.arg("source", T.Buffer((batch, rows, columns), "float32"))
        result = T.arg("result", T.Buffer((batch, columns, rows), "float32"))
        outer = T.parallel if parallel else T.serial
        with T.serial(0, batch) as n, outer(0, across) as i, T.serial(0, down) as j, T.sblock(NAME):
            image, column, row = T.axis.spatial(batch, n), T.axis.spatial(across, i), T.axis.spatial(down, j)
            T.reads(source[image, 0:rows, 0:columns])
            T.writes(result[image, 0:columns, 0:rows])
            left = tirx.min(column * side, columns - side) if columns % side else column * side
            top = tirx.min(row * side, rows - side) if rows % side else row * side
            tile = [T.Bind(source[image, top + k, tirx.Ramp(left, 1, side)]) for k in range(side)]
            for k, vector in enumerate(_exchanged(tile, side, T.Bind)):
                T.buffer_store(result, vector, [image, left + k, tirx.Ramp(top, 1, side)])
    return made.get()


def _exchanged(tile: list[Any], side: int, bind: Any) -> list[Any]:
    """The columns of a tile of vectors: for each bit, pairs of rows exchange the lanes in which row and lane differ."""
    from tvm import tirx

    bit = 1
    while bit < side:
        low = [lane if not lane & bit else (lane ^ bit) + side for lane in range(side)]
        high = [lane | bit if not lane & bit else lane + side for lane in range(side)]
        before = list(tile)
        for k in range(side):
            pair = [before[k & ~bit], before[k | bit]]
            chosen = [tirx.const(lane, "int32") for lane in (high if k & bit else low)]
            tile[k] = bind(tirx.Shuffle(pair, chosen))
        bit *= 2
    return tile


def legal_permutation(isa: Isa) -> Any:
    """The legalisation of an fp32 relax.permute_dims that transposes matrices; None for others and for small ones."""

    def legalise(builder: Any, operator: Any) -> Any:
        from tvm import relax, topi

        (source,) = operator.args
        shape, axes = shape_of(source), operator.attrs.axes
        order = tuple(int(axis) for axis in axes) if axes is not None else tuple(reversed(range(len(shape))))
        if not is_fp32(source) or prod(shape) < LEAST:
            return None
        matrices = as_matrices(shape, order)
        if matrices is None or min(matrices[1:]) < SMALLEST:
            return None
        batch, rows, columns = matrices
        side, most = SMALLEST, isa.lanes if prod(shape) >= LARGE else min(8, isa.lanes)
        while 2 * side <= min(rows, columns, most):
            side *= 2
        parallel = isa.threads > 1 and prod(shape) >= PARALLEL_WORK
        if shape != matrices:
            source = builder.emit(builder.call_te(topi.reshape, source, matrices, primfunc_name_hint="reshape"))
        name = builder.add_func(transposition(batch, rows, columns, side, parallel), "transpose")
        called = relax.call_tir(name, [source], relax.TensorType((batch, columns, rows), "float32"))
        result = tuple(shape[axis] for axis in order)
        if result == (batch, columns, rows):
            return called
        return builder.call_te(topi.reshape, builder.emit(called), result, primfunc_name_hint="reshape")

    return legalise


def schedule_transposition(schedule: Any, isa: Isa, anchor: Any) -> None:
    """A transposition is made scheduled."""
