"""What each quantised kernel needs in flash, and which form of code it takes; numpy only, in milliseconds.

A recipe's arrays are emitted as they stand: weights, bias with the input's zero point folded in, a table of shifts
or factors, and the scalars of calibration. `hwnas.toolchains.cgen.integer` writes the code of each form; where a
micro-kernel computes the group instead (`hwnas.toolchains.cgen.kernels`), it packs the recipe's values for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from hwnas.errors import UnsupportedOperator
from hwnas.graph.quantised import (
    EXACT_MEAN,
    Activation,
    Constant,
    Grid,
    Group,
    Rescale,
    common_exponents,
    rescale,
)
from hwnas.graph.view import View


@dataclass(frozen=True, slots=True)
class Array:
    """A constant in flash; equal keys are one constant (None: its kernel's own)."""

    values: np.ndarray
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a group is computed: the form of its code, the constants in the order the code takes them, static facts.

    `form` and `facts` follow from the workload and the kind of rescaling, never from calibration. `values` are the
    numbers behind the arrays, by name, for micro-kernels that store them in an order of their own.
    """

    form: str
    arrays: tuple[Array, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict, compare=False)


def recipe(graph: View, group: Group) -> Recipe | None:
    """The recipe of a group, None where there is none: such a group is computed in float.

    Raises UnsupportedOperator for a shape that its operator does not allow here.
    """
    maker = _RECIPES.get(group.op)
    return maker(graph, group) if maker else None


def reordered(given: Recipe, order: np.ndarray) -> Recipe:
    """The recipe of a matrix product whose rows of the operand are stored in another order: element k is `order[k]`."""
    weights, *rest = given.arrays
    stored = Array(np.ascontiguousarray(weights.values[:, order]), weights.key and f"{weights.key}/NHWC")
    return replace(given, arrays=(stored, *rest), values={**given.values, "weights": given.values["weights"][:, order]})


def _scalars(*values: float | int) -> Array:
    return Array(np.array(values, np.int32))


def _zero(activation: Activation | Constant) -> int:
    assert activation.grid is not None
    return int(activation.grid.zero[0])


def _ends(group: Group) -> dict[str, int]:
    """Zero point and bounds of the result by name; nothing for floats."""
    return dict(zip(("out_zero", "low", "high"), _finish(group)))


def _finish(group: Group) -> list[int]:
    """Zero point and bounds of the result, which end every list of scalars; none for floats."""
    if group.result.grid is None:
        return []
    return [_zero(group.result), *group.bounds]


def _product(graph: View, group: Group) -> Recipe | None:
    """Conv, Gemm and MatMul with constant weights: sums of products, bias, one rescaling for each output channel."""
    first = group.operands[0]
    if not isinstance(first, Activation) or len(group.operands) < 2 or not isinstance(group.operands[1], Constant):
        return None
    weight = group.operands[1]
    bias = group.operands[2] if len(group.operands) > 2 else None
    if bias is not None and not isinstance(bias, Constant):
        return None
    values = np.zeros(weight.shape, np.int64) if weight.values is None else weight.values.astype(np.int64)
    axis = 0
    if group.op == "Conv":
        if len(first.shape) not in (3, 4):
            return None
    else:
        if len(weight.shape) != 2 or group.attributes.get("transA", 0):
            return None
        if any(group.attributes.get(k, 1.0) != 1.0 for k in ("alpha", "beta")):
            return None
        if group.op == "MatMul" or not group.attributes.get("transB", 0):
            values, axis = values.T, 1
    outputs = values.shape[0]
    if weight.grid.scale.size > 1 and int(group_axis(graph, weight.name)) % len(weight.shape) != axis:
        return None
    zeros = weight.grid.zero.reshape(-1, *(1,) * (values.ndim - 1))
    values = values - zeros
    stored: Any = np.int8 if values.size == 0 or (values.min() >= -128 and values.max() <= 127) else np.int16
    assert first.grid is not None
    with np.errstate(over="ignore"):
        factors = first.grid.scale.astype(np.float64) * weight.grid.scale.astype(np.float64)
    ex, ew = first.grid.exponents, weight.grid.exponents
    exponents = None if ex is None or ew is None else ex + ew
    offsets = np.zeros(outputs, np.int64)
    if bias is not None:
        if bias.grid.dtype != "int32" or prod(bias.shape) != outputs:
            return None
        if not np.allclose(bias.grid.scale, factors, rtol=1e-5, atol=0) and bias.values is not None:
            return None
        offsets += 0 if bias.values is None else bias.values.astype(np.int64).reshape(-1) - bias.grid.zero
    folded = offsets - _zero(first) * values.reshape(outputs, -1).sum(1)
    low, high = first.grid.limits
    reach = max(abs(low), abs(high)) + abs(_zero(first))
    bound = float((np.abs(values.reshape(outputs, -1)).sum(1) * reach + np.abs(offsets)).max(initial=0))
    if bound >= 2**31:
        raise UnsupportedOperator(str(group.operator), "its sums may exceed 32 bits")
    last = rescale(factors, exponents, group.result.grid, bound)
    facts = {"kind": last.kind, "stored": np.dtype(stored).name, "lifted": last.lift > 0,
             "clamped": group.clamp is not None, "weights": values.shape}  # fmt: skip
    packed = np.ascontiguousarray(values.astype(stored))
    table = {"shift": "shifts", "multiply": "multipliers", "float": "factors"}[last.kind]
    numbers = {"weights": values, "bias": folded, "zero": _zero(first), "lift": last.lift, **_ends(group),
               table: np.broadcast_to(last.values, outputs)}  # fmt: skip
    return Recipe(
        "conv" if group.op == "Conv" else "matmul",
        (
            Array(packed, f"{weight.name}/{group.op}/{axis}"),
            Array(folded.astype(np.int32)),
            Array(last.values),
            _scalars(_zero(first), last.lift, *_finish(group)),
        ),
        facts,
        numbers,
    )


def group_axis(graph: View, stored: str) -> int:
    """The axis along which a constant is quantised (DequantizeLinear's own default is 1)."""
    axis = graph.operators[graph.readers[stored][0]].attributes.get("axis", 1)
    assert isinstance(axis, int)
    return axis


def _operand_arrays(group: Group) -> list[Array] | None:
    """Constant operands of an elementwise kernel as they are stored; None where one is not of 8 bit per tensor."""
    arrays = []
    for operand in group.operands:
        if isinstance(operand, Constant):
            if operand.grid.scale.size > 1 or operand.grid.dtype == "int32":
                return None
            values = np.zeros(operand.shape, operand.grid.dtype) if operand.values is None else operand.values
            arrays.append(Array(np.ascontiguousarray(values), operand.name))
    return arrays


SUM_BITS = 21
"""Bits of the multipliers of a sum: two products with 8-bit integers and all that is added stay below 2^31."""


def _elementwise(graph: View, group: Group) -> Recipe | None:
    """Add, Sub and Mul of two operands of different grids, broadcast as numpy does."""
    arrays = _operand_arrays(group)
    result = group.result.grid
    if len(group.operands) != 2 or arrays is None or result is None:
        return None
    a, b = group.operands
    assert a.grid is not None and b.grid is not None
    facts: dict[str, Any] = {"clamped": group.clamp is not None, "sign": -1 if group.op == "Sub" else 1}
    ends, zeros = _finish(group), {"zeros": (_zero(a), _zero(b)), **_ends(group)}
    powers = common_exponents([a.grid, b.grid, result])
    if group.op == "Mul":
        factor = a.grid.scale.astype(np.float64) * b.grid.scale.astype(np.float64)
        exponents = None if powers is None else np.array([powers[0] + powers[1]])
        last = rescale(factor, exponents, result, 256.0 * 256)
        if last.kind == "float":
            factors = Array(np.array([*a.grid.scale, *b.grid.scale, *result.scale], np.float32))
            return Recipe("mul", (*arrays, _scalars(_zero(a), _zero(b), *ends), factors), facts | {"kind": "float"})
        entry = int(last.values[0])
        scalars = _scalars(_zero(a), _zero(b), last.lift, entry, *ends)
        numbers = {**zeros, "lift": last.lift, "shift" if last.kind == "shift" else "multiplier": entry}
        return Recipe("mul", (*arrays, scalars), facts | {"kind": last.kind}, numbers)
    if powers is not None:
        least = min(powers[0], powers[1])
        la, lb, shift = powers[0] - least, powers[1] - least, powers[2] - least
        lift = max(0, 1 - shift)
        la, lb, shift = la + lift, lb + lift, min(shift + lift, 30)
        if max(la, lb) <= 16 and shift <= 28:
            ma, mb = 1 << la, facts["sign"] << lb
            offset = -(_zero(a) * ma) - _zero(b) * mb
            numbers = {**zeros, "multipliers": (ma, mb), "offset": offset, "shift": shift}
            return Recipe("add", (*arrays, _scalars(ma, mb, offset, shift, *ends)), facts | {"kind": "shift"}, numbers)
    ratios = [float(np.float64(x.grid.scale[0]) / np.float64(result.scale[0])) for x in (a, b)]  # type: ignore[union-attr]
    shift = SUM_BITS - max(0, int(np.frexp(max(ratios))[1]))
    if shift >= 1:
        ma, mb = round(ratios[0] * 2.0**shift), facts["sign"] * round(ratios[1] * 2.0**shift)
        offset = -_zero(a) * ma - _zero(b) * mb + (_zero(group.result) << shift) + (1 << (shift - 1))
        numbers = {**zeros, "multipliers": (ma, mb), "offset": offset, "shift": shift}
        return Recipe("add", (*arrays, _scalars(ma, mb, offset, shift, *ends)), facts | {"kind": "multiply"}, numbers)
    factors = Array(np.array([*a.grid.scale, *b.grid.scale, *result.scale], np.float32))
    return Recipe("add", (*arrays, _scalars(_zero(a), _zero(b), *ends), factors), facts | {"kind": "float"})


def _mean(graph: View, group: Group) -> Recipe | None:
    """GlobalAveragePool, ReduceMean over height and width, AveragePool."""
    [source] = group.activations
    result = group.result.grid
    if result is None or len(source.shape) != 4:
        return None
    assert source.grid is not None
    facts: dict[str, Any] = {"clamped": group.clamp is not None}
    count = prod(source.shape[2:])
    if group.op == "ReduceMean":
        axes = _axes(graph, group)
        if axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
            return None
    elif group.op == "AveragePool":
        window = group.attributes["kernel_shape"]
        assert isinstance(window, tuple)
        if group.attributes.get("ceil_mode", 0) or "dilations" in group.attributes:
            return None
        count = prod(int(size) for size in window)
        facts |= {"window": window}
    powers = common_exponents([source.grid, result])
    ends = _finish(group)
    zero: dict[str, Any] = {"zero": _zero(source), "count": count, **_ends(group)}
    if powers is not None:
        shift = powers[1] - powers[0]
        lift, divide = max(0, -shift), max(0, shift)
        # numerators are made positive by a multiple of the divisor that keeps the quotient's parity
        base = 512 << lift
        if count << divide <= EXACT_MEAN and (count << divide) * base <= 2**30:
            scalars = _scalars(_zero(source), divide, lift, base, *ends)
            numbers = {**zero, "divide": divide, "lift": lift, "base": base}
            return Recipe("mean", (scalars,), facts | {"kind": "shift"}, numbers)
    # an average of a border divides by the elements that are there: a multiplier for each number of them
    pads = group.attributes.get("pads", ())
    assert isinstance(pads, tuple)
    partial = group.op == "AveragePool" and any(pads) and not group.attributes.get("count_include_pad", 0)
    shares = np.arange(1, count + 1) if partial else np.array([count])
    last = rescale(source.grid.scale.astype(np.float64) / shares, None, result, 255.0 * count)
    if last.kind == "multiply":
        numbers = {**zero, "multipliers": last.values, "lift": last.lift}
        arrays = (_scalars(_zero(source), last.lift, *ends), Array(last.values))
        return Recipe("mean", arrays, facts | {"kind": "multiply"}, numbers)
    factor = Array(np.array([source.grid.scale[0], result.scale[0]], np.float32))
    return Recipe("mean", (_scalars(_zero(source), *ends), factor), facts | {"kind": "float"})


def _axes(graph: View, group: Group) -> list[int] | None:
    given: Any = group.operator.attributes.get("axes")
    if given is None and len(group.operator.inputs) > 1:
        given = graph.array(group.operator.inputs[1])
    return None if given is None else [int(axis) for axis in given]


def _moves(graph: View, group: Group) -> Recipe | None:
    """MaxPool and Concat: integers are chosen or moved, then brought to the result's grid."""
    result = group.result.grid
    if result is None or len(group.activations) != len(group.operands):
        return None
    facts: dict[str, Any] = {"clamped": group.clamp is not None}
    if group.op == "MaxPool" and (len(group.operands[0].shape) != 4 or len(group.operator.outputs) > 1
                                  or group.attributes.get("ceil_mode", 0) or "dilations" in group.attributes):  # fmt: skip
        return None
    grids = [a.grid for a in group.activations if a.grid is not None]
    changes = [_change(grid, result) for grid in grids]
    if not all(c.kind == "shift" for c in changes):
        changes = [rescale(grid.scale.astype(np.float64), None, result, 256.0) for grid in grids]
    kind = "multiply" if any(c.kind == "multiply" for c in changes) else changes[0].kind
    form = "maxpool" if group.op == "MaxPool" else "concat"
    zeros = [_zero(a) for a in group.activations]
    if all(c.kind == kind for c in changes) and kind != "float":
        entries, lifts = [int(c.values[0]) for c in changes], [c.lift for c in changes]
        table = [v for entry in zip(zeros, lifts, entries) for v in entry]
        names = "shifts" if kind == "shift" else "multipliers"
        numbers = {"zeros": tuple(zeros), "lifts": tuple(lifts), names: tuple(entries), **_ends(group)}
        return Recipe(form, (_scalars(*table, *_finish(group)),), facts | {"kind": kind}, numbers)
    factors = Array(np.array([*(grid.scale[0] for grid in grids), result.scale[0]], np.float32))
    return Recipe(form, (_scalars(*zeros, *_finish(group)), factors), facts | {"kind": "float"})


def _change(before: Grid, after: Grid) -> Rescale:
    return rescale(before.scale.astype(np.float64), before.exponents, after, 256.0)


def _quantize(graph: View, group: Group) -> Recipe | None:
    """A QuantizeLinear alone: floats to integers."""
    grid = group.result.grid
    assert grid is not None
    exponents = grid.exponents
    power = exponents is not None
    low, high = grid.limits
    zero = _zero(group.result)
    # multiplying by the reciprocal of a power of two is exact, and spares a division
    scale = 1 / grid.scale[0] if power else grid.scale[0]
    floats = Array(np.array([scale, low - zero, high - zero], np.float32))
    numbers = {"zero": zero, "scale": grid.scale[0], "exponent": None if exponents is None else int(exponents[0])}
    return Recipe("quantize", (_scalars(zero), floats), {"kind": "shift" if power else "float"}, numbers)


def _dequantize(graph: View, group: Group) -> Recipe | None:
    """A DequantizeLinear alone: integers to floats; with a QuantizeLinear behind it, a change of grid."""
    [source] = group.activations
    assert source.grid is not None
    if group.result.grid is not None:
        return _table(graph, group)
    return Recipe("dequantize", (_scalars(_zero(source)), Array(source.grid.scale.astype(np.float32))))


def _table(graph: View, group: Group) -> Recipe | None:
    """An operator of one 8-bit operand, element by element: its 256 results, as onnxruntime computes them."""
    if len(group.operands) != 1 or group.result.grid is None or group.clamp is not None:
        return None
    [source] = group.activations
    if source.grid is None or source.shape != group.result.shape:
        return None
    return Recipe("table", (Array(tabulate(graph, group)),))


def tabulate(graph: View, group: Group) -> np.ndarray:
    """The result of a unary operator for each integer, from the smallest; zeros where constants have no values."""
    from onnx import helper, numpy_helper

    from hwnas.graph.canonical import declare, empty_network
    from hwnas.graph.session import open_session
    from hwnas.graph.view import TensorType

    source, result = group.activations[0].grid, group.result.grid
    assert source is not None and result is not None
    names = [name for name in group.operator.inputs[1:] if name]
    if group.op != "DequantizeLinear" and any(graph.array(name) is None for name in names):
        return np.zeros(256, result.dtype)
    low, _ = source.limits
    network = empty_network(graph.opset)
    kinds = {"uint8": 2, "int8": 3}
    declare(network.graph.input.add(), "x", TensorType(kinds[source.dtype], (256,)))
    declare(network.graph.output.add(), "y", TensorType(kinds[result.dtype], (256,)))
    for name, grid in (("in", source), ("out", result)):
        network.graph.initializer.append(numpy_helper.from_array(grid.scale.reshape(()), f"{name}.scale"))
        zero = np.array(grid.zero[0], grid.dtype)
        network.graph.initializer.append(numpy_helper.from_array(zero, f"{name}.zero"))
    network.graph.node.append(helper.make_node("DequantizeLinear", ["x", "in.scale", "in.zero"], ["real"]))
    value = "real"
    if group.op != "DequantizeLinear":
        for name in names:
            values = graph.array(name)
            assert values is not None
            network.graph.initializer.append(numpy_helper.from_array(values, f"c.{name}"))
        node = network.graph.node.add(op_type=group.op, input=["real", *(n and f"c.{n}" for n in
                                      group.operator.inputs[1:])], output=["applied"])  # fmt: skip
        for name, given in group.attributes.items():
            node.attribute.append(helper.make_attribute(name, given))
        value = "applied"
    network.graph.node.append(helper.make_node("QuantizeLinear", [value, "out.scale", "out.zero"], ["y"]))
    session = open_session(network.SerializeToString(), {"threads": 1, "graph_optimization": "none"})
    integers = np.arange(low, low + 256).astype(source.dtype)
    found: np.ndarray = session.run(None, {"x": integers})[0]
    return found


_UNARY = (
    "Relu Clip Sigmoid Tanh HardSigmoid HardSwish LeakyRelu Elu Selu Gelu Erf Exp Log Sqrt Abs Neg Softplus Softsign "
    "Mish Celu ThresholdedRelu Reciprocal Floor Ceil Round Sign"
)
_RECIPES: Mapping[str, Callable[[View, Group], Recipe | None]] = {
    "Conv": _product, "Gemm": _product, "MatMul": _product, "Add": _elementwise, "Sub": _elementwise, "Mul": _elementwise,
    "GlobalAveragePool": _mean, "ReduceMean": _mean, "AveragePool": _mean, "MaxPool": _moves, "Concat": _moves,
    "QuantizeLinear": _quantize, "DequantizeLinear": _dequantize,
    **dict.fromkeys(_UNARY.split(), _table),
}  # fmt: skip
