"""Constant folding: operators on constants become constants, and what scales a convolution moves into its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from math import prod

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from hwnas.errors import UnsupportedOperator
from hwnas.graph.view import (
    TensorType,
    attribute_value,
    constant_tensor,
    has_values,
    opset_of,
    read_operator,
    stated_types,
    without_weights,
)

MAX_FOLDED_BYTES = 2**31 - 2**20
"""Constant expressions may not make more than this in total: ONNX itself cannot store more in one file."""

_KEPT = frozenset({"QuantizeLinear", "DequantizeLinear"})
_RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
_SHAPE_READERS = frozenset({"Shape", "Size"})


def fold_constants(network: ModelProto) -> None:
    """Replace operators whose operands are all constant, and reads of static shapes, by their values, in place.

    Raises UnsupportedOperator where a constant expression would fill the memory.
    """
    while True:
        _fold_once(network)
        if not any(node.op_type in _SHAPE_READERS for node in network.graph.node) or not _fold_shapes(network):
            return


def _fold_once(network: ModelProto) -> None:
    graph, opset = network.graph, opset_of(network)
    known = {tensor.name: tensor for tensor in graph.initializer}
    kept: list[NodeProto] = []
    total = 0
    for node in graph.node:
        operands = [name for name in node.input if name]
        if node.op_type == "Constant" and not node.domain:
            tensor = constant_tensor(read_operator(node))
            _add_constant(graph, known, node.output[0], tensor)
        elif node.op_type in _KEPT or node.op_type in _RANDOM or node.domain not in ("", "ai.onnx"):
            kept.append(node)
        elif all(name in known and has_values(known[name]) for name in operands):
            for name, array in zip(node.output, _evaluate(node, known, opset)):
                total += array.nbytes
                if total > MAX_FOLDED_BYTES:
                    raise UnsupportedOperator(f"{node.op_type} {node.name!r}", "constant expressions exceed 2 GiB")
                if name:
                    _add_constant(graph, known, name, numpy_helper.from_array(np.ascontiguousarray(array)))
        else:
            kept.append(node)
    replace_nodes(graph, kept)


def _add_constant(graph: GraphProto, known: dict[str, TensorProto], name: str, tensor: TensorProto) -> None:
    added = graph.initializer.add()
    added.CopyFrom(tensor)
    added.name = name
    known[name] = added


def replace_nodes(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    """Set the nodes of a graph, in place."""
    kept = list(nodes)
    if len(kept) != len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)


def _evaluate(node: NodeProto, known: Mapping[str, TensorProto], opset: int) -> list[np.ndarray]:
    if node.op_type == "ConstantOfShape":
        return [_filled(node, known)]
    from onnx.reference import ReferenceEvaluator

    feeds = {name: numpy_helper.to_array(known[name]) for name in node.input if name}
    inputs = [onnx.helper.make_tensor_value_info(n, known[n].data_type, known[n].dims) for n in feeds]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    body = onnx.helper.make_graph([node], "constant", inputs, outputs)
    little = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        return [np.asarray(array) for array in ReferenceEvaluator(little).run(None, feeds)]
    except Exception as error:  # the evaluator raises whatever numpy or its own code meets
        raise UnsupportedOperator(f"{node.op_type} {node.name!r}", f"cannot be computed ahead: {error}") from error


def _filled(node: NodeProto, known: Mapping[str, TensorProto]) -> np.ndarray:
    shape = [int(size) for size in numpy_helper.to_array(known[node.input[0]]).reshape(-1)]
    if any(size < 0 for size in shape) or prod(shape) * 8 > MAX_FOLDED_BYTES:
        raise UnsupportedOperator(f"{node.op_type} {node.name!r}", f"it makes a constant of shape {shape}")
    for attribute in node.attribute:
        if attribute.name == "value":
            return np.full(shape, numpy_helper.to_array(attribute.t).reshape(-1)[0])
    return np.zeros(shape, np.float32)


def _inferred(network: ModelProto) -> dict[str, TensorType]:
    return stated_types(onnx.shape_inference.infer_shapes(without_weights(network), data_prop=True).graph)


def _fold_shapes(network: ModelProto) -> bool:
    """Replace reads of the shape of a tensor whose shape is known; whether there were any."""
    shapes = {name: kind.shape for name, kind in _inferred(network).items()}
    graph = network.graph
    shapes.update({tensor.name: tuple(tensor.dims) for tensor in graph.initializer})
    kept = []
    for node in graph.node:
        if node.op_type not in _SHAPE_READERS or node.input[0] not in shapes:
            kept.append(node)
            continue
        shape = np.asarray(shapes[node.input[0]], np.int64)
        if node.op_type == "Shape":
            bounds = {a.name: a.i for a in node.attribute}
            shape = shape[bounds.get("start", 0) : bounds.get("end", len(shape))]
        else:
            shape = np.asarray(np.prod(shape), np.int64)
        graph.initializer.append(numpy_helper.from_array(shape, node.output[0]))
    changed = len(kept) < len(graph.node)
    replace_nodes(graph, kept)
    return changed


def fold_channel_scales(network: ModelProto) -> None:
    """Move BatchNormalization, Mul and Add by channel constants into what comes before, in place.

    With y = W*x + b, scale s and shift h per output channel: W' = s W, b' = s b + h. A BatchNormalization that
    follows no convolution takes in the Mul and Add behind it in the same way.
    """
    graph = network.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    ranks = {name: len(kind.shape) for name, kind in _inferred(network).items()}
    producer: dict[str, NodeProto] = {}
    kept: list[NodeProto] = []
    for node in graph.node:
        operand = next((name for name in node.input if name in producer), "")
        before = producer.get(operand)
        if before is not None and before.op_type in ("Conv", "BatchNormalization") and readers[operand] == 1:
            change = _channel_change(node, operand, before, constants, ranks.get(operand, 0))
            if change is not None and _rescale(graph, before, constants, *change):
                before.output[0] = node.output[0]
                producer[node.output[0]] = before
                continue
        kept.append(node)
        for name in node.output:
            producer[name] = node
    replace_nodes(graph, kept)


def _channel_change(
    node: NodeProto, operand: str, before: NodeProto, constants: Mapping[str, TensorProto], rank: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """The scale and shift per channel that an operator applies to the result before; None if it is not one."""
    if node.domain or len(before.output) != 1 or any(_values(constants, n) is None for n in before.input[1:] if n):
        return None
    if node.op_type == "BatchNormalization" and len(node.output) == 1 and before.op_type == "Conv":
        values = [_values(constants, name) for name in node.input[1:5]]
        if any(value is None for value in values):
            return None
        scale, bias, mean, variance = (value.astype(np.float64) for value in values if value is not None)
        epsilon = next((attribute_value(a) for a in node.attribute if a.name == "epsilon"), 1e-5)
        assert isinstance(epsilon, float)
        factor = scale / np.sqrt(variance + epsilon)
        return factor, bias - mean * factor
    if node.op_type in ("Mul", "Add"):
        other = _values(constants, node.input[1] if node.input[0] == operand else node.input[0])
        weight = constants[before.input[1]]
        if other is None or rank < 2 or other.ndim > rank:
            return None
        dims = (1,) * (rank - other.ndim) + other.shape
        if prod(dims) != dims[1] or dims[1] not in (1, weight.dims[0]):
            return None
        row = np.broadcast_to(other.astype(np.float64).reshape(-1), (weight.dims[0],))
        return (row, np.zeros(len(row))) if node.op_type == "Mul" else (np.ones(len(row)), row)
    return None


def _values(constants: Mapping[str, TensorProto], name: str) -> np.ndarray | None:
    tensor = constants.get(name)
    return None if tensor is None or not has_values(tensor) else numpy_helper.to_array(tensor)


def _rescale(
    graph: GraphProto, before: NodeProto, constants: dict[str, TensorProto], scale: np.ndarray, shift: np.ndarray
) -> bool:
    weight = _values(constants, before.input[1])
    if weight is None or not np.issubdtype(weight.dtype, np.floating):
        return False
    bias = _values(constants, before.input[2]) if len(before.input) > 2 else np.zeros(len(scale))
    if bias is None:
        return False
    factors = scale.reshape((-1,) + (1,) * (weight.ndim - 1))
    stem = before.output[0]
    changed = (weight * factors, bias.astype(np.float64) * scale + shift)
    for position, suffix, array in zip((1, 2), ("weight", "bias"), changed):
        name = f"{stem}_{suffix}"
        while name in constants:
            name += "_"
        tensor = graph.initializer.add()
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array.astype(weight.dtype)), name))
        constants[name] = tensor
        while len(before.input) <= position:
            before.input.append("")
        before.input[position] = name
    return True
