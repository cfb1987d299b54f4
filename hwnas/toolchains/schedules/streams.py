"""Prefetches of the weights of the next block of channels, spread evenly over the tiles of this one.

A wide convolution reads each block of weights from far memory during its first tile, faster than memory can deliver,
and again from the cache during the others. With the next block fetched a little at a time, memory works all along.
"""

from __future__ import annotations

from math import prod
from typing import Any

from hwnas.toolchains.schedules.microkernel import REDUCTION

KEY = "hw_stream"
LINE = 16
"""Fp32 values of a cache line of 64 bytes."""


def mark_stream(schedule: Any, loop: Any, chunk: int, tile: list[int]) -> None:
    """Ask for prefetches in a loop over `chunk` steps of the reduction each.

    The anchor's axes are the block of outputs, the places (made in tiles of the given sizes), the channel in the
    block, then those of the reduction, the block of inputs first. Its second factor is a weight whose axes are the two
    blocks, the window, the input channel and the output channel.
    """
    schedule.annotate(loop, KEY, [chunk, *tile])


def prefetch_streams(function: Any) -> Any:
    """The scheduled PrimFunc with its prefetches in place of the marks."""
    import tvm_ffi
    from tvm import tirx

    def of_loop(loop: Any) -> Any:
        if KEY not in loop.annotations:
            return loop
        chunk, *tile = (int(value) for value in loop.annotations[KEY])
        body = tirx.SeqStmt([_prefetch(loop, chunk, tile), loop.body])
        return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body)

    return tvm_ffi.structural_map(function, (tirx.For, of_loop))


def _prefetch(loop: Any, chunk: int, tile: list[int]) -> Any:
    """Each tile fetches the lines of the next block in every so manieth pass of the loop, by turns."""
    from tvm import tirx

    realize, inner = loop.body, []
    while isinstance(realize, tirx.For):
        inner.append(realize.loop_var)
        realize = realize.body
    block = realize.block
    axes = [(axis, _outer(value, inner)) for axis, value in zip(block.iter_vars, realize.iter_values)]
    places = [(axis, value) for axis, value in axes if int(axis.iter_type) != REDUCTION][1:-1]
    steps = [(axis, value) for axis, value in axes if int(axis.iter_type) == REDUCTION][1:]
    tiles = [int(axis.dom.extent) // size for (axis, _), size in zip(places, tile)]
    turn = _mixed([value // size for (_, value), size in zip(places, tile)], tiles)
    passes = [int(axis.dom.extent) for axis, _ in steps[:-1]] + [int(loop.extent)]
    step = _mixed([value for _, value in steps[:-1]] + [loop.loop_var], passes)
    load = block.body.value.b.b
    weights, width = load.source, int(load.source.shape[-1])
    values = [_value(index, axes) for index in load.indices]
    line = tirx.Var("line", "int64")
    following = values[0] * int(weights.shape[1]) + values[1] + 1
    first = (following // int(weights.shape[1]), following % int(weights.shape[1]))
    address = tirx.address_of(weights[(*first, *values[2:-2], values[-2] + line * LINE // width, line * LINE % width)])
    fetch = tirx.Evaluate(tirx.call_intrin("void", "tirx.prefetch", address, 0, 2, 1))
    lines = tirx.For(
        line, tirx.const(0, "int64"), tirx.const(chunk * width // LINE, "int64"), tirx.ForKind.SERIAL, fetch
    )
    return tirx.IfThenElse(step % prod(tiles) == turn, lines, None)


def _mixed(digits: list[Any], radices: list[int]) -> Any:
    """The number with these digits, the last one counting fastest."""
    number: Any = 0
    for digit, radix in zip(digits, radices):
        number = number * radix + digit
    return number


def _value(index: Any, axes: list[tuple[Any, Any]]) -> Any:
    """What an index of the block's body, an axis or a number, is outside of the block."""
    return next((value for axis, value in axes if index.same_as(axis.var)), index)


def _outer(value: Any, inner: list[Any]) -> Any:
    """An index at the start of the loops over `inner`, which begin at 0."""
    from tvm import sym, tirx

    line = sym.detect_linear_equation(value, inner)
    return line[-1] if line else tirx.const(0, "int64")
