"""Products of an activation with constant weights (ONNX MatMul, Gemm), from one row (a matrix-vector product) upwards.

The weights are packed once, in numpy, to `blocks x depth x width`, zero padded, so that a register block reads them in
one sweep. The activation is read through the permutations before it where its strides allow, without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from hwnas.toolchains.schedules.convolution import packed
from hwnas.toolchains.schedules.geometry import is_fp32, shape_of
from hwnas.toolchains.schedules.isa import Isa
from hwnas.toolchains.schedules.microkernel import call
from hwnas.toolchains.schedules.products import Block, product, register_block, schedule_product
from hwnas.toolchains.schedules.views import View, splittable, traced


def dense(source: Any, weights: Any, view: View, depth: tuple[int, ...], columns: int, block: Block, lanes: int) -> Any:
    """TE of `view(source) x weights`; the view has one axis for each extent of the depth, behind its rows."""
    from tvm import te

    lines = view.shape[: len(view.shape) - len(depth)]

    def left(batch: Sequence[Any], row: Any, step: Sequence[Any]) -> Any:
        return source[tuple(view.place([*_unravelled(row, lines), *step]))]

    _, finished = product(
        (), prod(lines), columns, depth, left, lambda batch, o, step, v: weights[o, step, v], block, lanes
    )

    def result(*index: Any) -> Any:
        row: Any = 0
        for size, place in zip(lines, index):
            row = row * size + place
        return finished((), row, index[-1])

    return te.compute((*lines, columns), result, name="hw_out")


def _unravelled(row: Any, lines: tuple[int, ...]) -> list[Any]:
    """The indices of a row among `lines`: plain where at most one of them has more than one element."""
    if sum(size > 1 for size in lines) <= 1:
        return [row if size > 1 else 0 for size in lines]
    places = []
    for size in reversed(lines):
        places.append(row % size)
        row = row // size
    return places[::-1]


def rows_together(lines: tuple[int, ...]) -> int:
    """Of how many neighbouring rows a block may be made so that its epilogue stays affine: the innermost extent."""
    wide = [size for size in lines if size > 1]
    return wide[-1] if wide else 1


def legal_dense(isa: Isa) -> Any:
    """The legalisation of relax.matmul with constant weights `depth x columns`; None for any other."""

    def legalise(builder: Any, operator: Any) -> Any:
        from tvm import relax

        left, right = operator.args
        if not hasattr(right, "value"):
            return None
        weights = right.value.numpy()
        if weights.ndim != 2 or weights.dtype.name != "float32" or not is_fp32(left):
            return None
        if len(shape_of(left)) < 2 or prod(shape_of(left)) == 0 or weights.size == 0:
            return None
        columns = weights.shape[1]
        view = traced(builder, left)
        depth: tuple[int, ...] = view.shape[-1:]
        found = splittable(builder, left, len(view.shape) - 1)
        if found is not None and found[0].moves > view.moves:
            view, inner = found
            depth = (depth[0] // inner, inner)
        lines = view.shape[: len(view.shape) - len(depth)]
        block = register_block(isa, prod(lines), columns, depth[-1], rows_together(lines))
        pack = packed(weights, block.vectors * isa.lanes)
        return call(
            builder, "hw_dense", dense, view.base, relax.const(pack), view=view, depth=depth, columns=columns,
            block=block, lanes=isa.lanes,
        )  # fmt: skip

    return legalise


LEGAL = {"relax.matmul": legal_dense}
RULES = {"hw_product": schedule_product}
