"""Predicates of vectorised blocks that are the same for every lane, so that they become one branch and not a mask.

A channel tail is a predicate such as `block * 16 + lane < 24`. Once the lanes are cut where the tail ends (lane 8),
all lanes of each part agree, but TVM's vectoriser cannot see that and would make scalar code of the part.
"""

from __future__ import annotations

from typing import Any

from hwnas.toolchains.schedules.microkernel import DROPPED


def drop_loops(function: Any) -> Any:
    """The PrimFunc without the loops that a rule marked as another block's work."""
    import tvm_ffi
    from tvm import tirx

    def of_loop(loop: Any) -> Any:
        return tirx.Evaluate(tirx.const(0, "int32")) if DROPPED in loop.annotations else loop

    return tvm_ffi.structural_map(function, (tirx.For, of_loop))


def uniform_predicates(function: Any, lanes: int) -> Any:
    """The PrimFunc with the lane left out of each predicate that holds for all lanes of its vector or for none."""
    import tvm_ffi
    from tvm import tirx
    from tvm.s_tir import SBlockRealize

    def of_loop(loop: Any) -> Any:
        if int(loop.kind) != tirx.ForKind.VECTORIZED:
            return loop
        return tvm_ffi.structural_map(loop, (SBlockRealize, lambda block: _of_block(block, loop, lanes)))

    return tvm_ffi.structural_map(function, (tirx.For, of_loop))


def _of_block(block: Any, loop: Any, lanes: int) -> Any:
    from tvm import sym
    from tvm.s_tir import SBlockRealize

    predicate = _uniform(block.predicate, loop, lanes, sym.Analyzer())
    if predicate is None:
        return block
    return SBlockRealize(block.iter_values, predicate, block.block, block.span)


def _uniform(condition: Any, loop: Any, lanes: int, analyzer: Any) -> Any:
    """The condition of the first lane, None where lanes differ or where none appears."""
    from tvm import sym, tirx

    if isinstance(condition, tirx.And):
        left, right = (_uniform(part, loop, lanes, analyzer) for part in (condition.a, condition.b))
        if left is None and right is None:
            return None
        return tirx.And(condition.a if left is None else left, condition.b if right is None else right)
    if not isinstance(condition, tirx.LT) or not isinstance(condition.b, tirx.IntImm):
        return None
    line = sym.detect_linear_equation(condition.a, [loop.loop_var])
    if not line or not isinstance(line[0], tirx.IntImm) or int(line[0]) != 1:
        return None
    first = analyzer.simplify(line[1] + loop.min)
    places = analyzer.modular_set(first)
    if int(places.coeff) % lanes:
        return None
    begin, end = int(places.base) % lanes, int(places.base) % lanes + int(loop.extent)
    rest = int(condition.b) % lanes
    if end > lanes or not (end <= rest or begin >= rest):
        return None
    return tirx.LT(first, condition.b)
