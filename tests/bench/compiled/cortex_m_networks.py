"""One shape as a QDQ network of one operator, and what its integers have to be, by numpy in 64 bits."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.bench.compiled.cortex_m_shapes import Shape

TYPES = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8}


@dataclass(frozen=True, slots=True)
class Grids:
    """Integers of the activations: their type, their zero points, and whether all scales are powers of two."""

    dtype: str = "int8"
    zero: int = 5
    result_zero: int = -7
    power_of_two: bool = False

    @property
    def limits(self) -> tuple[int, int]:
        info = np.iinfo(self.dtype)
        return int(info.min), int(info.max)


@dataclass(frozen=True, slots=True)
class Case:
    """A network and all numbers in it. `scales` are the real factors of the inputs, `scale` that of the result."""

    shape: Shape
    grids: Grids
    network: ModelProto
    scales: tuple[float, ...]
    scale: float
    weights: np.ndarray | None = None
    weight_scales: np.ndarray | None = None
    bias: np.ndarray | None = None

    def inputs(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Random inputs, the whole range of their type."""
        low, high = self.grids.limits
        count = 2 if self.shape.op == "add" else 1
        return [rng.integers(low, high + 1, _input(self.shape)).astype(self.grids.dtype) for _ in range(count)]

    def reals(self, inputs: list[np.ndarray]) -> np.ndarray:
        """The result before it is rounded, in steps of its scale, as float64."""
        shape, zero = self.shape, self.grids.zero
        values = [x.astype(np.int64) - zero for x in inputs]
        if shape.op == "add":
            # every real here is a float32 times a small integer: their sum is exact in float64
            return np.asarray((values[0] * self.scales[0] + values[1] * self.scales[1]) / self.scale)
        if shape.op in ("conv", "dense"):
            assert self.weights is not None and self.weight_scales is not None and self.bias is not None
            if shape.op == "dense":
                sums = values[0] @ self.weights.T.astype(np.int64) + self.bias
                return np.asarray(sums * (self.scales[0] * self.weight_scales / self.scale))
            sums = _convolved(values[0], self.weights, shape) + self.bias.reshape(1, -1, 1, 1)
            return np.asarray(sums * (self.scales[0] * self.weight_scales / self.scale).reshape(1, -1, 1, 1))
        if shape.op == "mean":
            pooled = values[0].mean((2, 3), keepdims=True)
        else:
            pooled = _pooled(values[0], shape)
        return np.asarray(pooled * (self.scales[0] / self.scale))

    def integers(self, inputs: list[np.ndarray]) -> np.ndarray:
        """The result: `reals` rounded half to even, with zero point, clamp and saturation."""
        low, high = self.grids.limits
        zero = self.grids.result_zero
        if self.shape.clamped:
            low, high = max(low, zero), min(high, int(np.rint(6.0 / self.scale)) + zero)
        return np.clip(np.rint(self.reals(inputs)) + zero, low, high).astype(self.grids.dtype)


def _input(shape: Shape) -> tuple[int, ...]:
    return (1, shape.inputs) if shape.op == "dense" else (1, shape.inputs, shape.height, shape.width)


def _output(shape: Shape) -> tuple[int, ...]:
    return (1, shape.outputs) if shape.op == "dense" else (1, shape.outputs, *shape.result)


def _windows(padded: np.ndarray, shape: Shape) -> list[tuple[int, int, np.ndarray]]:
    """Every tap of the kernel and what it sees, n x c x height x width of the result."""
    rows, columns = shape.result
    taps = []
    for i in range(shape.kernel[0]):
        for j in range(shape.kernel[1]):
            y, x = i * shape.dilations[0], j * shape.dilations[1]
            seen = padded[:, :, y :: shape.strides[0], x :: shape.strides[1]][:, :, :rows, :columns]
            taps.append((i, j, seen))
    return taps


def _padded(values: np.ndarray, shape: Shape, border: int) -> np.ndarray:
    top, left, bottom, right = shape.pads
    return np.pad(values, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=border)


def _convolved(values: np.ndarray, weights: np.ndarray, shape: Shape) -> np.ndarray:
    sums: Any = 0
    for i, j, seen in _windows(_padded(values, shape, 0), shape):
        tap = weights[:, :, i, j].astype(np.int64)
        sums = sums + (seen * tap.reshape(1, -1, 1, 1) if shape.groups > 1 else np.einsum("nchw,oc->nohw", seen, tap))
    return np.asarray(sums)


def _pooled(values: np.ndarray, shape: Shape) -> np.ndarray:
    if shape.op == "maximum":
        seen = _windows(_padded(values, shape, -(2**30)), shape)
        return np.max([tap for *_, tap in seen], axis=0)
    total = sum(tap for *_, tap in _windows(_padded(values, shape, 0), shape))
    inside = sum(tap for *_, tap in _windows(_padded(np.ones_like(values), shape, 0), shape))
    return np.asarray(total / inside)


def case(shape: Shape, grids: Grids, seed: int = 0) -> Case:
    """The network of a shape with drawn weights and scales: its result fills the range of its type."""
    rng = np.random.default_rng([seed, len(shape.name), *shape.name.encode()])
    graph = _Graph(grids)
    if shape.op in ("conv", "dense"):
        return _products(shape, grids, graph, rng)
    count = 2 if shape.op == "add" else 1
    scales = tuple(_scale(grids, s) for s in ((0.0371, 0.0413) if count == 2 else (0.0371,)))
    spread = {"add": 0.0517, "mean": 0.0093, "average": 0.0291, "maximum": 0.0371}[shape.op]
    scale = _scale(grids, spread)
    reals = [graph.input(f"x{k}", _input(shape), scales[k]) for k in range(count)]
    if shape.op == "add":
        made = graph.node("Add", reals)
    elif shape.op == "mean":
        made = graph.node("GlobalAveragePool", reals)
    else:
        made = graph.node(
            "AveragePool" if shape.op == "average" else "MaxPool", reals, kernel_shape=shape.kernel,
            strides=shape.strides, pads=shape.pads,
        )  # fmt: skip
    graph.output(made, _output(shape), scale, shape.clamped)
    return Case(shape, grids, graph.network(), scales, scale)


def _products(shape: Shape, grids: Grids, graph: _Graph, rng: np.random.Generator) -> Case:
    dense = shape.op == "dense"
    depth = shape.inputs // shape.groups * prod(shape.kernel)
    weights = rng.integers(-127, 128, (shape.outputs, shape.inputs // shape.groups, *shape.kernel)).astype(np.int8)
    bias = rng.integers(-3000, 3000, shape.outputs)
    step = _scale(grids, 0.0371)
    # one scale for a dense operator, as the peer has it; one a channel for all others
    weight_scales = np.array(
        [_scale(grids, 0.004 * f) for f in ([1.0] if dense else rng.uniform(0.5, 1.0, shape.outputs))], np.float32
    )
    deviation = step * 0.003 * 73 * 74 * np.sqrt(depth)
    scale = _scale(grids, float(deviation) / 50)
    x = graph.input("x0", _input(shape), step)
    if dense:
        weights = weights.reshape(shape.outputs, shape.inputs)
        w = graph.constant("w", weights, weight_scales[0], 0)
        b = graph.constant("b", bias.astype(np.int32), np.float32(step) * weight_scales[0], 0)
        made = graph.node("Gemm", [x, w, b], transB=1)
    else:
        w = graph.constant("w", weights, weight_scales, 0)
        b = graph.constant("b", bias.astype(np.int32), np.float32(step) * weight_scales, 0)
        made = graph.node(
            "Conv", [x, w, b], kernel_shape=shape.kernel, strides=shape.strides, pads=shape.pads,
            dilations=shape.dilations, group=shape.groups,
        )  # fmt: skip
    graph.output(made, _output(shape), scale, shape.clamped)
    return Case(shape, grids, graph.network(), (step,), scale, weights, weight_scales.astype(np.float64), bias)


def _scale(grids: Grids, real: float) -> float:
    """A scale as float32 holds it: the real, or the power of two next to it."""
    return float(np.float32(2.0 ** np.rint(np.log2(real)) if grids.power_of_two else real))


class _Graph:
    """Nodes between DequantizeLinear and QuantizeLinear."""

    def __init__(self, grids: Grids) -> None:
        self.grids, self.graph, self.count = grids, helper.make_graph([], "one", [], []), 0

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        self.count += 1
        name = f"t{self.count}"
        self.graph.node.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def stored(self, values: np.ndarray) -> str:
        self.count += 1
        self.graph.initializer.append(numpy_helper.from_array(values, f"c{self.count}"))
        return f"c{self.count}"

    def constant(self, name: str, values: np.ndarray, scale: Any, axis: int) -> str:
        scales = np.asarray(scale, np.float32)
        zeros = np.zeros(scales.shape, values.dtype)
        more = {"axis": axis} if scales.ndim else {}
        return self.node("DequantizeLinear", [self.stored(values), self.stored(scales), self.stored(zeros)], **more)

    def input(self, name: str, shape: tuple[int, ...], scale: float) -> str:
        self.graph.input.append(helper.make_tensor_value_info(name, TYPES[self.grids.dtype], shape))
        zero = self.stored(np.array(self.grids.zero, self.grids.dtype))
        return self.node("DequantizeLinear", [name, self.stored(np.array(scale, np.float32)), zero])

    def output(self, made: str, shape: tuple[int, ...], scale: float, clamped: bool) -> None:
        if clamped:
            made = self.node("Clip", [made, self.stored(np.float32(0)), self.stored(np.float32(6))])
        zero = self.stored(np.array(self.grids.result_zero, self.grids.dtype))
        last = self.node("QuantizeLinear", [made, self.stored(np.array(scale, np.float32)), zero])
        self.graph.output.append(helper.make_tensor_value_info(last, TYPES[self.grids.dtype], shape))

    def network(self) -> ModelProto:
        network = helper.make_model(self.graph, opset_imports=[helper.make_opsetid("", 18)])
        network.ir_version = 10
        return network
