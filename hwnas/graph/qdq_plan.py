"""Which operators of an fp32 network compute on integers, and which tensors between them are quantised.

Convolutions and products always do, where their weights are constant; pools, sums, gates and activations do where all
that they read is quantised anyway. What is left (softmax, layer normalisation) stays in float, between a
DequantizeLinear and a QuantizeLinear. A clamp (Relu, Clip) behind an operator is part of it. No scale is chosen here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from onnx import TensorProto

from hwnas.errors import BuildError, UnsupportedOperator
from hwnas.graph.canonical import since_version
from hwnas.graph.rules_qdq import CLAMPS
from hwnas.graph.view import METADATA_OPS, Operator, View

SHARING = METADATA_OPS | {"Concat", "MaxPool", "Transpose", "Slice", "Split", "DepthToSpace", "SpaceToDepth"}
"""Operators that hand values on as they are: what they read and what they give out have one scale and zero point."""

SUMS = frozenset({"Add", "Sub"})
"""Operators whose operands may differ in scale, which costs bits."""

_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
_MEANS = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
_UNARY = frozenset(
    {"HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Gelu", "Mish", "Softplus", "Abs", "Neg"}
)  # fmt: skip
_FOLLOWERS = SHARING | SUMS | {"Mul"} | _MEANS | _UNARY | CLAMPS | {"BatchNormalization"}

MAX_PRODUCTS = 2**24 // 255**2
"""Terms that a product of two quantised tensors may sum and stay exact in float32; longer ones stay in float."""

MAX_MEAN = 2**24 // 255
"""Elements that a mean of a quantised tensor may sum and stay exact in float32."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`operators` compute on integers; `clamps` belong to the operator before them; `roots` holds every quantised
    tensor, with the tensor whose scale and zero point it shares (often itself)."""

    operators: frozenset[int]
    clamps: frozenset[int]
    roots: Mapping[str, str]


def plan_of(graph: View, quantised_input: bool = False, quantised_output: bool = False) -> Plan:
    """The plan of an fp32 network; inputs and outputs of the graph are quantised tensors where that is said.

    Raises BuildError that names the node which cannot be quantised.
    """
    for name in graph.inputs:
        if graph.types[name].dtype != TensorProto.FLOAT:
            raise _refusal(f"input {name!r}", f"it is {_dtype(graph, name)}; only float32 can be quantised")
    operators: set[int] = set()
    clamps: set[int] = set()
    reachable = set(graph.inputs)
    for i, operator in enumerate(graph.operators):
        _check(graph, operator)
        if i in clamps or not _computes_on_integers(graph, operator, reachable):
            continue
        operators.add(i)
        clamp = _clamp_behind(graph, operator)
        if clamp is not None:
            clamps.add(clamp)
            reachable.add(graph.operators[clamp].outputs[0])
        else:
            reachable.update(name for name in operator.outputs if name)
    tensors = dict.fromkeys(graph.inputs if quantised_input else ())
    for i in sorted(operators):
        tensors.update(dict.fromkeys(operands(graph, graph.operators[i])))
        tensors.update(dict.fromkeys(results(graph, i, clamps)))
    if quantised_output:
        tensors.update(dict.fromkeys(graph.outputs))
    return Plan(frozenset(operators), frozenset(clamps), _roots(graph, operators, tensors))


def operands(graph: View, operator: Operator) -> list[str]:
    """The float tensors that an operator reads and that are computed, each as often as it reads it."""
    return [
        name
        for name in operator.inputs
        if name and name not in graph.constants and graph.types[name].dtype == TensorProto.FLOAT
    ]


def results(graph: View, i: int, clamps: set[int] | frozenset[int]) -> tuple[str, ...]:
    """The tensors that an operator gives out, behind its clamp where it has one."""
    operator = graph.operators[i]
    after = graph.sole_reader(operator.outputs[0])
    if after is not None and after in clamps:
        return (graph.operators[after].outputs[0],)
    return tuple(name for name in operator.outputs if name)


def _computes_on_integers(graph: View, operator: Operator, reachable: set[str]) -> bool:
    computed = [name for name in operator.inputs if name and name not in graph.constants]
    if operator.op == "MatMul" and len(computed) == 2:
        return graph.types[computed[0]].shape[-1] <= MAX_PRODUCTS
    if operator.op in _PRODUCTS:
        return True
    if operator.op not in _FOLLOWERS or not computed or not reachable.issuperset(computed):
        return False
    if any(graph.types[name].dtype != TensorProto.FLOAT for name in (*computed, *filter(None, operator.outputs))):
        return False
    first = graph.types[computed[0]]
    if operator.op == "BatchNormalization":
        return len(first.shape) in (3, 4) and all(graph.array(name) is not None for name in operator.inputs[1:])
    if operator.op in _MEANS:
        return first.elements // max(1, graph.types[operator.outputs[0]].elements) <= MAX_MEAN
    return operator.op not in CLAMPS or len(computed) == 1


def _clamp_behind(graph: View, operator: Operator) -> int | None:
    """The clamp that runs within an operator's kernel: its only reader, with constant bounds."""
    if operator.op in SHARING:
        return None
    after = graph.sole_reader(operator.outputs[0])
    if after is None or graph.operators[after].op not in CLAMPS:
        return None
    bounds = graph.operators[after].inputs[1:]
    return after if all(not name or graph.scalar(name) is not None for name in bounds) else None


def _roots(graph: View, operators: set[int], tensors: Mapping[str, None]) -> dict[str, str]:
    parent = {name: name for name in tensors}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for i in sorted(operators):
        operator = graph.operators[i]
        if operator.op in SHARING:
            joined = [*operands(graph, operator), *(name for name in operator.outputs if name in parent)]
            for name in joined[1:]:
                parent[root(name)] = root(joined[0])
    return {name: root(name) for name in tensors}


def _check(graph: View, operator: Operator) -> None:
    label = str(operator)
    if operator.op in ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul"):
        raise _refusal(label, "the network is quantised already")
    if operator.domain:
        raise _refusal(label, f"it is of domain {operator.domain!r}; only standard ONNX operators can be quantised")
    try:
        since_version(operator.op, "", graph.opset)
    except UnsupportedOperator as error:
        raise _refusal(label, error.reason) from None
    if operator.op not in _PRODUCTS:
        return
    if operator.op == "Gemm" and operator.attributes.get("transA", 0):
        raise _refusal(label, "its first operand is transposed (transA)")
    stored = [1, 2] if operator.op != "MatMul" else []
    for position, name in enumerate(operator.inputs):
        if name and graph.types[name].dtype != TensorProto.FLOAT:
            raise _refusal(label, f"operand {name!r} is {_dtype(graph, name)}; only float32 can be quantised")
        if name and position in stored and graph.array(name) is None:
            raise _refusal(label, f"operand {name!r} is not a constant with values, as weights and biases must be")
    if operator.op != "MatMul" and operator.inputs[0] in graph.constants:
        raise _refusal(label, f"its first operand {operator.inputs[0]!r} is a constant")
    bias = operator.inputs[2] if len(operator.inputs) > 2 else ""
    row = graph.types[operator.outputs[0]].shape[1:2]
    if operator.op == "Gemm" and bias and (graph.types[bias].elements,) not in ((1,), row):
        raise _refusal(label, f"its bias of shape {graph.types[bias].shape} is not one row")
    if operator.op == "MatMul":
        shapes = [graph.types[name].shape for name in operator.inputs]
        if operator.inputs[0] in graph.constants or (operator.inputs[1] in graph.constants and len(shapes[1]) != 2):
            raise _refusal(label, f"weights must be its second operand and a matrix; its operands are {shapes}")
    if prod(graph.types[operator.outputs[0]].shape) == 0:
        raise _refusal(label, "it computes nothing: its result has no elements")


def _dtype(graph: View, name: str) -> str:
    return str(TensorProto.DataType.Name(graph.types[name].dtype)).lower()


def _refusal(node: str, reason: str) -> BuildError:
    return BuildError("quantize", f"{node} cannot be quantised: {reason}")
