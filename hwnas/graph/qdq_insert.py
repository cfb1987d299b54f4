"""Writes the quantised form of an fp32 network: QuantizeLinear and DequantizeLinear around every planned operator.

One form, whoever chose the scales: uint8 activations with one scale and zero point, int8 weights with a scale for each
output channel, int32 biases with the scale of their products, one DequantizeLinear for each operand, so that every
operator with its clamp and its QuantizeLinear is a kernel of its own. Every tensor is declared with its static type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from hwnas.errors import BuildError
from hwnas.graph.canonical import declare, empty_network
from hwnas.graph.qdq_plan import SUMS, Plan, results
from hwnas.graph.scales import MAX_APART, MAX_EXPONENT, ScaleRule, Step, exponent_of, integer_weights, symmetric_scale
from hwnas.graph.view import Operator, TensorType, View

if TYPE_CHECKING:
    from onnx import ModelProto


class Insertion:
    """Writes one quantised network; `steps` has the step of every root of the plan.

    `fit` chooses the exponents of weights by least squares, else by their largest.
    """

    def __init__(
        self,
        network: ModelProto,
        graph: View,
        plan: Plan,
        steps: Mapping[str, Step],
        rule: ScaleRule,
        fit: bool = True,
    ) -> None:
        self._source, self._view, self._plan, self._steps, self._rule = network, graph, plan, steps, rule
        self._fit = fit
        self._nodes = [node for node in network.graph.node if node.op_type != "Constant" or node.domain]
        self.network = empty_network(graph.opset)
        self._graph = self.network.graph
        self._taken = {*graph.types, *graph.inputs, *graph.outputs}
        self._written: dict[str, str] = {}
        self._stored: dict[str, str] = {}

    def write(self, quantised_input: bool, quantised_output: bool) -> ModelProto:
        """The quantised network. Raises BuildError for weights that are not finite or too large."""
        view, plan = self._view, self._plan
        self.network.producer_name, self._graph.name = "hwnas", self._source.graph.name
        for name in view.inputs:
            declare(self._graph.input.add(), name, _uint8(view, name) if quantised_input else view.types[name])
            if quantised_input:
                self._stored[name] = name
            elif name in plan.roots:
                self._quantise(name, name)
        for i, operator in enumerate(view.operators):
            if i in plan.operators:
                self._integer(i, operator, quantised_output)
            elif i not in plan.clamps:
                self._float(i, operator, quantised_output)
        for name in view.outputs:
            self._give_out(name, quantised_output)
        return self.network

    def _integer(self, i: int, operator: Operator, quantised_output: bool) -> None:
        copy = NodeProto()
        copy.CopyFrom(self._nodes[i])
        if not self._weigh(operator, copy):
            copy.input[:] = [self._operand(operator, name) for name in operator.inputs]
        outputs = [self._raw(name) if name else "" for name in operator.outputs]
        copy.output[:] = outputs
        self._add(copy, {new: self._view.types[old] for old, new in zip(operator.outputs, outputs) if old})
        given = results(self._view, i, self._plan.clamps)
        if given and given[0] not in operator.outputs:
            clamp = NodeProto()
            clamp.CopyFrom(self._nodes[self._view.producer[given[0]]])
            clamp.input[:] = [outputs[0], *(self._constant(name) if name else "" for name in clamp.input[1:])]
            clamp.output[:] = [raw := self._raw(given[0])]
            self._add(clamp, {raw: self._view.types[given[0]]})
            outputs = [raw]
        for name, raw in zip(given, [o for o in outputs if o]):
            self._quantise(name, raw, quantised_output)

    def _float(self, i: int, operator: Operator, quantised_output: bool) -> None:
        copy = NodeProto()
        copy.CopyFrom(self._nodes[i])
        copy.input[:] = [self._as_float(name) for name in operator.inputs]
        outputs = {name: self._raw(name) if name in self._plan.roots else name for name in operator.outputs if name}
        copy.output[:] = [outputs.get(name, "") for name in operator.outputs]
        self._add(copy, {new: self._view.types[old] for old, new in outputs.items()})
        for name, raw in outputs.items():
            if name in self._plan.roots:
                self._quantise(name, raw, quantised_output)

    def _give_out(self, name: str, quantised_output: bool) -> None:
        kind = self._view.types[name]
        stored = self._stored.get(name)
        if stored == name:
            kind = _uint8(self._view, name)
        elif stored is not None and name not in self._view.inputs:
            self._add(self._dequantise_node(name, name), {})
        declare(self._graph.output.add(), name, kind)

    def _weigh(self, operator: Operator, copy: NodeProto) -> bool:
        """Give a product its integer weights; a batch norm becomes a depthwise 1x1 convolution. False for others."""
        found = affine(self._view, operator)
        if found is None:
            return False
        weights, bias, axis = found
        label = str(operator)
        if not np.isfinite(weights).all() or (bias is not None and not np.isfinite(bias).all()):
            raise BuildError("quantize", f"{label} cannot be quantised: its weights are not finite")
        step = self._steps[self._plan.roots[operator.inputs[0]]]
        try:
            stored = integer_weights(weights, bias, axis, step, self._rule, self._fit)
        except BuildError as error:
            raise BuildError("quantize", f"{label} cannot be quantised: {error.log}") from None
        name = operator.inputs[1]
        names = [
            self._operand(operator, operator.inputs[0]),
            self._stored_constant(f"{name}_int8", stored.values, stored.scales, axis),
        ]
        if stored.bias is not None:
            names.append(self._stored_constant(f"{operator.outputs[0]}_bias", stored.bias, stored.bias_scales, 0))
        copy.input[:] = names
        if operator.op == "BatchNormalization":
            copy.op_type = "Conv"
            del copy.attribute[:]
            copy.attribute.append(helper.make_attribute("group", len(weights)))
        elif operator.op == "Gemm":
            kept = [a for a in copy.attribute if a.name == "transB"]
            del copy.attribute[:]
            copy.attribute.extend(kept)
        return True

    def _operand(self, operator: Operator, name: str) -> str:
        """The float tensor that an integer operator reads for one of its operands."""
        if name in self._plan.roots:
            return self._dequantised(name)
        array = self._view.array(name) if name else None
        kind = self._view.types.get(name)
        if array is None or kind is None or kind.dtype != TensorProto.FLOAT or kind.elements == 1:
            return self._constant(name) if name in self._view.constants else name
        if not np.isfinite(array).all():
            raise BuildError("quantize", f"{operator} cannot be quantised: operand {name!r} is not finite")
        apart = [exponent_of(self._steps[r].scale) for n in operator.inputs if (r := self._plan.roots.get(n, ""))]
        least = max(apart) - MAX_APART if operator.op in SUMS and self._rule == "power-of-two" else -MAX_EXPONENT
        scale = np.float32(symmetric_scale(array, self._rule, least))
        stored = np.clip(np.rint(array / np.float64(scale)), -127, 127).astype(np.int8)
        return self._stored_constant(f"{name}_int8", stored, np.asarray(scale), None)

    def _as_float(self, name: str) -> str:
        if name in self._view.constants:
            return self._constant(name)
        return self._dequantised(name) if name in self._stored else name

    def _quantise(self, name: str, raw: str, to_output: bool = False) -> None:
        """Store a tensor of the plan as uint8; it takes the graph's name for it where it is given out so."""
        stored = name if to_output and name in self._view.outputs else self._fresh(f"{name}_uint8")
        node = NodeProto(op_type="QuantizeLinear", input=[raw, *self._parameters(name)], output=[stored])
        self._add(node, {stored: _uint8(self._view, name)})
        self._stored[name] = stored

    def _dequantised(self, name: str) -> str:
        if name not in self._stored:
            raise AssertionError(f"{name} is read before it is made")
        node = self._dequantise_node(name, self._fresh(f"{name}_float"))
        self._add(node, {node.output[0]: self._view.types[name]})
        return str(node.output[0])

    def _dequantise_node(self, name: str, result: str) -> NodeProto:
        stored = [self._stored[name], *self._parameters(name)]
        return NodeProto(op_type="DequantizeLinear", input=stored, output=[result])

    def _parameters(self, name: str) -> list[str]:
        """The constants that hold a tensor's scale and zero point; tensors that share them share the constants."""
        root = self._plan.roots[name]
        step = self._steps[root]
        return [
            self._initializer(f"{root}_scale", np.asarray(step.scale, np.float32)),
            self._initializer(f"{root}_zero", np.asarray(step.zero_point, np.uint8)),
        ]

    def _stored_constant(self, name: str, values: np.ndarray, scales: np.ndarray, axis: int | None) -> str:
        """A DequantizeLinear of stored integers; without a zero point, which is 0."""
        stored = self._new_initializer(name, values)
        node = NodeProto(op_type="DequantizeLinear")
        node.input[:] = [stored, self._new_initializer(f"{name}_scale", scales.astype(np.float32))]
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        node.output[:] = [result := self._fresh(f"{name}_float")]
        self._add(node, {result: TensorType(TensorProto.FLOAT, values.shape)})
        return result

    def _constant(self, name: str) -> str:
        if name not in self._written:
            tensor = self._graph.initializer.add()
            tensor.CopyFrom(self._view.constants[name])
            tensor.name = self._written[name] = name
        return name

    def _initializer(self, key: str, values: np.ndarray) -> str:
        if key not in self._written:
            self._written[key] = self._new_initializer(key, values)
        return self._written[key]

    def _new_initializer(self, name: str, values: np.ndarray) -> str:
        fresh = self._fresh(name)
        self._graph.initializer.append(numpy_helper.from_array(values, fresh))
        return fresh

    def _raw(self, name: str) -> str:
        """What a tensor is called before it is quantised; the graph's outputs keep their names for what is given out."""
        return self._fresh(f"{name}_raw") if name in self._view.outputs else name

    def _fresh(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def _add(self, node: NodeProto, made: Mapping[str, TensorType]) -> None:
        node.name = f"{node.op_type}_{len(self._graph.node)}"
        self._graph.node.append(node)
        for name, kind in made.items():
            if name not in self._view.outputs:
                declare(self._graph.value_info.add(), name, kind)


def affine(view: View, operator: Operator) -> tuple[np.ndarray, np.ndarray | None, int] | None:
    """Weights, bias and the axis of output channels of an operator that multiplies by constants; else None."""
    if operator.op == "Conv":
        weights = _values(view, operator.inputs[1])
        bias = operator.inputs[2] if len(operator.inputs) > 2 else ""
        return weights, _values(view, bias) if bias else np.zeros(len(weights)), 0
    if operator.op == "Gemm":
        alpha, beta = (float(operator.attributes.get(name, 1.0)) for name in ("alpha", "beta"))  # type: ignore[arg-type]
        weights = _values(view, operator.inputs[1]) * alpha
        axis = 0 if operator.attributes.get("transB", 0) else 1
        bias = operator.inputs[2] if len(operator.inputs) > 2 else ""
        features = weights.shape[axis]
        shift = np.broadcast_to(_values(view, bias).reshape(-1) if bias else np.zeros(1), (features,))
        return weights, shift * beta, axis
    if operator.op == "MatMul" and operator.inputs[1] in view.constants:
        return _values(view, operator.inputs[1]), None, 1
    if operator.op == "BatchNormalization":
        scale, shift, mean, variance = (_values(view, name).astype(np.float64) for name in operator.inputs[1:5])
        epsilon = float(operator.attributes.get("epsilon", 1e-5))  # type: ignore[arg-type]
        factor = scale / np.sqrt(variance + epsilon)
        rank = len(view.types[operator.inputs[0]].shape)
        return factor.reshape(-1, *([1] * (rank - 1))), shift - mean * factor, 0
    return None


def _values(view: View, name: str) -> np.ndarray:
    array = view.array(name)
    assert array is not None, "the plan has checked that weights have values"
    return array


def _uint8(view: View, name: str) -> TensorType:
    return TensorType(TensorProto.UINT8, view.types[name].shape)
