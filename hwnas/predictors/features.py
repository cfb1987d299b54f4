"""Features of a workload that decide how long it takes: work, traffic, shape, alignment. No weights, no names."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2, prod

import numpy as np
from onnx import ModelProto

from hwnas.core.workload import Workload
from hwnas.graph.analysis import analyse
from hwnas.graph.view import View, view

CLASSES = ("dense conv", "pointwise conv", "depthwise conv", "grouped conv", "matmul", "pool", "reduce", "elementwise")
"""Kinds of fused kernels, by their anchor operator; a kernel of one kind scales unlike those of another."""

_SHAPE = ("channels_in", "channels_out", "height", "width", "kernel", "stride", "group_width")
_WORK = ("macs", "elementwise", "weights", "moved_bytes", "out_elements", "depth_of_sum")
_REST = ("operators", "residual", "fills_8", "fills_16", "in_fills_16", "padded", "intensity", "quantised")
NAMES = (*(f"is_{c.replace(' ', '_')}" for c in CLASSES), *(f"log_{n}" for n in (*_WORK, *_SHAPE)), *_REST)

_MATMUL = frozenset({"Gemm", "MatMul", "Einsum"})
_POOL = frozenset({"MaxPool", "AveragePool", "LpPool"})
_REDUCE = frozenset(
    {"GlobalAveragePool", "GlobalMaxPool", "Softmax", "LogSoftmax", "LayerNormalization", "InstanceNormalization"}
)


def kernel_class(workload: Workload) -> str:
    """Which of CLASSES a workload belongs to."""
    return _class_of(view(ModelProto.FromString(workload.onnx)))


def features(workloads: Sequence[Workload]) -> np.ndarray:
    """The features of n workloads, n x len(NAMES); sizes as log2(1 + size)."""
    return np.array([_features(w) for w in workloads], dtype=float).reshape(len(workloads), len(NAMES))


def work(workloads: Sequence[Workload]) -> tuple[np.ndarray, np.ndarray]:
    """What a roofline needs: multiply-accumulates (n) and bytes moved (n) of n workloads."""
    found = [analyse(ModelProto.FromString(w.onnx)) for w in workloads]
    return np.array([float(a.macs) for a in found]), np.array([float(a.moved_bytes) for a in found])


def _class_of(graph: View) -> str:
    kinds = {operator.op for operator in graph.operators}
    for operator in graph.operators:
        if operator.op in ("Conv", "ConvTranspose"):
            weight = graph.types[operator.inputs[1]].shape
            groups = int(operator.attributes.get("group", 1))  # type: ignore[arg-type]
            if groups > 1:
                return "depthwise conv" if weight[1] == 1 else "grouped conv"
            return "pointwise conv" if prod(weight[2:]) == 1 else "dense conv"
    if kinds & _MATMUL:
        return "matmul"
    if kinds & _POOL:
        return "pool"
    return "reduce" if kinds & _REDUCE or any(k.startswith("Reduce") for k in kinds) else "elementwise"


def _features(workload: Workload) -> list[float]:
    network = ModelProto.FromString(workload.onnx)
    graph, sums = view(network), analyse(network)
    kind = _class_of(graph)
    inputs = [graph.types[v.name].shape for v in network.graph.input]
    output = graph.types[network.graph.output[0].name].shape
    source = max(inputs, key=prod, default=output)
    spatial_in = source[2:] if len(source) > 2 else (1, 1)
    spatial_out = output[2:] if len(output) > 2 else (1, 1)
    channels_in = source[1] if len(source) > 1 else 1
    channels_out = output[1] if len(output) > 1 else 1
    anchor = next((o for o in graph.operators if o.op in ("Conv", "ConvTranspose")), None)
    kernel, group_width = 1, channels_in
    if anchor is not None:
        weight = graph.types[anchor.inputs[1]].shape
        kernel, group_width = prod(weight[2:]), weight[1]
    stride = max(1, round((prod(spatial_in) / max(1, prod(spatial_out))) ** 0.5))
    elements = prod(output)
    work = (sums.macs, sums.elementwise, sums.params, sums.moved_bytes, elements, sums.macs / max(1, elements))
    shape = (channels_in, channels_out, spatial_out[0], spatial_out[-1], kernel, stride, group_width)
    rest = (
        len(graph.operators),
        float(len(inputs) > 1),
        _fill(channels_out, 8),
        _fill(channels_out, 16),
        _fill(channels_in, 16),
        float(anchor is not None and any(anchor.attributes.get("pads", ()))),  # type: ignore[arg-type]
        sums.macs / max(1, sums.moved_bytes),
        float(any(operator.op in ("QuantizeLinear", "DequantizeLinear") for operator in graph.operators)),
    )
    return [float(kind == c) for c in CLASSES] + [log2(1 + x) for x in (*work, *shape)] + [float(x) for x in rest]


def _fill(channels: int, lanes: int) -> float:
    """The share of vector lanes that channels fill when they are padded to whole vectors."""
    return channels / (-(-channels // lanes) * lanes)
