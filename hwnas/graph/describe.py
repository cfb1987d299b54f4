"""Workloads in a few words for people: which operators, on which shapes."""

from __future__ import annotations

from math import prod

from onnx import ModelProto

from hwnas.core.workload import Workload
from hwnas.graph.view import Operator, View, view

_ACTIVATIONS = {
    "Clip": "relu6", "Relu": "relu", "HardSwish": "hardswish", "HardSigmoid": "hardsigmoid",
    "QuantizeLinear": "quantise", "DequantizeLinear": "dequantise",
}  # fmt: skip
_QUANTISING = frozenset({"QuantizeLinear", "DequantizeLinear"})


def describe(workload: Workload) -> str:
    """Such as 'conv 5x5/2 depthwise 16x28x28 + relu6' or 'int8 conv 1x1 16>64 14x14': anchor, input shape, the rest.

    A kernel that computes on quantised tensors is called int8; one that only quantises or dequantises is named so.
    """
    graph = view(ModelProto.FromString(workload.onnx))
    shown = [o for o in graph.operators if o.op not in _QUANTISING]
    int8 = "int8 " if shown and len(shown) < len(graph.operators) else ""
    shown = shown or graph.operators
    if not shown:
        return workload.op
    anchor = next((o for o in shown if o.op in ("Conv", "ConvTranspose", "Gemm", "MatMul")), shown[0])
    rest = [_ACTIVATIONS.get(o.op, o.op.lower()) for o in shown if o is not anchor]
    return int8 + " + ".join([_anchor(graph, anchor), *rest])


def _anchor(graph: View, operator: Operator) -> str:
    name = operator.op.removesuffix("Transpose").lower() if operator.op == "ConvTranspose" else operator.op.lower()
    name = "transposed conv" if operator.op == "ConvTranspose" else _ACTIVATIONS.get(operator.op, name)
    shape = next((graph.types[i].shape for i in operator.inputs if i in graph.types), ())
    size = "x".join(map(str, shape[1:])) or "scalar"
    if operator.op not in ("Conv", "ConvTranspose"):
        return f"{name} {size}"
    weight = graph.types[operator.inputs[1]].shape
    kernel = "x".join(map(str, weight[2:]))
    found = operator.attributes.get("strides", ())
    strides = [int(s) for s in found] if isinstance(found, tuple) else []
    step = f"/{strides[-1]}" if prod(strides) > 1 else ""
    groups = int(operator.attributes.get("group", 1))  # type: ignore[arg-type]
    if groups > 1:
        return f"{name} {kernel}{step} {'depthwise' if weight[1] == 1 else f'{groups} groups'} {size}"
    spatial = "x".join(map(str, shape[2:]))
    return f"{name} {kernel}{step} {shape[1]}>{weight[0]} {spatial}"
