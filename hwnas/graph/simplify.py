"""The same function with less graph: constants computed, operators that do nothing removed, names deterministic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from hwnas.graph.canonical import declare, ir_version
from hwnas.graph.folding import fold_constants, replace_nodes
from hwnas.graph.view import view

_PASSING = frozenset({"Identity", "Dropout"})


def simplify(network: ModelProto) -> ModelProto:
    """A network of the same function whose every operator runs and whose every tensor has a static type."""
    simple = ModelProto()
    simple.CopyFrom(network)
    simplify_in_place(simple)
    return simple


def simplify_in_place(network: ModelProto) -> None:
    """As `simplify`, without a second copy of the weights."""
    graph = network.graph
    fold_constants(network)
    _drop_passing(graph)
    _respell(network)
    drop_dead(graph)
    _rename(graph)
    _restate(network)


def _drop_passing(graph: GraphProto) -> None:
    """Remove Identity and Dropout, which in evaluation hand their operand on."""
    given_out = {value.name for value in graph.output}
    fed = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    source: dict[str, str] = {}
    renamed: dict[str, str] = {}
    for node in graph.node:
        if node.op_type not in _PASSING or node.domain:
            continue
        before, after = source.get(node.input[0], node.input[0]), node.output[0]
        if after not in given_out:
            source[after] = before
        elif before not in fed and before not in given_out and before not in renamed:
            renamed[before] = after  # the operator before gives the result out itself
    kept: list[NodeProto] = []
    for node in graph.node:
        passing = node.op_type in _PASSING and not node.domain
        before = source.get(node.input[0], node.input[0]) if passing else ""
        if passing and (node.output[0] in source or renamed.get(before) == node.output[0]):
            continue
        for k, name in enumerate(node.input):
            name = source.get(name, name)
            node.input[k] = renamed.get(name, name)
        for k, name in enumerate(node.output):
            node.output[k] = renamed.get(name, name)
        kept.append(node)
    replace_nodes(graph, kept)


def _respell(network: ModelProto) -> None:
    """One spelling where exporters have several: compilers know some better, and ids must not depend on values.

    A sum of two becomes Add, x * (c * (1 + erf)) becomes (x * (1 + erf)) * c, and a convolution without a bias gets
    one of zeros: torch drops the bias of a folded normalisation while it is zero, that is until it is trained.
    """
    graph = network.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    producer = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    scalars = {tensor.name for tensor in graph.initializer if not tensor.dims}
    for node in graph.node:
        if node.op_type == "Sum" and len(node.input) == 2 and not node.domain:
            node.op_type = "Add"
        if node.op_type == "Conv" and (len(node.input) < 3 or not node.input[2]):
            _add_zero_bias(graph, node, weights)
        if node.op_type != "Mul":
            continue
        for k in (0, 1):
            x, halved = node.input[1 - k], producer.get(node.input[k])
            if halved is None or halved.op_type != "Mul" or readers[node.input[k]] != 1:
                continue
            c = next((j for j in (0, 1) if halved.input[j] in scalars), None)
            if c is None or not _is_erf_sum(halved.input[1 - c], producer) or x in scalars:
                continue
            # the inner product keeps its name and becomes x * (1 + erf), which has the same shape
            scalar = halved.input[c]
            halved.input[c] = x
            node.input[1 - k] = scalar
            break


def _add_zero_bias(graph: GraphProto, node: NodeProto, weights: Mapping[str, TensorProto]) -> None:
    weight = weights.get(node.input[1])
    if weight is None or weight.data_type != TensorProto.FLOAT:
        return
    bias = graph.initializer.add(data_type=weight.data_type, dims=weight.dims[:1], name=f"{node.output[0]}_bias")
    while bias.name in weights:
        bias.name += "_"
    bias.raw_data = bytes(4 * weight.dims[0])
    del node.input[2:]
    node.input.append(bias.name)


def _is_erf_sum(name: str, producer: Mapping[str, NodeProto]) -> bool:
    added = producer.get(name)
    if added is None or added.op_type != "Add":
        return False
    return any((source := producer.get(operand)) is not None and source.op_type == "Erf" for operand in added.input)


def drop_dead(graph: GraphProto) -> None:
    """Remove operators and initialisers that no output needs, and inputs that are initialisers, in place."""
    needed = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output):
            kept.append(node)
            needed.update(node.input)
    replace_nodes(graph, reversed(kept))
    names = {tensor.name for tensor in graph.initializer}
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name not in needed:
            del graph.initializer[i]
    for i in reversed(range(len(graph.input))):
        if graph.input[i].name in names:
            del graph.input[i]


def _rename(graph: GraphProto) -> None:
    """Number operators and the tensors between them; inputs, outputs and weights keep their names."""
    taken = {v.name for v in (*graph.input, *graph.output)} | {t.name for t in graph.initializer}
    names: dict[str, str] = {}
    for i, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{i}"
        for k, name in enumerate(node.input):
            if name in names:
                node.input[k] = names[name]
        for k, name in enumerate(node.output):
            if not name or name in taken:
                continue
            fresh = f"t{i}" if k == 0 else f"t{i}_{k}"
            while fresh in taken:
                fresh += "_"
            names[name] = node.output[k] = fresh


def _restate(network: ModelProto) -> None:
    """Keep only what is needed: no documentation, no metadata, every tensor declared once with its static type."""
    graph = network.graph
    del graph.value_info[:]
    types = view(network)
    for field in ("doc_string", "producer_version", "domain", "model_version", "metadata_props", "graph.doc_string"):
        owner, _, name = field.rpartition(".")
        (getattr(network, owner) if owner else network).ClearField(name)
    graph.ClearField("metadata_props")
    network.producer_name, graph.name = "hwnas", "network"
    network.ir_version = ir_version(types.opset)
    del network.opset_import[:]
    network.opset_import.add(domain="", version=types.opset)
    given_out = set(types.outputs)
    for values in (graph.input, graph.output):
        names = [value.name for value in values]
        del values[:]
        for name in names:
            declare(values.add(), name, types.types[name])
    for node in graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
        for name in node.output:
            if name and name not in given_out:
                declare(graph.value_info.add(), name, types.types[name])
    for tensor in graph.initializer:
        tensor.ClearField("doc_string")
        tensor.ClearField("metadata_props")
