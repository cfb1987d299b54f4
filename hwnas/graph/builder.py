"""A small ONNX builder: static fp32 graphs with the operators, attributes and arity that torch's exporter emits.

Search spaces describe their blocks with it, a thousand times faster than exporting a torch module. Weights are
random, He-scaled so that activations neither overflow nor turn denormal, and seeded by the block's key. It checks
nothing beyond shapes: it is not a way to read or to repair foreign ONNX.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

OPSET = 18
IR_VERSION = 10
SIXTH = float(np.float32(1 / 6))  # the exporter stores HardSigmoid's slope as float32


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the graph under construction: its name and static shape."""

    name: str
    shape: tuple[int, ...]


class GraphBuilder:
    """Builds one ONNX graph; every method that adds an operator returns the Value it computes.

    Spatial arguments are (height, width) pairs. Tensors are 1 x c x h x w unless a method says otherwise.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._rng = np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.blake2b(key.encode()).digest()[:8])))
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []
        self._inputs: list[Value] = []
        self._values: list[Value] = []
        self._constants: dict[tuple[str, bytes], str] = {}

    def input(self, shape: Sequence[int]) -> Value:
        """A new graph input."""
        value = Value(f"x{len(self._inputs)}", tuple(shape))
        self._inputs.append(value)
        return value

    def conv(
        self,
        x: Value,
        channels: int,
        kernel: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        groups: int = 1,
        bias: bool = True,
    ) -> Value:
        """A convolution padded by half its kernel; with a batch norm folded into it, it has a bias."""
        _, c, h, w = x.shape
        weight = self._weight((channels, c // groups, *kernel))
        pads = [kernel[0] // 2, kernel[1] // 2]
        out = (1, channels, *(_extent(n, k, p, s) for n, k, p, s in zip((h, w), kernel, pads, stride)))
        return self.operator(
            "Conv",
            (x.name, weight, *([self._bias(channels)] if bias else [])),
            out,
            group=groups,
            pads=pads * 2,
            auto_pad="NOTSET",
            strides=list(stride),
            dilations=[1, 1],
            kernel_shape=list(kernel),
        )

    def average_pool(self, x: Value, kernel: int, stride: int, pad: int, count_pad: bool) -> Value:
        """A square average pool."""
        _, c, h, w = x.shape
        out = (1, c, *(_extent(n, kernel, pad, stride) for n in (h, w)))
        return self.operator(
            "AveragePool",
            (x.name,),
            out,
            count_include_pad=int(count_pad),
            ceil_mode=0,
            pads=[pad] * 4,
            auto_pad="NOTSET",
            strides=[stride] * 2,
            kernel_shape=[kernel] * 2,
        )

    def batch_norm(self, x: Value) -> Value:
        """A batch norm that no convolution could take in."""
        scale, shift, mean = (self._bias(x.shape[1]) for _ in range(3))
        variance = self._initializer(np.ones(x.shape[1], np.float32), "w")
        names = (x.name, scale, shift, mean, variance)
        return self.operator("BatchNormalization", names, x.shape, epsilon=1e-5, momentum=0.9, training_mode=0)

    def spatial_mean(self, x: Value) -> Value:
        """The mean over height and width, 1 x c x 1 x 1."""
        axes = self.constant(np.array([-1, -2], np.int64))
        return self.operator("ReduceMean", (x.name, axes), (*x.shape[:2], 1, 1), noop_with_empty_axes=0, keepdims=1)

    def flatten(self, x: Value) -> Value:
        """Everything behind the first axis as one, 1 x n."""
        shape = (x.shape[0], int(np.prod(x.shape[1:])))
        return self.operator("Reshape", (x.name, self.constant(np.array(shape, np.int64))), shape, allowzero=1)

    def linear(self, x: Value, features: int) -> Value:
        """A fully connected operator with bias, 1 x n to 1 x features."""
        names = (x.name, self._weight((features, x.shape[1])), self._bias(features))
        return self.operator("Gemm", names, (x.shape[0], features), beta=1.0, transB=1, alpha=1.0, transA=0)

    def relu(self, x: Value) -> Value:
        """max(x, 0)."""
        return self.operator("Relu", (x.name,), x.shape)

    def relu6(self, x: Value) -> Value:
        """x clipped to 0..6."""
        bounds = [self.constant(np.array(v, np.float32)) for v in (0.0, 6.0)]
        return self.operator("Clip", (x.name, *bounds), x.shape)

    def hardswish(self, x: Value) -> Value:
        """x * hardsigmoid(x)."""
        return self.operator("HardSwish", (x.name,), x.shape)

    def hardsigmoid(self, x: Value) -> Value:
        """x / 6 + 1 / 2 clipped to 0..1."""
        return self.operator("HardSigmoid", (x.name,), x.shape, beta=0.5, alpha=SIXTH)

    def add(self, a: Value, b: Value) -> Value:
        """The sum of two tensors of the same shape."""
        return self.operator("Add", (a.name, b.name), a.shape)

    def mul(self, a: Value, b: Value) -> Value:
        """The product; `b` may be broadcast to the shape of `a`."""
        return self.operator("Mul", (a.name, b.name), a.shape)

    def operator(self, op: str, inputs: Sequence[str], shape: Sequence[int], **attributes: Any) -> Value:
        """Any other operator of one output with the given static shape."""
        from onnx import helper

        value = Value(f"v{len(self._nodes)}", tuple(shape))
        self._nodes.append(helper.make_node(op, list(inputs), [value.name], name=f"n{len(self._nodes)}", **attributes))
        self._values.append(value)
        return value

    def constant(self, array: np.ndarray) -> str:
        """The name of a constant that keeps its value (an axis, a bound), shared between equal ones."""
        key = (str(array.dtype) + str(array.shape), array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._initializer(array, "k")
        return self._constants[key]

    def build(self, *outputs: Value) -> ModelProto:
        """The finished graph. An input that is also an output is held in memory throughout."""
        from onnx import helper

        produced = {v.name for v in outputs}
        graph = helper.make_graph(
            self._nodes,
            self._key,
            [_info(v) for v in self._inputs],
            [_info(v) for v in outputs],
            self._weights,
            value_info=[_info(v) for v in self._values if v.name not in produced],
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="hwnas"
        )

    def _weight(self, shape: tuple[int, ...]) -> str:
        bound = float(np.sqrt(6 / np.prod(shape[1:])))  # He et al. 2015, uniform with variance 2 / fan-in
        array = self._rng.random(shape, np.float32)
        array -= np.float32(0.5)
        array *= np.float32(2 * bound)
        return self._initializer(array, "w")

    def _bias(self, channels: int) -> str:
        return self._initializer(self._rng.random(channels, np.float32) * np.float32(0.2) - np.float32(0.1), "b")

    def _initializer(self, array: np.ndarray, prefix: str) -> str:
        from onnx import numpy_helper

        name = f"{prefix}{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(array, name))
        return name


def _extent(size: int, kernel: int, pad: int, stride: int) -> int:
    return (size + 2 * pad - kernel) // stride + 1


def _info(value: Value) -> ValueInfoProto:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(value.name, TensorProto.FLOAT, value.shape)
