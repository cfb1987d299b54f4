"""Products of two activations (attention), with broadcast batches and operands read through their transposes.

The right operand is read in place where its columns are contiguous and fill vectors; else a copy of it is made row by
row, transposed and padded as needed: the only copy that is left of a chain of slices and transposes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hwnas.toolchains.schedules.geometry import is_fp32, shape_of
from hwnas.toolchains.schedules.isa import Isa
from hwnas.toolchains.schedules.microkernel import call
from hwnas.toolchains.schedules.products import Block, product, register_block, schedule_product
from hwnas.toolchains.schedules.tiles import blocks
from hwnas.toolchains.schedules.views import View, made_by_transposition, traced


def batched(left: Any, right: Any, views: tuple[View, View], block: Block, lanes: int, copied: bool) -> Any:
    """TE of `views[0](left) x views[1](right)`, batches broadcast as numpy does."""
    from tvm import te, tirx

    batch = broadcast(views[0].shape[:-2], views[1].shape[:-2])
    (rows, depth), columns = views[0].shape[-2:], views[1].shape[-1]
    width = block.vectors * lanes
    padded = blocks(columns, width) * width

    def place(view: View, index: Sequence[Any], *inner: Any) -> tuple[Any, ...]:
        outer = view.shape[:-2]
        own = index[len(index) - len(outer) :]
        return tuple(view.place([*(i if size > 1 else 0 for i, size in zip(own, outer)), *inner]))

    def element(*index: Any) -> Any:
        *outer, k, n = index
        value = right[tuple(views[1].place([*outer, k, n]))]
        if padded == columns:
            return value
        return tirx.if_then_else(n < columns, value, tirx.const(0.0, right.dtype))

    if copied:
        copy = te.compute((*views[1].shape[:-2], depth, padded), element, name="hw_pad_right")
        own = View(None, (*views[1].shape[:-1], padded), list)
    else:
        copy, own = right, views[1]
    _, finished = product(
        batch,
        rows,
        columns,
        (depth,),
        lambda index, row, step: left[place(views[0], index, row, step[0])],
        lambda index, o, step, v: copy[place(own, index, step, o * width + v)],
        block,
        lanes,
    )
    return te.compute((*batch, rows, columns), lambda *index: finished(index[:-2], index[-2], index[-1]), name="hw_out")


def broadcast(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    """The batch that two shapes broadcast to."""
    rank = max(len(one), len(other))
    one, other = ((1,) * (rank - len(shape)) + shape for shape in (one, other))
    return tuple(max(a, b) for a, b in zip(one, other))


def _copied_view(builder: Any, operand: Any, own: View) -> View:
    """What to copy from where no view of the right operand has contiguous columns: itself if a transposition in
    registers makes it, else as far back as its strides are constant."""
    far = traced(builder, operand)
    return own if made_by_transposition(builder, operand) else far


def legal_batched(isa: Isa) -> Any:
    """The legalisation of relax.matmul of two fp32 tensors of rank 2 and more; None for any other."""

    def legalise(builder: Any, operator: Any) -> Any:
        operands = operator.args
        if any(not is_fp32(value) or len(shape_of(value)) < 2 for value in operands):
            return None
        if any(0 in shape_of(value) for value in operands):
            return None
        left, right = traced(builder, operands[0]), traced(builder, operands[1], along=-1)
        if right.moves == 0:
            right = _copied_view(builder, operands[1], right)
        (rows, depth), columns = left.shape[-2:], right.shape[-1]
        block = register_block(isa, rows, columns, depth, rows)
        stride = right.strides()[-1]
        copied = columns % (block.vectors * isa.lanes) != 0 or (stride != 1 and columns > 1)
        return call(
            builder, "hw_batched", batched, left.base, right.base, views=(left, right), block=block, lanes=isa.lanes,
            copied=copied,
        )  # fmt: skip

    return legalise


LEGAL = {"relax.matmul": legal_batched}
RULES = {"hw_product": schedule_product}
