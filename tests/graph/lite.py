"""What LiteRT computes with the file of a quantised network, beside what onnxruntime computes with the network."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, helper

from hwnas.graph.session import open_session
from hwnas.graph.tflite import tflite_bytes

Inputs = Sequence[np.ndarray]


@dataclass(frozen=True)
class Agreement:
    """How far outputs lie apart, in quantisation steps, and what both computed (images x outputs)."""

    steps: np.ndarray
    ours: np.ndarray
    theirs: np.ndarray

    @property
    def most(self) -> float:
        return float(self.steps.max())

    def within(self, steps: float) -> float:
        """The share of outputs that differ by so many steps at most."""
        return float((self.steps < steps + 0.01).mean())


def in_litert(
    data: bytes, images: Sequence[Inputs], xnnpack: bool = True
) -> tuple[list[list[np.ndarray]], list[float]]:
    """Outputs for each image as floats in ONNX's order of axes, and the scale of each output.

    Integers of inputs are taken as stored (uint8 is shifted); without `xnnpack`, LiteRT's own kernels compute.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = OpResolverType.BUILTIN if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    litert = Interpreter(model_content=data, num_threads=1, experimental_op_resolver_type=kernels)
    litert.allocate_tensors()
    found = []
    for image in images:
        for detail, x in zip(litert.get_input_details(), image, strict=True):
            scale, zero = detail["quantization"]
            if x.dtype == np.float32:
                x = np.clip(np.rint(x / np.float32(scale)) + zero, -128, 127)
            elif x.dtype == np.uint8:
                x = x.astype(np.int16) - 128
            stored = x.astype(np.int8)
            litert.set_tensor(detail["index"], stored.transpose(0, 2, 3, 1) if x.ndim == 4 else stored)
        litert.invoke()
        outputs = []
        for detail in litert.get_output_details():
            scale, zero = detail["quantization"]
            y = (litert.get_tensor(detail["index"]).astype(np.int32) - zero) * np.float32(scale)
            outputs.append(y.transpose(0, 3, 1, 2) if y.ndim == 4 else y)
        found.append(outputs)
    return found, [float(d["quantization"][0]) for d in litert.get_output_details()]


def in_onnxruntime(network: ModelProto, images: Sequence[Inputs]) -> list[list[np.ndarray]]:
    session = open_session(network.SerializeToString(), {"threads": 1, "graph_optimization": "none"})
    names = [i.name for i in session.get_inputs()]
    return [[np.asarray(y) for y in session.run(None, dict(zip(names, image, strict=True)))] for image in images]


def agreement(
    network: ModelProto, images: Sequence[Inputs], max_stride: int | None = None, xnnpack: bool = True
) -> Agreement:
    """Run a network with float outputs both ways."""
    ours, scales = in_litert(tflite_bytes(network, max_stride), images, xnnpack)
    theirs = in_onnxruntime(network, images)
    steps = [
        np.abs(a - b).reshape(-1) / scale
        for mine, other in zip(ours, theirs, strict=True)
        for a, b, scale in zip(mine, other, scales, strict=True)
    ]
    flat = [np.array([np.concatenate([y.reshape(-1) for y in image]) for image in run]) for run in (ours, theirs)]
    return Agreement(np.concatenate(steps), flat[0], flat[1])


@dataclass(frozen=True)
class KernelNetwork:
    """One quantised kernel of a network, standing alone: from stored tensors to a float of its own grid."""

    result: str
    operators: str
    inputs: tuple[str, ...]
    network: ModelProto


def kernel_networks(network: ModelProto) -> list[KernelNetwork]:
    """Every kernel of a quantised network that does not read the network's float inputs."""
    graph = network.graph
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    kinds = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}
    given = {value.name for value in graph.input}
    found = []
    for last in graph.node:
        if last.op_type != "QuantizeLinear" or last.input[0] in given:
            continue
        nodes, inputs = _between(last.input[0], makers, set(constants))
        real = helper.make_node("DequantizeLinear", [last.output[0], *last.input[1:]], ["real"])
        shape = [d.dim_value for d in kinds[last.output[0]].type.tensor_type.shape.dim]
        nodes += [last, real]
        used = {name for node in nodes for name in node.input}
        inner = [kinds[o] for node in nodes for o in node.output if o in kinds]
        alone = helper.make_graph(
            nodes, "kernel", [kinds[name] for name in inputs], [helper.make_tensor_value_info("real", 1, shape)],
            [tensor for name, tensor in constants.items() if name in used], value_info=inner,
        )  # fmt: skip
        core = [n.op_type for n in nodes if n.op_type not in ("DequantizeLinear", "QuantizeLinear")]
        found.append(
            KernelNetwork(
                last.output[0], "+".join(core), tuple(inputs),
                helper.make_model(alone, opset_imports=network.opset_import, ir_version=network.ir_version),
            )
        )  # fmt: skip
    return found


def _between(
    name: str, makers: Mapping[str, NodeProto], constants: Container[str]
) -> tuple[list[NodeProto], dict[str, None]]:
    """The nodes that make a float tensor from stored ones, in order, and the stored ones."""
    nodes: dict[str, NodeProto] = {}
    inputs: dict[str, None] = {}

    def collect(name: str) -> None:
        maker = makers.get(name)
        if maker is None or name in nodes:
            return
        if maker.op_type == "DequantizeLinear" and maker.input[0] not in constants:
            inputs[maker.input[0]] = None
        else:
            for source in maker.input:
                collect(source)
        nodes[name] = maker

    collect(name)
    return list(nodes.values()), inputs


def with_stored_outputs(network: ModelProto) -> tuple[ModelProto, list[str]]:
    """The network giving out every quantised tensor instead of its outputs, and their names."""
    copy = ModelProto()
    copy.CopyFrom(network)
    names = [node.output[0] for node in network.graph.node if node.op_type == "QuantizeLinear"]
    kinds = {value.name: value for value in (*network.graph.value_info, *network.graph.output)}
    del copy.graph.output[:]
    copy.graph.output.extend(kinds[name] for name in names)
    return copy, names


def kernel_agreements(
    network: ModelProto, images: Sequence[Inputs], max_stride: int | None = None, xnnpack: bool = True
) -> dict[str, tuple[str, Agreement]]:
    """Each kernel on what onnxruntime gives to it inside the network: result -> (operators, agreement)."""
    whole, names = with_stored_outputs(network)
    values = [dict(zip(names, run)) for run in in_onnxruntime(whole, images)]
    for one, image in zip(values, images):
        one.update({i.name: x for i, x in zip(network.graph.input, image)})
    return {
        kernel.result: (
            kernel.operators,
            agreement(kernel.network, [[one[name] for name in kernel.inputs] for one in values], max_stride, xnnpack),
        )
        for kernel in kernel_networks(network)
    }
