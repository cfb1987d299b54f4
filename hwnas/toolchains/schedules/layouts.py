"""Channels last for every image of a network, and transposes only where nothing else is possible.

A forward pass over the network. A tensor may be *held*: stored with its axes in another order than the network's.
Operators that have a rule work on the stored tensor (`layout_rules`); a transpose only renames the axes of a held
tensor; only an operator without a rule, or a result of the network, makes a held tensor permute for real.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from hwnas.toolchains.schedules.geometry import shape_of

Order = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor whose stored axis `a` is the network's axis `order[a]`."""

    stored: Any
    order: Order

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in the network's axes."""
        stored = shape_of(self.stored)
        return tuple(stored[axis] for axis in inverse(self.order))


Value = Any  # a Relax expression in the network's own axes, a Held, or a list of values


def inverse(order: Sequence[int]) -> Order:
    """The permutation that undoes `order`."""
    return tuple(order.index(axis) for axis in range(len(order)))


def channels_last(rank: int, spatial: int = 2) -> Order:
    """Batch, the spatial axes, then the channels (one axis or several) of a tensor whose last axes are spatial."""
    return (0, *range(rank - spatial, rank), *range(1, rank - spatial))


def is_constant(value: Any) -> bool:
    return hasattr(value, "value") and hasattr(value.value, "numpy")


NUMPY: dict[str, Callable[..., Any]] = {
    "relax.add": np.add,
    "relax.subtract": np.subtract,
    "relax.multiply": np.multiply,
    "relax.divide": np.divide,
    "relax.maximum": np.maximum,
    "relax.minimum": np.minimum,
    "relax.power": np.power,
    "relax.sqrt": np.sqrt,
    "relax.rsqrt": lambda value: 1 / np.sqrt(value),
    "relax.negative": np.negative,
    "relax.exp": np.exp,
    "relax.abs": np.abs,
    "relax.less": np.less,
    "relax.greater": np.greater,
    "relax.equal": np.equal,
    "relax.where": np.where,
}
"""Operators that are evaluated at once where every operand is a constant."""


class Rewriter:
    """Rewrites one Relax function; `rules` maps operator names to rules that return a value or None."""

    def __init__(self, builder: Any, rules: Mapping[str, Callable[[Rewriter, Any], Value | None]]) -> None:
        self.builder = builder
        self.values: dict[Any, Value] = {}
        self.constant_calls = 0
        self._rules = rules
        self._plain: dict[tuple[Any, Order], Any] = {}

    def emit(self, expression: Any) -> Any:
        return self.builder.emit(expression)

    def value(self, expression: Any) -> Value:
        """What an expression of the old function is in the new one."""
        from tvm import relax

        if isinstance(expression, relax.Var):
            return self.values[expression]
        if isinstance(expression, relax.Tuple):
            return [self.value(field) for field in expression.fields]
        if isinstance(expression, relax.TupleGetItem):
            tuple_value = self.value(expression.tuple_value)
            if isinstance(tuple_value, list):
                return tuple_value[int(expression.index)]
            return self.emit(relax.TupleGetItem(tuple_value, int(expression.index)))
        return expression

    def permuted(self, value: Any, order: Order) -> Any:
        """`value` with its axes in another order: of a constant at once, by reshape where only unit axes move."""
        from tvm import relax

        if order == tuple(range(len(order))):
            return value
        if is_constant(value):
            return relax.const(np.ascontiguousarray(value.value.numpy().transpose(order)))
        key = (value, order)
        if key not in self._plain:
            shape = shape_of(value)
            if [axis for axis in order if shape[axis] > 1] == [axis for axis in range(len(order)) if shape[axis] > 1]:
                self._plain[key] = self.emit(relax.op.reshape(value, [shape[axis] for axis in order]))
            else:
                self._plain[key] = self.emit(relax.op.permute_dims(value, list(order)))
        return self._plain[key]

    def plain(self, value: Value) -> Any:
        """A value in the network's own axes."""
        from tvm import relax

        if isinstance(value, list):
            return relax.Tuple([self.plain(field) for field in value])
        if isinstance(value, Held):
            return self.permuted(value.stored, inverse(value.order))
        return value

    def stored(self, value: Value, order: Order) -> Any:
        """A value as its stored tensor in that order of axes."""
        if isinstance(value, Held):
            return self.permuted(value.stored, tuple(inverse(value.order)[axis] for axis in order))
        return self.permuted(value, order)

    def held(self, stored: Any, order: Order) -> Value:
        """A stored expression as a value: plain where its axes are in the network's own order."""
        variable = self.emit(stored) if not is_constant(stored) else stored
        return variable if order == tuple(range(len(order))) else Held(variable, order)

    def bind(self, variable: Any, expression: Any) -> None:
        """Rewrite one binding of the old function."""
        from tvm import relax

        if isinstance(expression, relax.Call):
            name = getattr(expression.op, "name", "")
            if (constant := self._evaluated(name, expression)) is not None:
                self.values[variable] = constant
                return
            value = self._rules[name](self, expression) if name in self._rules else None
            if value is None:
                arguments = [self._argument(argument) for argument in expression.args]
                self.constant_calls += all(is_constant(argument) for argument in arguments)
                call = relax.Call(expression.op, arguments, expression.attrs, expression.ty_args)
                value = self.emit(call)
            self.values[variable] = value
        else:
            self.values[variable] = self.value(expression)

    def _evaluated(self, name: str, call: Any) -> Any:
        """An operator of constants as a constant. TVM would compile a kernel for each, which takes seconds a network."""
        from tvm import relax

        if name not in NUMPY:
            return None
        values = [self.value(argument) for argument in call.args]
        if not all(is_constant(value) for value in values):
            return None
        dtype = str(call.ty.dtype)
        return relax.const(np.asarray(NUMPY[name](*(value.value.numpy() for value in values))).astype(dtype), dtype)

    def _argument(self, argument: Any) -> Any:
        from tvm import relax

        known = isinstance(argument, relax.Var | relax.Tuple | relax.TupleGetItem)
        return self.plain(self.value(argument)) if known else argument


def reshaped(value: Held, shape: tuple[int, ...]) -> tuple[tuple[int, ...], Order] | None:
    """The stored shape and order of a held tensor under a reshape; None where the stored elements would have to move.

    The axes on both sides are grouped so that each group holds the same number of elements; a group stays in place
    if its axes lie side by side in storage, in the network's order.
    """
    groups = _groups(value.shape, shape)
    position = inverse(value.order)
    old = value.shape
    order: list[int] = []
    placed: list[tuple[float, tuple[int, ...]]] = []
    ranks = {axis: rank for rank, axis in enumerate(axis for axis in value.order if old[axis] > 1)}
    for before, after in groups:
        places = [ranks[axis] for axis in before if old[axis] > 1]
        if places != list(range(places[0], places[0] + len(places))) if places else False:
            return None
        anchor = min(
            (position[axis] for axis in before if old[axis] > 1), default=min((position[a] for a in before), default=-1)
        )
        placed.append((anchor, after))
    for _, after in sorted(placed, key=lambda group: group[0]):
        order += after
    return tuple(shape[axis] for axis in order), tuple(order)


def _groups(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Minimal runs of axes on both sides that hold the same number of elements each."""
    groups: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = [i] if i < len(before) else [], [j] if j < len(after) else []
        i, j = i + len(left), j + len(right)
        while (a := prod(before[axis] for axis in left)) != (b := prod(after[axis] for axis in right)):
            if a < b:
                left.append(i)
                i += 1
            else:
                right.append(j)
                j += 1
        if not left or not right:  # unit axes that are left over
            last = groups.pop() if groups else ((), ())
            left, right = [*last[0], *left], [*last[1], *right]
        groups.append((tuple(left), tuple(right)))
    return groups


@dataclass(frozen=True, slots=True)
class Laid:
    """A module whose images lie channels last, and how its parameters and results lie.

    `constant_calls` operators have constant operands only and are left to fold.
    `input_axes` and `output_axes` hold the stored order of the network's axes, None where it is the network's own.
    """

    module: Any
    constant_calls: int
    input_axes: tuple[Order | None, ...]
    output_axes: tuple[Order | None, ...]


def channels_last_network(module: Any, images_last: bool = False) -> Laid:
    """The module with images channels last inside, and with `images_last` also where they enter and leave `main`.

    Images are the tensors of rank 4, or of rank 3 in a network that convolves or pools over one axis and has no
    parameter of rank 4.
    """
    import tvm
    from tvm import relax

    from hwnas.toolchains.schedules.layout_rules import RULES

    main = module["main"]
    order = _image_order(main) if images_last else ()
    builder = relax.BlockBuilder(tvm.IRModule({v: f for v, f in module.functions.items() if v.name_hint != "main"}))
    rewriter = Rewriter(builder, RULES)
    parameters, axes = [], []
    for old in main.params:
        shape = shape_of(old)
        last = bool(order) and len(shape) == len(order)
        new = relax.Var(old.name, relax.TensorType([shape[axis] for axis in order], old.ty.dtype) if last else old.ty)
        rewriter.values[old] = Held(new, order) if last else new
        parameters.append(new)
        axes.append(order if last else None)
    with builder.function("main", parameters, attrs=dict(main.attrs.items()) if main.attrs else None):
        with builder.dataflow():
            for block in main.body.blocks:
                for binding in block.bindings:
                    rewriter.bind(binding.var, binding.value)
            value = rewriter.value(main.body.body)
            results = [_result(rewriter, field, order) for field in (value if isinstance(value, list) else [value])]
            expressions = [expression for expression, _ in results]
            output = builder.emit_output(relax.Tuple(expressions) if isinstance(value, list) else expressions[0])
        builder.emit_func_output(output)
    return Laid(builder.get(), rewriter.constant_calls, tuple(axes), tuple(lies for _, lies in results))


def _result(rewriter: Rewriter, value: Value, order: Order) -> tuple[Any, Order | None]:
    """A result of the network, and the order in which it leaves."""
    rank = len(value.order) if isinstance(value, Held) else len(shape_of(value))
    if order and rank == len(order):
        return rewriter.stored(value, order), order
    return rewriter.plain(value), None


def _image_order(main: Any) -> Order:
    from tvm import relax

    ranks = {len(shape_of(parameter)) for parameter in main.params}
    names = {
        getattr(binding.value.op, "name", "")
        for block in main.body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call)
    }
    if 4 not in ranks and any(name.endswith(("conv1d", "pool1d")) for name in names):
        return channels_last(3, 1)
    return channels_last(4)
