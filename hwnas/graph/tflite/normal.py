"""Quantised graphs in the form that is read as kernels, whoever wrote them. What they compute stays the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import numpy_helper

from hwnas.graph.tflite.emission import HIGH
from hwnas.graph.view import Operator, TensorType, View


def normal_form(graph: View) -> View:
    """The same graph in the form that is read as kernels: without operators that no output needs.

    Sums and products with one float number read it as a stored integer with a scale; a change of grid has an Identity
    between its DequantizeLinear and its QuantizeLinear.
    """
    operators: list[Operator] = []
    constants, types = dict(graph.constants), dict(graph.types)
    for operator in _needed(graph):
        inputs = list(operator.inputs)
        quantised = [k for k, name in enumerate(inputs) if _is_dequantised(graph, name)]
        if operator.op == "QuantizeLinear" and quantised == [0]:
            inputs[0] = f"{operator.outputs[0]}#same"
            types[inputs[0]] = types[operator.inputs[0]]
            operators.append(Operator("Identity", (operator.inputs[0],), (inputs[0],), {}, "", operator.name))
        for k, name in enumerate(inputs if operator.op in ("Add", "Sub", "Mul") and quantised else ()):
            value = graph.scalar(name)
            if value is None or not np.isfinite(value):
                continue
            stored = np.full(graph.types[name].shape, int(np.sign(value)) * HIGH, np.int8)
            scale = np.array(abs(value) / HIGH or 1.0, np.float32)
            for label, array in ((f"{name}#int8", stored), (f"{name}#scale", scale)):
                constants[label] = numpy_helper.from_array(array, label)
                types[label] = TensorType(constants[label].data_type, array.shape)
            inputs[k] = f"{name}#{len(operators)}"
            types[inputs[k]] = types[name]
            operators.append(Operator("DequantizeLinear", (f"{name}#int8", f"{name}#scale"), (inputs[k],), {}))
        operators.append(replace(operator, inputs=tuple(inputs)))
    return View(operators, graph.inputs, graph.outputs, types, constants, graph.opset)


def _needed(graph: View) -> list[Operator]:
    """The operators that some output of the graph depends on."""
    wanted = set(graph.outputs)
    kept = []
    for operator in reversed(graph.operators):
        if wanted.intersection(operator.outputs):
            wanted.update(operator.inputs)
            kept.append(operator)
    return kept[::-1]


def _is_dequantised(graph: View, name: str) -> bool:
    maker = graph.producer.get(name)
    return maker is not None and graph.operators[maker].op == "DequantizeLinear"
