"""Builds quantised networks operator by operator, with grids of any kind, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from hwnas.graph.builder import IR_VERSION, OPSET
from hwnas.graph.session import open_session

TYPES = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "float32": TensorProto.FLOAT}


@dataclass(frozen=True)
class Step:
    """Scale, zero point and type of a stored tensor."""

    scale: float
    zero: int
    dtype: str = "uint8"

    @staticmethod
    def covering(low: float, high: float, dtype: str = "uint8", power_of_two: bool = False) -> Step:
        """The step whose integers reach from low to high, zero included."""
        low, high = min(low, 0.0), max(high, 0.25)  # LiteRT wraps where a sum is 128 times out of range
        scale = float(np.float32((high - low) / 255))
        if power_of_two:
            scale = 2.0 ** np.ceil(np.log2(scale))
        zero = int(np.clip(round(-low / scale), 0, 255))
        return Step(scale, zero // 2 * 2 - (128 if dtype == "int8" else 0), dtype)


@dataclass(frozen=True)
class Stored:
    """A stored tensor: its name, shape and step."""

    name: str
    shape: tuple[int, ...]
    step: Step


@dataclass(repr=False)
class Qdq:
    """A network in the making."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)
    inputs: list[ValueInfoProto] = field(default_factory=list)
    outputs: list[ValueInfoProto] = field(default_factory=list)
    inner: list[ValueInfoProto] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)
    """For each input the values (n x shape) that ranges are taken from."""

    def __repr__(self) -> str:
        return f"Qdq({' '.join(node.op_type for node in self.nodes)})"

    def input(self, values: np.ndarray, step: Step, stored: bool = False) -> Stored:
        """An input of the shape of one of n values; float and quantised at once, or stored already."""
        name, shape = f"in{len(self.inputs)}", values.shape[1:]
        if stored:
            self.inputs.append(helper.make_tensor_value_info(name, TYPES[step.dtype], shape))
            low, high = np.iinfo(step.dtype).min, np.iinfo(step.dtype).max
            values = np.clip(np.rint(values / np.float32(step.scale)) + step.zero, low, high).astype(step.dtype)
            self.images.append(values)
            return Stored(name, shape, step)
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        self.images.append(values.astype(np.float32))
        return self.quantised(name, shape, step)

    def constant(self, values: Any, dtype: Any = None) -> str:
        name = f"k{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def weights(self, values: np.ndarray, scales: np.ndarray | float, axis: int = 0) -> str:
        """The float name of stored integers."""
        per_axis = {"axis": axis} if np.ndim(scales) else {}
        return self._node(
            "DequantizeLinear", [self.constant(values), self.constant(scales, np.float32)], values.shape, **per_axis
        )

    def real(self, stored: Stored) -> str:
        """The float name of a stored tensor."""
        return self._node("DequantizeLinear", [stored.name, *self._step(stored.step)], stored.shape)

    def operator(self, op: str, sources: Sequence[str], shape: Sequence[int], **attributes: Any) -> str:
        """An operator on floats."""
        return self._node(op, sources, shape, **attributes)

    def quantised(self, real: str, shape: Sequence[int], step: Step) -> Stored:
        name = self._node("QuantizeLinear", [real, *self._step(step)], shape, TYPES[step.dtype])
        return Stored(name, tuple(shape), step)

    def covered(self, real: str, shape: Sequence[int], dtype: str = "uint8", power_of_two: bool = False,
                spread: float = 1.0) -> Stored:  # fmt: skip
        """A float tensor quantised with a step that covers what it holds on the images, times `spread`."""
        values = self.values(real, shape)
        return self.quantised(
            real, shape, Step.covering(spread * values.min(), spread * values.max(), dtype, power_of_two)
        )

    def values(self, real: str, shape: Sequence[int]) -> np.ndarray:
        """What a float tensor holds on the images, in onnxruntime."""
        output = helper.make_tensor_value_info(real, TensorProto.FLOAT, shape)
        data = self._network([output]).SerializeToString()
        session = open_session(data, {"threads": 1, "graph_optimization": "none"})
        names = [i.name for i in self.inputs]
        return np.concatenate([session.run(None, dict(zip(names, image)))[0][None] for image in zip(*self.images)])

    def give(self, *stored: Stored, as_stored: bool = False) -> ModelProto:
        """The network that gives out those tensors."""
        for one in stored:
            if as_stored:
                self.outputs.append(helper.make_tensor_value_info(one.name, TYPES[one.step.dtype], one.shape))
            else:
                name = f"out{len(self.outputs)}"
                self.nodes.append(helper.make_node("DequantizeLinear", [one.name, *self._step(one.step)], [name]))
                self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, one.shape))
        return self._network(self.outputs)

    def _network(self, outputs: list[ValueInfoProto]) -> ModelProto:
        given = {value.name for value in outputs}
        inner = [value for value in self.inner if value.name not in given]
        graph = helper.make_graph(self.nodes, "qdq", self.inputs, outputs, self.constants, value_info=inner)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)

    def _step(self, step: Step) -> list[str]:
        return [self.constant(step.scale, np.float32), self.constant(step.zero, step.dtype)]

    def _node(
        self, op: str, sources: Sequence[str], shape: Sequence[int], kind: int = TensorProto.FLOAT, **attributes: Any
    ) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(sources), [name], name=f"n{len(self.nodes)}", **attributes))
        self.inner.append(helper.make_tensor_value_info(name, kind, shape))
        return name
