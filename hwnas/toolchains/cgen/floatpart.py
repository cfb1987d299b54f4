"""The part of a kernel that TVM's own operators compute: all of an fp32 kernel, and of a QDQ group without a recipe
what stands before its QuantizeLinear. Operators that only move elements run on the integers themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, helper
from onnx.helper import tensor_dtype_to_np_dtype

from hwnas.graph.canonical import declare, empty_network, keeps_values
from hwnas.graph.fusion import Kernel
from hwnas.graph.quantised import Group, grid_of
from hwnas.graph.view import Operator, TensorType, View
from hwnas.toolchains.cgen.recipes import Array

_MOVES = frozenset(
    {
        "Transpose",
        "Slice",
        "DepthToSpace",
        "SpaceToDepth",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Expand",
        "Tile",
    }
)


@dataclass(frozen=True, slots=True)
class FloatPart:
    """Operators in order, what they read and give out, and their weights, which become parameters.

    Weights in `transposed` are stored with their two axes swapped; all other constants are part of the code.
    """

    operators: tuple[Operator, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    types: Mapping[str, TensorType]
    weights: tuple[str, ...]
    transposed: frozenset[str]

    def arrays(self, graph: View) -> tuple[Array, ...]:
        """The weights as they are emitted."""
        return tuple(
            Array(np.ascontiguousarray(_values(graph, name).T), f"{name}/transposed")
            if name in self.transposed
            else Array(_values(graph, name), name)
            for name in self.weights
        )

    def network(self, graph: View) -> ModelProto:
        """The part as a network whose inputs are what it reads, then its weights; equal parts give equal bytes."""
        network = empty_network(graph.opset)
        proto = network.graph
        names: dict[str, str] = {"": ""}

        def short(name: str) -> str:
            return names.setdefault(name, f"t{len(names)}")

        for name in (*self.inputs, *self.weights):
            declare(proto.input.add(), short(name), self.types[name])
        for name in self.outputs:
            declare(proto.output.add(), short(name), self.types[name])
        kept: dict[str, None] = {}
        for operator in self.operators:
            node = proto.node.add(op_type=operator.op, domain=operator.domain)
            node.input.extend(short(name) for name in operator.inputs)
            node.output.extend(short(name) for name in operator.outputs)
            node.attribute.extend(helper.make_attribute(key, value) for key, value in operator.attributes.items())
            for name in operator.outputs:
                if name and name not in self.outputs:
                    declare(proto.value_info.add(), short(name), self.types[name])
            kept |= {name: None for name in operator.inputs if name in graph.constants and name not in self.weights}
        for name in kept:
            tensor = proto.initializer.add()
            tensor.CopyFrom(graph.constants[name])
            tensor.name = short(name)
        return network


def float_part(graph: View, kernel: Kernel, group: Group | None) -> FloatPart:
    """The float part of a kernel; a QuantizeLinear at its end is left out, unless the operator only moves integers."""
    operators = [graph.operators[i] for i in kernel.operators]
    if group is not None and (moved := _moved(graph, kernel, operators)) is not None:
        return moved
    outputs = kernel.outputs
    if ends_quantised(operators, kernel):
        outputs = (operators.pop().inputs[0],)
    turned = frozenset(
        o.inputs[1]
        for o in operators
        if o.op == "Gemm" and o.attributes.get("transB", 0) and o.inputs[1] in graph.constants
    )
    if turned:
        operators = [
            replace(o, attributes={**o.attributes, "transB": 0}) if turned.intersection(o.inputs[1:2]) else o
            for o in operators
        ]
    names = [name for o in operators for name in (*o.inputs, *o.outputs) if name]
    types = {name: graph.types[name] for name in (*names, *kernel.inputs, *outputs)}
    types |= {name: types[name]._replace(shape=types[name].shape[::-1]) for name in turned}
    return FloatPart(tuple(operators), kernel.inputs, outputs, types, _weights(graph, operators), turned)


def ends_quantised(operators: list[Operator], kernel: Kernel) -> bool:
    """Whether all that a kernel computes goes through one QuantizeLinear at its end."""
    sinks = [o for o in operators if o.op == "QuantizeLinear"]
    return len(sinks) == 1 and sinks[0] is operators[-1] and kernel.outputs == (sinks[0].outputs[0],)


def _moved(graph: View, kernel: Kernel, operators: list[Operator]) -> FloatPart | None:
    """A group that moves elements of one grid: the operator alone, on integers."""
    if [o.op in _MOVES for o in operators] != [False, True, False]:
        return None
    source, move, sink = operators
    before, after = grid_of(graph, source), grid_of(graph, sink)
    same = before.dtype == after.dtype and before.scale.size == after.scale.size == 1
    if not same or before.scale[0] != after.scale[0] or before.zero[0] != after.zero[0]:
        return None
    stripped = replace(move, inputs=(source.inputs[0], *move.inputs[1:]), outputs=sink.outputs)
    types = {name: graph.types[name] for name in (*stripped.inputs, *stripped.outputs) if name}
    return FloatPart((stripped,), (source.inputs[0],), sink.outputs, types, (), frozenset())


def _weights(graph: View, operators: list[Operator]) -> tuple[str, ...]:
    """Constants that stay parameters: weights, not shapes, bounds, scales or zero points."""
    found: dict[str, None] = {}
    for operator in operators:
        for position, name in enumerate(operator.inputs):
            if not name or name not in graph.constants:
                continue
            if operator.op in ("QuantizeLinear", "DequantizeLinear") and position > 0:
                continue
            if not keeps_values(operator.op, position, graph.types[name]):
                found[name] = None
    return tuple(found)


def _values(graph: View, name: str) -> np.ndarray:
    values = graph.array(name)
    if values is None:
        kind = graph.types[name]
        values = np.zeros(kind.shape, tensor_dtype_to_np_dtype(kind.dtype))
    return np.ascontiguousarray(values)
