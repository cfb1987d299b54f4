"""What a QDQ graph says, evaluated in float64: the judge where onnxruntime's float32 sums fall on a tie's other side.

Operators of the transformers and of ConvNeXt only; of any other network nothing is said. Rounding is to the nearest
step, ties to even, as QuantizeLinear defines it; the scales are the float32 numbers that the graph holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = np.ndarray[Any, Any]
Attributes = Mapping[str, Any]


def exact_outputs(graph: onnx.ModelProto, given: Array) -> Array | None:
    """The first output for an input; None where the graph has an operator that is not known here."""
    known: dict[str, Array] = {i.name: numpy_helper.to_array(i) for i in graph.graph.initializer}
    known[graph.graph.input[0].name] = given
    if any(node.op_type not in _OPERATORS for node in graph.graph.node):
        return None
    for node in graph.graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        operands = [_wide(known[name]) for name in node.input if name]
        known[node.output[0]] = np.asarray(_OPERATORS[node.op_type](attributes, *operands))
    return known[graph.graph.output[0].name]


def _wide(values: Array) -> Array:
    return values.astype(np.float64) if values.dtype.kind == "f" else values


def _quantize(_: Attributes, x: Array, scale: Array, zero: Array) -> Array:
    limits = np.iinfo(zero.dtype)
    return np.clip(np.rint(x / scale) + zero, limits.min, limits.max).astype(zero.dtype)


def _dequantize(attributes: Attributes, x: Array, scale: Array, zero: Array | None = None) -> Array:
    shape = [1] * x.ndim
    if scale.size > 1:
        shape[attributes.get("axis", 1)] = -1
    offset = np.int64(0) if zero is None else zero.astype(np.int64).reshape(shape if zero.size > 1 else ())
    return (x.astype(np.int64) - offset) * scale.reshape(shape if scale.size > 1 else ())


def _convolve(attributes: Attributes, x: Array, w: Array, bias: Array) -> Array:
    import torch

    top, left, bottom, right = attributes.get("pads", [0] * 4)
    padded = torch.from_numpy(np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right))))
    settings = (attributes.get("strides", [1, 1]), 0, attributes.get("dilations", [1, 1]), attributes.get("group", 1))
    result: Array = torch.nn.functional.conv2d(padded, torch.from_numpy(w), torch.from_numpy(bias), *settings).numpy()
    return result


def _gemm(attributes: Attributes, a: Array, b: Array, c: Array) -> Array:
    a, b = a.T if attributes.get("transA", 0) else a, b.T if attributes.get("transB", 0) else b
    return attributes.get("alpha", 1.0) * (a @ b) + attributes.get("beta", 1.0) * c


def _erf(_: Attributes, x: Array) -> Array:
    import torch

    result: Array = torch.erf(torch.from_numpy(x)).numpy()
    return result


def _softmax(attributes: Attributes, x: Array) -> Array:
    power = np.exp(x - x.max(attributes.get("axis", -1), keepdims=True))
    return power / power.sum(attributes.get("axis", -1), keepdims=True)


def _layer_norm(attributes: Attributes, x: Array, scale: Array, shift: Array) -> Array:
    axes = tuple(range(attributes.get("axis", -1) % x.ndim, x.ndim))
    off = x - x.mean(axes, keepdims=True)
    return (
        off / np.sqrt((off**2).mean(axes, keepdims=True) + np.float32(attributes.get("epsilon", 1e-5))) * scale + shift
    )


def _slice(_: Attributes, x: Array, starts: Array, ends: Array, axes: Array) -> Array:
    index = [slice(None)] * x.ndim
    for start, end, axis in zip(starts, ends, axes):
        index[axis] = slice(int(start), int(end))
    return x[tuple(index)]


_OPERATORS: dict[str, Callable[..., Array]] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "Conv": _convolve,
    "Gemm": _gemm,
    "MatMul": lambda _, a, b: a @ b,
    "Add": lambda _, a, b: a + b,
    "Mul": lambda _, a, b: a * b,
    "Div": lambda _, a, b: a / b,
    "Erf": _erf,
    "Softmax": _softmax,
    "LayerNormalization": _layer_norm,
    "ReduceMean": lambda attributes, x, axes: x.mean(tuple(axes), keepdims=bool(attributes.get("keepdims", 1))),
    "Reshape": lambda _, x, shape: x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape)]),
    "Transpose": lambda attributes, x: x.transpose(attributes["perm"]),
    "Slice": _slice,
    "Squeeze": lambda _, x, axes: x.squeeze(tuple(axes)),
    "Concat": lambda attributes, *parts: np.concatenate(parts, attributes["axis"]),
    "Gather": lambda attributes, x, places: x.take(places, attributes.get("axis", 0)),
}
