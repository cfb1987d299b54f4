"""Pieces of a network as networks of their own, with the tensor names they have in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnx import ModelProto, NodeProto, TensorProto

from hwnas.graph.canonical import declare
from hwnas.graph.view import Operator, View

if TYPE_CHECKING:
    from onnx import ValueInfoProto


class Cutter:
    """Cuts pieces out of a network whose view may hold copies of its DequantizeLinear operators."""

    def __init__(self, network: ModelProto, graph: View) -> None:
        self._network, self._graph = network, graph
        nodes: Sequence[NodeProto] = network.graph.node
        self._by_result = {next(filter(None, node.output), ""): node for node in nodes}
        self._by_operands = {tuple(node.input): node for node in nodes if node.op_type == "DequantizeLinear"}

    def piece(self, name: str, operators: Sequence[int], inputs: Sequence[str], outputs: Sequence[str]) -> ModelProto:
        """The operators (indices in topological order) as a network that takes and gives the named tensors."""
        graph = self._graph
        made = ModelProto(ir_version=self._network.ir_version, producer_name="hwnas")
        made.opset_import.extend(self._network.opset_import)
        made.graph.name = name
        bare: dict[str, TensorProto] = {}
        for i in operators:
            operator = graph.operators[i]
            node = made.graph.node.add()
            node.CopyFrom(self._source(operator))
            node.input[:], node.output[:] = operator.inputs, operator.outputs
            bare |= {n: graph.constants[n] for n in operator.inputs if n in graph.constants}
            for result in operator.outputs:
                if result and result not in outputs:
                    declare(made.graph.value_info.add(), result, graph.types[result])
        for name, tensor in bare.items():
            copied = made.graph.initializer.add()
            copied.CopyFrom(tensor)
            copied.name = name
        for names, values in ((inputs, made.graph.input), (outputs, made.graph.output)):
            for name in names:
                value: ValueInfoProto = values.add()
                declare(value, name, graph.types[name])
        return made

    def _source(self, operator: Operator) -> NodeProto:
        """The node that an operator was read from; a copied DequantizeLinear is known by its operands."""
        node = self._by_result.get(next(filter(None, operator.outputs), ""))
        return self._by_operands[operator.inputs] if node is None else node
