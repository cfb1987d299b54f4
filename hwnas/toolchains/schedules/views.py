"""What a Relax variable is a view of: through permutations, slices and reshapes back to the tensor that holds its data.

A product that reads its operand through the view needs no transposed copy of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hwnas.toolchains.schedules.geometry import shape_of
from hwnas.toolchains.schedules.transposes import NAME

DEPTH = 8
"""Moves that are followed at most."""


@dataclass(frozen=True, slots=True)
class View:
    """`base` read at `place(indices)` is the viewed tensor, of `shape`, at those indices; `moves` lie between them."""

    base: Any
    shape: tuple[int, ...]
    place: Callable[[Sequence[Any]], list[Any]]
    moves: int = 0

    def strides(self) -> tuple[int | None, ...]:
        """Distance, in elements of the base, between neighbours along each axis; None where it is not constant."""
        from tvm import ir, sym, tirx

        analyzer = sym.Analyzer()
        axes = [tirx.Var(f"i{k}", "int64") for k in range(len(self.shape))]
        for axis, size in zip(axes, self.shape):
            analyzer.bind(axis, ir.Range(tirx.const(0, "int64"), tirx.const(size, "int64")))
        offset: Any = tirx.const(0, "int64")
        for size, index in zip(shape_of(self.base), self.place(axes)):
            offset = offset * size + analyzer.simplify(index, 3)
        offset = analyzer.simplify(offset, 3)
        found: list[int | None] = []
        for axis, size in zip(axes, self.shape):
            linear = sym.detect_linear_equation(offset, [axis])
            constant = len(linear) == 2 and isinstance(linear[0], tirx.IntImm)
            found.append(int(linear[0]) if constant else 0 if size == 1 else None)
        return tuple(found)

    def split(self, axis: int, inner: int) -> View:
        """The same data with an axis as two, the inner one of that extent."""

        def place(indices: Sequence[Any]) -> list[Any]:
            return self.place([*indices[:axis], indices[axis] * inner + indices[axis + 1], *indices[axis + 2 :]])

        shape = (*self.shape[:axis], self.shape[axis] // inner, inner, *self.shape[axis + 1 :])
        return View(self.base, shape, place, self.moves)


def plain(tensor: Any) -> View:
    """A tensor as the view of itself."""
    return View(tensor, shape_of(tensor), list)


def traced(builder: Any, tensor: Any, along: int | None = None) -> View:
    """The view that a variable is, through kernels that only move single elements, as far back as its strides stay
    constant (and, where an axis is named, 1 along it); the tensor itself where it is none."""
    from tvm import relax

    best = current = plain(tensor)
    for _ in range(DEPTH):
        if not isinstance(current.base, relax.Var):
            break
        step = _move(builder, builder.lookup_binding(current.base))
        if step is None:
            break
        current = _through(current, *step)
        strides = current.strides()
        if None not in strides and (along is None or strides[along] == 1):
            best = current
    return best


def splittable(builder: Any, tensor: Any, axis: int) -> tuple[View, int] | None:
    """A view of a variable with constant strides once `axis` is split, with the inner extent; None where none is."""
    from tvm import relax

    current, best = plain(tensor), None
    for _ in range(DEPTH):
        step = _move(builder, builder.lookup_binding(current.base)) if isinstance(current.base, relax.Var) else None
        if step is None:
            break
        current = _through(current, *step)
        for inner in sorted({size for size in shape_of(current.base) if 1 < size < current.shape[axis]}):
            if current.shape[axis] % inner == 0 and None not in (split := current.split(axis, inner)).strides():
                best = (split, inner)
    return best


def made_by_transposition(builder: Any, tensor: Any) -> bool:
    """Whether a variable is, up to reshapes, the result of a transposition in registers."""
    from tvm import relax

    for _ in range(DEPTH):
        value = builder.lookup_binding(tensor) if isinstance(tensor, relax.Var) else None
        if not isinstance(value, relax.Call) or getattr(value.op, "name", "") != "relax.call_tir":
            return False
        function = builder.get()[value.args[0]]
        if function.attrs is not None and NAME in function.attrs:
            return True
        if not relax.analysis.has_reshape_pattern(function):
            return False
        tensor = value.args[1].fields[0]
    return False


def _through(view: View, base: Any, step: Callable[[Sequence[Any]], list[Any]]) -> View:
    earlier = view.place
    return View(base, view.shape, lambda indices: step(earlier(indices)), view.moves + 1)


def _move(builder: Any, value: Any) -> tuple[Any, Callable[[Sequence[Any]], list[Any]]] | None:
    """The operand of a call that only moves elements, and where each of its results comes from; None for others."""
    from tvm import relax, tirx

    if not isinstance(value, relax.Call) or getattr(value.op, "name", "") != "relax.call_tir":
        return None
    function, operands = builder.get()[value.args[0]], value.args[1]
    if len(operands.fields) != 1 or len(function.params) != 2:
        return None
    if function.attrs is not None and NAME in function.attrs:
        return operands.fields[0], lambda indices: [indices[0], indices[2], indices[1]]
    statement = function.body
    while type(statement).__name__ != "BufferStore":
        if type(statement).__name__ == "SBlockRealize":
            statement = statement.block.body
        elif type(statement).__name__ == "For":
            statement = statement.body
        else:
            return None  # several statements: more than a move
    load = statement.value
    if type(load).__name__ != "TensorLoad" or not load.source.same_as(function.params[0]):
        return None
    names = list(statement.indices)
    if not all(isinstance(name, tirx.Var) for name in names):
        return None

    def place(indices: Sequence[Any]) -> list[Any]:
        return [_substituted(index, dict(zip(names, indices))) for index in load.indices]

    return operands.fields[0], place


def _substituted(expression: Any, values: dict[Any, Any]) -> Any:
    import tvm_ffi
    from tvm import tirx

    pairs = [(name, tirx.const(value, "int64") if isinstance(value, int) else value) for name, value in values.items()]

    def replace(variable: Any) -> Any:
        return next((value for name, value in pairs if variable.same_as(name)), variable)

    return tvm_ffi.structural_map(expression, (tirx.Var, replace))
