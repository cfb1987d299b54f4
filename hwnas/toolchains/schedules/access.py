"""How a block walks through memory: strides of every access along every axis, and where its conditions change."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Any

HEAVY = ("tirx.exp", "tirx.log", "tirx.tanh", "tirx.sigmoid", "tirx.erf", "tirx.sqrt", "tirx.rsqrt", "tirx.pow")
"""Calls that take several operations of a vector."""
COMPARISONS = ("LT", "LE", "GT", "GE", "EQ", "NE")


@dataclass(frozen=True, slots=True)
class Accesses:
    """The `axes` of a block and, for each access, its stride in elements along each axis.

    A stride is None where the place is no affine function of that axis. `conditions` are comparisons of places.
    """

    axes: tuple[Any, ...]
    strides: tuple[tuple[int | None, ...], ...]
    conditions: tuple[Any, ...]
    conditional: frozenset[int]

    def unit(self, axis: int) -> bool:
        """Whether every access walks along the axis element by element or not at all, and one does."""
        along = {strides[axis] for strides in self.strides}
        return along <= {0, 1} and 1 in along


@dataclass(frozen=True, slots=True)
class Complexity:
    """What inlining a block weighs: nodes of its expression, elements it computes, reads by buffer."""

    nodes: int
    loads: int
    heavy: int
    guarded: bool
    points: int
    written: str
    uses: dict[str, int]


def accesses(block: Any) -> Accesses:
    """The accesses of a block (an SBlock whose body stores one element), as functions of its axes."""
    from tvm import sym

    axes = tuple(axis.var for axis in block.iter_vars)
    analyzer = sym.Analyzer()
    for axis in block.iter_vars:
        analyzer.bind(axis.var, axis.dom)
    found, conditions, conditional = [], [], set()
    for node in _nodes(block.body):
        kind = type(node).__name__
        if kind in ("TensorLoad", "BufferLoad", "BufferStore"):
            found.append(_strides(node, axes, analyzer))
        elif kind in COMPARISONS and not _loads(node):
            conditions.append(node)
            conditional |= {k for k, axis in enumerate(axes) if _mentions(node, axis)}
    return Accesses(axes, tuple(found), tuple(conditions), frozenset(conditional))


def flat_suffix(found: Accesses, sizes: list[int]) -> int:
    """The first of the trailing axes that can be walked as one: for every access, they lie without gaps."""
    last = len(sizes) - 1
    if last in found.conditional:
        return last
    first, stride_of = last, [strides[last] for strides in found.strides]
    span = sizes[last]
    if None in stride_of:
        return last
    for axis in range(last - 1, -1, -1):
        if axis in found.conditional:
            break
        if sizes[axis] > 1:
            along = [strides[axis] for strides in found.strides]
            if span == 1:
                stride_of = along
                if None in along:
                    break
            elif any(a is None or s is None or a != s * span for a, s in zip(along, stride_of)):
                break
            span *= sizes[axis]
        first = axis
    return first


def breaks_of(found: Accesses, axis: int) -> tuple[int, ...]:
    """Where, along an axis, conditions change that depend on this axis alone: ascending, inside the axis."""
    from tvm import sym, tirx

    places = set()
    variable = found.axes[axis]
    for condition in found.conditions:
        if not _mentions(condition, variable):
            continue
        linear = sym.detect_linear_equation(condition.a - condition.b, [variable])
        if len(linear) != 2 or not all(isinstance(part, tirx.IntImm) for part in linear):
            continue
        slope, offset = (int(part) for part in linear)
        if abs(slope) != 1:
            continue
        zero = -offset // slope  # the condition compares (variable - zero) with 0, perhaps reversed
        kind = type(condition).__name__
        if kind in ("EQ", "NE"):
            places |= {zero, zero + 1}
        elif (kind in ("LT", "GE")) == (slope > 0):
            places.add(zero)  # true below zero, or from zero on
        else:
            places.add(zero + 1)
    return tuple(sorted(places))


def complexity(block: Any) -> Complexity:
    """What a block's expression holds."""
    nodes = loads = heavy = 0
    guarded = False
    uses: Counter[str] = Counter()
    written = ""
    for node in _nodes(block.body):
        kind = type(node).__name__
        nodes += kind not in ("PrimType", "BufferType", "Array", "IntImm", "Var")
        if kind in ("TensorLoad", "BufferLoad"):
            loads += 1
            uses[_buffer(node).name] += 1
        elif kind == "BufferStore":
            written = _buffer(node).name
        elif kind == "Call":
            name = getattr(node.op, "name", "")
            heavy += name in HEAVY
            guarded |= name.endswith("if_then_else")
        elif kind == "Div":
            heavy += 1
    points = prod(int(axis.dom.extent) for axis in block.iter_vars)
    return Complexity(nodes, loads, heavy, guarded, points, written, dict(uses))


def _strides(access: Any, axes: tuple[Any, ...], analyzer: Any) -> tuple[int | None, ...]:
    from tvm import sym, tirx

    place: Any = 0
    for size, index in zip(_buffer(access).shape, access.indices):
        place = place * size + index
    if isinstance(place, int):
        return (0,) * len(axes)
    place = analyzer.canonical_simplify(place)
    strides: list[int | None] = []
    for axis in axes:
        linear = sym.detect_linear_equation(place, [axis])
        strides.append(int(linear[0]) if len(linear) == 2 and isinstance(linear[0], tirx.IntImm) else None)
    return tuple(strides)


def _buffer(access: Any) -> Any:
    return access.buffer if hasattr(access, "buffer") else access.source


def _nodes(root: Any) -> list[Any]:
    """Every node of an expression or statement; the callback makes no decision."""
    import tvm_ffi

    found: list[Any] = []

    def keep(node: Any) -> Any:
        found.append(node)
        return tvm_ffi.WalkResult.ADVANCE

    tvm_ffi.structural_walk(root, (object, keep))
    return found


def _loads(root: Any) -> bool:
    return any(type(node).__name__ in ("TensorLoad", "BufferLoad") for node in _nodes(root))


def _mentions(root: Any, variable: Any) -> bool:
    return any(node.same_as(variable) for node in _nodes(root) if type(node).__name__ == "Var")
