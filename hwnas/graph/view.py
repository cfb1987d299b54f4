"""A plain-Python view of an ONNX graph: operators, tensor types, constants, who makes and who reads each tensor.

Reading protobuf fields again and again is what makes graph passes slow, so every pass of this room reads a `View`
once and works on tuples and dictionaries. A view never changes the graph it was taken from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

from hwnas.errors import DataError, UnsupportedOperator

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

OPSET = 18
"""The opset that networks are exported and converted to: it decides which operators exist, hence which workloads."""

METADATA_OPS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
"""Operators that only rename or reshape a contiguous tensor: no kernel runs for them."""

Attribute = int | float | bytes | TensorProto | tuple[int, ...] | tuple[float, ...] | tuple[bytes, ...]


class TensorType(NamedTuple):
    """Element type (TensorProto.DataType) and static shape of a tensor."""

    dtype: int
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return (prod(self.shape) * bits_of(self.dtype) + 7) // 8


@dataclass(frozen=True, slots=True)
class Operator:
    """One node: '' stands for an optional input or output that is absent."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]
    domain: str = ""
    name: str = ""

    def __str__(self) -> str:
        return f"{self.op} {self.name!r}" if self.name else self.op


@dataclass(slots=True)
class View:
    """The graph as lists and dictionaries; `operators` are in topological order."""

    operators: list[Operator]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    types: dict[str, TensorType]
    constants: dict[str, TensorProto]
    opset: int
    producer: dict[str, int] = field(default_factory=dict)
    readers: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for i, operator in enumerate(self.operators):
            for name in operator.outputs:
                self.producer[name] = i
            for name in operator.inputs:
                if name:
                    self.readers.setdefault(name, []).append(i)

    def array(self, name: str) -> np.ndarray | None:
        """The values of a constant; None for a tensor that is computed, or a weight without values."""
        tensor = self.constants.get(name)
        return None if tensor is None or not has_values(tensor) else numpy_helper.to_array(tensor)

    def scalar(self, name: str) -> float | None:
        """The value of a one-element constant; None for anything else."""
        tensor = self.constants.get(name)
        if tensor is None or prod(tensor.dims) != 1 or not has_values(tensor):
            return None
        return float(numpy_helper.to_array(tensor).reshape(-1)[0])

    def sole_reader(self, name: str) -> int | None:
        """The index of the only operator that reads a tensor; None if several do, or the graph gives it out."""
        readers = self.readers.get(name, ())
        return readers[0] if len(readers) == 1 and name not in self.outputs else None


@lru_cache(maxsize=64)
def bits_of(dtype: int) -> int:
    """How many bits an element of an ONNX type takes in memory."""
    if dtype in (TensorProto.INT4, TensorProto.UINT4):
        return 4
    return int(onnx.helper.tensor_dtype_to_np_dtype(dtype).itemsize * 8)


def has_values(tensor: TensorProto) -> bool:
    """Whether an initialiser carries data; the weights of a workload do not."""
    # asking for `raw_data` itself would copy it
    return bool(
        tensor.HasField("raw_data")
        or len(tensor.float_data)
        or len(tensor.int32_data)
        or len(tensor.int64_data)
        or len(tensor.double_data)
        or len(tensor.uint64_data)
        or len(tensor.string_data)
        or 0 in tensor.dims
    )


def attribute_value(attribute: AttributeProto) -> Attribute:
    """The plain value of an attribute. Raises UnsupportedOperator for a subgraph."""
    kind = attribute.type
    if kind == AttributeProto.INT:
        return attribute.i
    if kind == AttributeProto.INTS:
        return tuple(attribute.ints)
    if kind == AttributeProto.FLOAT:
        return attribute.f
    if kind == AttributeProto.FLOATS:
        return tuple(attribute.floats)
    if kind == AttributeProto.STRING:
        return attribute.s
    if kind == AttributeProto.STRINGS:
        return tuple(attribute.strings)
    if kind == AttributeProto.TENSOR:
        return attribute.t
    raise UnsupportedOperator(attribute.name, "an attribute that holds a graph or a sparse tensor is not supported")


def view(network: ModelProto) -> View:
    """Read a network with static shapes; shapes that it does not state are inferred.

    Raises UnsupportedOperator for control flow, DataError for an opset below 18 or a shape that is not static.
    """
    graph = network.graph
    opset = opset_of(network)
    if opset < OPSET:
        raise DataError(f"the network is of opset {opset}, at least {OPSET} is needed; load it with load_onnx")
    constants = {tensor.name: tensor for tensor in graph.initializer}
    operators = []
    for node in graph.node:
        operator = read_operator(node)
        if operator.op == "Constant" and not operator.domain:
            constants[operator.outputs[0]] = constant_tensor(operator)
        else:
            operators.append(operator)
    types = _types(network, operators, constants)
    inputs = tuple(value.name for value in graph.input if value.name not in constants)
    return View(operators, inputs, tuple(value.name for value in graph.output), types, constants, opset)


def opset_of(network: ModelProto) -> int:
    """The version of the standard operator set that a network imports. Raises DataError where it imports none."""
    for entry in network.opset_import:
        if entry.domain in ("", "ai.onnx"):
            return int(entry.version)
    raise DataError("the network does not import the standard ONNX operator set")


def read_operator(node: NodeProto) -> Operator:
    """One node in plain Python. Raises UnsupportedOperator for control flow."""
    attributes: dict[str, Attribute] = {}
    for attribute in node.attribute:
        if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            label = f"{node.op_type} {node.name!r}"
            raise UnsupportedOperator(label, "control flow has no fixed latency; export the network without it")
        attributes[attribute.name] = attribute_value(attribute)
    domain = "" if node.domain == "ai.onnx" else node.domain
    return Operator(node.op_type, tuple(node.input), tuple(node.output), attributes, domain, node.name)


def constant_tensor(operator: Operator) -> TensorProto:
    """The tensor that a Constant operator gives out. Raises UnsupportedOperator for sparse and string constants."""
    for key, value in operator.attributes.items():
        if isinstance(value, TensorProto):
            return value
        if key in ("value_float", "value_floats"):
            return numpy_helper.from_array(np.asarray(value, np.float32))
        if key in ("value_int", "value_ints"):
            return numpy_helper.from_array(np.asarray(value, np.int64))
    raise UnsupportedOperator(str(operator), "only dense numeric constants are supported")


def _types(
    network: ModelProto, operators: Sequence[Operator], constants: Mapping[str, TensorProto]
) -> dict[str, TensorType]:
    types = {name: TensorType(tensor.data_type, tuple(tensor.dims)) for name, tensor in constants.items()}
    graph = network.graph
    types |= {name: kind for name, kind in stated_types(graph).items() if name not in types}
    needed = [name for operator in operators for name in operator.outputs if name]
    needed += [value.name for value in graph.input]
    if any(name not in types for name in needed):
        inferred = onnx.shape_inference.infer_shapes(without_weights(network), data_prop=True)
        types |= {name: kind for name, kind in stated_types(inferred.graph).items() if name not in types}
    for name in needed:
        if name not in types:
            raise DataError(f"the shape of tensor {name!r} is not static; give every input a fixed shape")
    return types


def stated_types(graph: GraphProto) -> dict[str, TensorType]:
    """The static types that a graph states for its inputs, outputs and the tensors between."""
    types: dict[str, TensorType] = {}
    for values in (graph.input, graph.value_info, graph.output):
        for value in values:
            tensor = value.type.tensor_type
            if not tensor.elem_type or not tensor.HasField("shape"):
                continue
            dims = tensor.shape.dim
            shape = tuple(d.dim_value for d in dims)
            # a dimension of 0 is static when it is stated, symbolic or unknown when it is not
            if all(shape) or all(d.HasField("dim_value") for d in dims):
                types[value.name] = TensorType(tensor.elem_type, shape)
    return types


def without_weights(network: ModelProto, limit: int = 1024) -> ModelProto:
    """A copy whose large initialisers keep type and shape and lose their data, so that it is cheap to serialise."""
    graph = network.graph
    # before IR version 4 an initialiser had to be an input as well, and inference overlooks those that are not
    light = onnx.ModelProto(ir_version=max(network.ir_version, 8), opset_import=network.opset_import)
    light.functions.extend(network.functions)
    light.graph.name = graph.name or "graph"
    light.graph.node.extend(graph.node)
    light.graph.input.extend(graph.input)
    light.graph.output.extend(graph.output)
    light.graph.value_info.extend(graph.value_info)
    for tensor in graph.initializer:
        small = prod(tensor.dims) * bits_of(tensor.data_type) <= limit * 8
        if small and has_values(tensor) and not tensor.external_data:
            light.graph.initializer.append(tensor)
        else:
            light.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light
