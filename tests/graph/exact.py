"""An evaluator of quantised networks in exact arithmetic: what integers and shifts must give, and float32 as well.

Every dequantised value, product and sum of a power-of-two network is a multiple of a power of two far below 2^53, so
float64 holds it without rounding, in any order. A mean rounds once in float64, far from any tie in uint8; gates are
functions of 256 values, computed in float32.
"""

from __future__ import annotations

import numpy as np
import torch
from onnx import ModelProto

from hwnas.graph.canonical import normal_attributes
from hwnas.graph.view import Operator, View, view

Arrays = dict[str, np.ndarray]


def evaluate(network: ModelProto, inputs: Arrays) -> Arrays:
    """All tensors of a quantised network for one set of inputs."""
    graph = view(network)
    values: Arrays = {name: graph.array(name) for name in graph.constants}  # type: ignore[misc]
    values.update(inputs)
    values[""] = np.zeros(0)
    for operator in graph.operators:
        results = _run(graph, operator, [values[name] for name in operator.inputs])
        for name, result in zip(operator.outputs, results, strict=True):
            assert result.shape == graph.types[name].shape
            values[name] = result
    return values


def _run(graph: View, operator: Operator, x: list[np.ndarray]) -> list[np.ndarray]:
    a = normal_attributes(operator, graph.types, graph.opset)
    match operator.op:
        case "QuantizeLinear":
            stored = np.rint(x[0].astype(np.float64) / np.float64(x[1])) + x[2].astype(np.float64)
            return [np.clip(stored, 0, 255).astype(np.uint8)]
        case "DequantizeLinear":
            shape = [-1 if k == a.get("axis", 1) else 1 for k in range(x[0].ndim)] if x[1].ndim else []
            zero = x[2].astype(np.float64) if len(x) > 2 else 0.0
            return [(x[0].astype(np.float64) - zero) * x[1].astype(np.float64).reshape(shape)]
        case "Conv":
            return [_conv(x, a)]
        case "Gemm":
            return [x[0] @ (x[1].T if a.get("transB") else x[1]) + x[2]]
        case "MatMul":
            return [x[0] @ x[1]]
        case "Add":
            return [x[0] + x[1]]
        case "Sub":
            return [x[0] - x[1]]
        case "Mul":
            return [x[0] * x[1]]
        case "Relu":
            return [np.maximum(x[0], 0)]
        case "Clip":
            return [np.clip(x[0], np.float64(x[1]), np.float64(x[2]))]
        case "HardSigmoid":
            slope, offset = (np.float32(a.get(n, d)) for n, d in (("alpha", 0.2), ("beta", 0.5)))  # type: ignore[arg-type]
            return [_gate(x[0], slope, offset)]
        case "HardSwish":
            return [x[0].astype(np.float32) * _gate(x[0], np.float32(1 / 6), np.float32(0.5))]
        case "ReduceMean":
            return [x[0].mean(tuple(x[1].tolist()), keepdims=bool(a.get("keepdims", 1)))]
        case "GlobalAveragePool":
            return [x[0].mean((2, 3), keepdims=True)]
        case "AveragePool":
            k, s, p = (a.get(n, (d, d)) for n, d in (("kernel_shape", 1), ("strides", 1), ("pads", 0)))
            counted = bool(a.get("count_include_pad", 0))
            made = torch.nn.functional.avg_pool2d(torch.tensor(x[0]), k, s, p[:2], count_include_pad=counted)  # type: ignore
            return [made.numpy()]
        case "MaxPool":
            k, s, p = (a.get(n, (d, d)) for n, d in (("kernel_shape", 1), ("strides", 1), ("pads", 0)))
            return [torch.nn.functional.max_pool2d(torch.tensor(x[0]), k, s, p[:2]).numpy()]  # type: ignore
        case "Reshape" | "Flatten":
            return [x[0].reshape(graph.types[operator.outputs[0]].shape)]
        case "Concat":
            return [np.concatenate(x, int(a["axis"]))]  # type: ignore[arg-type]
    raise AssertionError(f"no exact form of {operator.op}")


def _gate(x: np.ndarray, slope: np.float32, offset: np.float32) -> np.ndarray:
    """In float32 as onnxruntime computes it: the slope 1/6 is not exact, and its rounding decides ties."""
    return np.clip(x.astype(np.float32) * slope + offset, np.float32(0), np.float32(1))


def _conv(x: list[np.ndarray], attributes: dict[str, object]) -> np.ndarray:
    rank = x[0].ndim - 2
    run = torch.nn.functional.conv2d if rank == 2 else torch.nn.functional.conv1d
    pads = attributes.get("pads", (0,) * 2 * rank)
    assert isinstance(pads, tuple) and pads[:rank] == pads[rank:], "padding differs between the two ends"
    made = run(
        torch.tensor(x[0]), torch.tensor(x[1]), torch.tensor(x[2]), attributes.get("strides", 1), pads[:rank],
        attributes.get("dilations", 1), attributes.get("group", 1),
    )  # type: ignore  # fmt: skip
    return np.asarray(made.numpy())
