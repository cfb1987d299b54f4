"""A fused QDQ group read as integer arithmetic: grids, folded constants, and how a sum becomes the next integer.

Knows nothing of TVM. Where every scale is a power of two the arithmetic is exact: what onnxruntime computes in
float32 is an integer times a power of two, so a shift that rounds half to even gives the same bits. Other scales
become integers of 31 bits that sums are multiplied by (`toolchains/cgen/kernels/reference.py` defines both). All that calibration
decides (scales, zero points, bounds) becomes constants, so the code of a kernel depends on its workload alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from onnx import TensorProto

from hwnas.errors import UnsupportedOperator
from hwnas.graph.canonical import normal_attributes
from hwnas.graph.fusion import Kernel
from hwnas.graph.view import Attribute, Operator, View

Kind = Literal["shift", "multiply", "float"]
"""How sums become integers of the result's grid: rounding shift, or multiplication by an integer. Multiplication in
float32 is left for results that are floats, and for factors so large that an integer would overflow."""

DTYPES: dict[int, str] = {TensorProto.UINT8: "uint8", TensorProto.INT8: "int8", TensorProto.INT32: "int32"}
MAX_SHIFT = 30
EXACT_MEAN = 2**14
"""Below this product of count and power of two, a float32 mean rounds to the same integer as the exact one."""

_NOMINAL_SCALE = 0.0625


@dataclass(frozen=True, slots=True)
class Grid:
    """The reals that integers stand for: scale * (integer - zero). One scale, or one for each channel."""

    dtype: str
    scale: np.ndarray
    zero: np.ndarray

    @property
    def exponents(self) -> np.ndarray | None:
        """log2 of the scales; None unless all are powers of two."""
        mantissa, exponent = np.frexp(self.scale.astype(np.float64))
        return exponent - 1 if (mantissa == 0.5).all() else None

    @property
    def limits(self) -> tuple[int, int]:
        info = np.iinfo(self.dtype)
        return int(info.min), int(info.max)

    def integer(self, real: float) -> int:
        """The integer of a real, as QuantizeLinear rounds and saturates."""
        low, high = self.limits
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = np.rint(np.float32(real) / np.float32(self.scale[0])) + np.float32(self.zero[0])
        return int(np.clip(scaled, low, high))


@dataclass(frozen=True, slots=True)
class Activation:
    """A tensor that a kernel reads or writes: its grid is None where it holds floats."""

    shape: tuple[int, ...]
    grid: Grid | None


@dataclass(frozen=True, slots=True)
class Constant:
    """A quantised constant operand with its stored integers (None: a weight without values)."""

    name: str
    shape: tuple[int, ...]
    grid: Grid
    values: np.ndarray | None


@dataclass(frozen=True, slots=True)
class Group:
    """A QDQ group: operands in the operator's order (constants and activations), clamp, result."""

    op: str
    operator: Operator
    attributes: dict[str, Attribute]
    operands: tuple[Activation | Constant, ...]
    clamp: tuple[float, float] | None
    result: Activation

    @property
    def activations(self) -> list[Activation]:
        return [o for o in self.operands if isinstance(o, Activation)]

    @property
    def bounds(self) -> tuple[int, int]:
        """The smallest and largest integer of the result: its type's, narrowed by the clamp."""
        grid = self.result.grid
        assert grid is not None
        low, high = grid.limits
        if self.clamp is not None:
            low, high = max(low, grid.integer(self.clamp[0])), min(high, grid.integer(self.clamp[1]))
        return low, high


def is_quantised(graph: View, kernel: Kernel) -> bool:
    """Whether a kernel holds a QuantizeLinear or DequantizeLinear."""
    return any(graph.operators[i].op in ("QuantizeLinear", "DequantizeLinear") for i in kernel.operators)


def read_group(graph: View, kernel: Kernel) -> Group | None:
    """The group of a kernel; None where it is not one operator between DequantizeLinear and QuantizeLinear."""
    operators = [graph.operators[i] for i in kernel.operators]
    sources = {o.outputs[0]: o for o in operators if o.op == "DequantizeLinear"}
    sinks = [o for o in operators if o.op == "QuantizeLinear"]
    core = [o for o in operators if o.op not in ("QuantizeLinear", "DequantizeLinear")]
    if len(kernel.outputs) != 1 or len(sinks) > 1 or (sinks and sinks[0] is not operators[-1]):
        return None
    given = kernel.outputs[0]
    result = Activation(graph.types[given].shape, grid_of(graph, sinks[0]) if sinks else None)
    clamp = None
    if len(core) == 2 and core[1].op in ("Relu", "Clip") and core[1].inputs[0] == core[0].outputs[0]:
        clamp = bounds_of(graph, core.pop())
        if clamp is None:
            return None
    if len(core) > 1:
        return None
    if core:
        [operator] = core
        # operands that are neither quantised nor absent (axes, shapes) are read from the view where they are needed
        names = [name for name in operator.inputs if name in sources]
        loose = [name for name in operator.inputs if name and name not in sources and name not in graph.constants]
        if loose or any(name not in sources for name in operator.inputs[: _data_operands(operator)] if name):
            return None
        operands = tuple(_operand(graph, sources[name]) for name in names)
    elif sources:  # a bare DequantizeLinear, or a change of grid
        operator = next(iter(sources.values()))
        if len(sources) > 1:
            return None
        operands = (_operand(graph, operator),)
    else:  # a bare QuantizeLinear
        operator = sinks[0]
        operands = (Activation(graph.types[operator.inputs[0]].shape, None),)
    if not any(isinstance(o, Activation) for o in operands):
        return None
    plain = result.grid is None or (result.grid.scale.size == 1 and result.grid.dtype in ("int8", "uint8"))
    if not plain or (clamp is not None and result.grid is None):
        return None
    if any(a.grid is not None and (a.grid.scale.size > 1 or a.grid.dtype == "int32") for a in operands
           if isinstance(a, Activation)):  # fmt: skip
        return None
    attributes = normal_attributes(operator, graph.types, graph.opset)
    return Group(operator.op, operator, attributes, operands, clamp, result)


def _data_operands(operator: Operator) -> int:
    """How many leading operands of an operator hold data; those behind are axes, bounds and the like."""
    return {"Conv": 3, "Gemm": 3, "MatMul": 2, "Add": 2, "Mul": 2, "Sub": 2}.get(operator.op, len(operator.inputs)
           if operator.op in ("Concat", "Max", "Min", "Sum") else 1)  # fmt: skip


def bounds_of(graph: View, clamp: Operator) -> tuple[float, float] | None:
    """The bounds of a Relu or Clip; None where they are not constant."""
    if clamp.op == "Relu":
        return 0.0, float("inf")
    bounds = [-float("inf"), float("inf")]
    for position, name in enumerate(clamp.inputs[1:3]):
        if name:
            value = graph.scalar(name)
            if value is None:
                return None
            bounds[position] = value
    return bounds[0], bounds[1]


def grid_of(graph: View, operator: Operator) -> Grid:
    """The grid of a QuantizeLinear or DequantizeLinear. Raises UnsupportedOperator for a type that is not 8 bit."""
    stored = operator.outputs[0] if operator.op == "QuantizeLinear" else operator.inputs[0]
    dtype = DTYPES.get(graph.types[stored].dtype)
    if dtype is None:
        raise UnsupportedOperator(
            str(operator), "only uint8, int8 and int32 (bias) tensors are computed on as integers"
        )
    if operator.inputs[1] not in graph.constants:
        raise UnsupportedOperator(
            str(operator), "its scale is computed at run time; only constant scales are supported"
        )
    kind = graph.types[operator.inputs[1]]
    scale = graph.array(operator.inputs[1])
    scale = np.full(kind.shape, _NOMINAL_SCALE) if scale is None else scale
    zero = graph.array(operator.inputs[2]) if len(operator.inputs) > 2 and operator.inputs[2] else None
    if len(operator.inputs) > 2 and operator.inputs[2] and operator.inputs[2] not in graph.constants:
        raise UnsupportedOperator(str(operator), "its zero point is computed at run time")
    flat = np.asarray(scale, np.float32).reshape(-1)
    zeros = np.zeros(flat.shape, np.int64) if zero is None else np.asarray(zero, np.int64).reshape(-1)
    if not (np.isfinite(flat).all() and (flat > 0).all()):
        raise UnsupportedOperator(str(operator), "its scale is not a positive number")
    return Grid(dtype, flat, zeros)


def _operand(graph: View, source: Operator) -> Activation | Constant:
    grid, name = grid_of(graph, source), source.inputs[0]
    shape = graph.types[name].shape
    return Constant(name, shape, grid, graph.array(name)) if name in graph.constants else Activation(shape, grid)


@dataclass(frozen=True, slots=True)
class Rescale:
    """From a sum of products to the result: one number, or one for each channel; sums are shifted left by `lift` first.

    kind shift: `values` are how far to shift right. kind multiply: integers m below 2^31; the high word of the product
    with m is the result. kind float: float32 factors; they also serve a result of floats.
    """

    kind: Kind
    values: np.ndarray
    lift: int = 0


def rescale(factors: np.ndarray, exponents: np.ndarray | None, result: Grid | None, bound: float) -> Rescale:
    """How to bring sums in units of `factors` (their log2 in `exponents`) to a result; |sum| is at most `bound`."""
    if result is None:
        return Rescale("float", factors.astype(np.float32))
    to = result.exponents
    if exponents is not None and to is not None:
        shifts = to[0] - exponents
        lift = max(0, 1 - int(shifts.min()))
        shifts = np.minimum(shifts + lift, MAX_SHIFT)
        if bound * 2.0**lift + 2.0 ** (float(shifts.max()) - 1) < 2**31:
            return Rescale("shift", shifts.astype(np.int8), lift)
    ratios = factors.astype(np.float64) / float(result.scale[0])
    lift = max(0, int(np.frexp(float(ratios.max()))[1]) + 1)
    multipliers = np.rint(ratios * 2.0 ** (32 - lift))
    if multipliers.max() >= 2.0**31:
        lift, multipliers = lift + 1, np.rint(ratios * 2.0 ** (31 - lift))
    if bound * 2.0**lift < 2**31:
        return Rescale("multiply", multipliers.astype(np.int32), lift)
    return Rescale("float", ratios.astype(np.float32))


def common_exponents(grids: Sequence[Grid]) -> list[int] | None:
    """log2 of the scale of each per-tensor grid; None unless all are powers of two."""
    found = [grid.exponents for grid in grids]
    return None if any(e is None for e in found) else [int(e[0]) for e in found if e is not None]
