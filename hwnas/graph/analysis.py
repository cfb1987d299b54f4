"""What a network costs by arithmetic alone: MACs, parameters, bytes moved, flash and peak activation memory.

Exact where a definition exists (MACs, parameters, bytes), a stated convention where not (flash, element operations).
Nothing here is a latency.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from onnx import ModelProto, TensorProto

from hwnas.graph.canonical import canonical_workload, keeps_values
from hwnas.graph.fusion import Kernel, kernel_of, kernels
from hwnas.graph.rules_qdq import unshare
from hwnas.graph.view import METADATA_OPS, Operator, View, view

if TYPE_CHECKING:
    from hwnas.core.workload import Workload

KERNEL_CODE_BYTES = 3072
"""Flash that one distinct kernel takes, code and all that comes with it: a round figure near what TVM's take on CPUs, used
until rows of a table tell what each takes."""

_POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})
_MOVES = METADATA_OPS | {
    "Transpose", "Concat", "Slice", "Split", "Gather", "GatherElements", "Pad", "Expand", "Tile", "DepthToSpace",
    "SpaceToDepth",
}  # fmt: skip
_READS_ALL = frozenset({"Softmax", "LogSoftmax", "LayerNormalization", "InstanceNormalization", "LRN", "ArgMax"})
_IN_PLACE = frozenset({
    "Abs", "Add", "Cast", "Ceil", "Clip", "Div", "Elu", "Erf", "Exp",
    "Floor", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Max", "Min", "Mish",
    "Mul", "Neg", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid",
    "Sign", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tanh", "BatchNormalization",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Analysis:
    """The costs of one inference, batch 1.

    macs: multiply-accumulates of convolutions and matrix products. elementwise: element operations of all other
    operators that compute (a pool counts its window). params: weights and biases, each tensor once. weight_bytes:
    their bytes. moved_bytes: what the fused kernels read and write. peak_activation_bytes: most memory that live
    tensors take at once, network inputs and outputs included. flash_bytes: all constants, and KERNEL_CODE_BYTES for
    each distinct kernel. kernels: how many run.
    """

    macs: int
    elementwise: int
    params: int
    weight_bytes: int
    moved_bytes: int
    peak_activation_bytes: int
    flash_bytes: int
    kernels: int


def analyse(network: ModelProto, rules: str = "tvm") -> Analysis:
    """Analyse a network with the fused kernels of a rule set.

    Raises ConfigError for an unknown rule set, UnsupportedOperator and DataError as `view` does.
    """
    graph = unshare(view(network))
    return _analyse(graph, kernels(graph, rules))


def analyse_workload(workload: Workload) -> Analysis:
    """Analyse a workload, which is one kernel whatever the rules."""
    network = ModelProto()
    network.ParseFromString(workload.onnx)
    graph = unshare(view(network))
    return _analyse(graph, [kernel_of(graph, list(range(len(graph.operators))))])


def _analyse(graph: View, parts: Sequence[Kernel]) -> Analysis:
    weights = weight_names(graph)
    distinct = {canonical_workload(graph, kernel.operators, kernel.outputs).id for kernel in parts}
    held = {name for operator in graph.operators for name in stored_constants(graph, operator)}
    constants = sum(graph.types[name].bytes for name in held)
    return Analysis(
        macs=sum(operator_macs(graph, operator) for operator in graph.operators),
        elementwise=sum(operator_elements(graph, operator) for operator in graph.operators),
        params=sum(graph.types[name].elements for name in weights),
        weight_bytes=sum(graph.types[name].bytes for name in weights),
        moved_bytes=sum(_moved(graph, kernel) for kernel in parts),
        peak_activation_bytes=peak_activation_bytes(graph, parts),
        flash_bytes=constants + KERNEL_CODE_BYTES * len(distinct),
        kernels=len(parts),
    )


def weight_names(graph: View) -> list[str]:
    """The constants that are weights or biases: not shapes, bounds and scalars, nor scales and zero points."""
    found: dict[str, None] = {}
    for operator in graph.operators:
        quantised = operator.op in ("QuantizeLinear", "DequantizeLinear")
        for position, name in enumerate(operator.inputs):
            if name not in graph.constants or (quantised and position > 0):
                continue
            if not keeps_values(operator.op, position, graph.types[name]):
                found[name] = None
    return list(found)


def stored_constants(graph: View, operator: Operator) -> list[str]:
    """The constants of an operator that are data to its kernel.

    Of what quantises, these are stored integers and the scales of channels, one a channel; the scale and zero point
    of an activation are part of the code, and the scales of a bias are those of its products.
    """
    names = [name for name in operator.inputs if name in graph.constants]
    if operator.op not in ("QuantizeLinear", "DequantizeLinear"):
        return names
    kind = graph.types[operator.inputs[1]]
    is_bias = graph.types[operator.inputs[0]].dtype == TensorProto.INT32
    return [
        name
        for name in names
        if name == operator.inputs[0] or (name == operator.inputs[1] and kind.shape and not is_bias)
    ]


def operator_macs(graph: View, operator: Operator) -> int:
    """Multiply-accumulates of one operator; 0 for all that are not sums of products."""
    if operator.domain or operator.op not in _MAC_OPS:
        return 0
    first = graph.types[operator.inputs[0]]
    second = graph.types[operator.inputs[1]]
    result = graph.types[next(name for name in operator.outputs if name)]
    if operator.op == "Conv":
        return result.elements * prod(second.shape[1:])
    if operator.op == "ConvTranspose":
        return first.elements * prod(second.shape[1:])
    if operator.op == "Gemm":
        return result.elements * first.shape[0 if operator.attributes.get("transA", 0) else 1]
    if operator.op == "MatMul":
        return result.elements * first.shape[-1]
    if operator.op == "Einsum":
        return _einsum_macs(graph, operator)
    # recurrent: every step multiplies the input and the state with their matrices
    return first.shape[0] * first.shape[1] * (second.elements + graph.types[operator.inputs[2]].elements)


_MAC_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN"})


def _einsum_macs(graph: View, operator: Operator) -> int:
    """The product of all index ranges, which is what one nested loop over the equation multiplies."""
    equation = operator.attributes["equation"]
    assert isinstance(equation, bytes)
    sizes: dict[str, int] = {}
    for term, name in zip(equation.decode().replace(" ", "").split("->")[0].split(","), operator.inputs):
        sizes.update(zip(term.replace("...", ""), graph.types[name].shape[-len(term.replace("...", "")) :]))
    return prod(sizes.values()) if len(operator.inputs) > 1 else 0


def operator_elements(graph: View, operator: Operator) -> int:
    """Element operations of an operator that computes without being a sum of products."""
    if operator.op in _MAC_OPS or operator.op in _MOVES:
        return 0
    result = graph.types[next(name for name in operator.outputs if name)]
    if operator.op in _POOLS:
        window = operator.attributes.get("kernel_shape", ())
        assert isinstance(window, tuple)
        return result.elements * prod(int(size) for size in window)
    if operator.op.startswith(("Reduce", "Global")) or operator.op in _READS_ALL:
        return graph.types[operator.inputs[0]].elements
    if operator.op == "DequantizeLinear":
        return 0  # an integer kernel scales once, where it quantises its result
    return result.elements


def _moved(graph: View, kernel: Kernel) -> int:
    constants = {n for i in kernel.operators for n in stored_constants(graph, graph.operators[i])}
    return sum(graph.types[name].bytes for name in (*kernel.inputs, *kernel.outputs, *constants))


def peak_activation_bytes(graph: View, parts: Sequence[Kernel]) -> int:
    """The most bytes that tensors between kernels take at once, over the execution order.

    A tensor lives from the kernel that makes it (network inputs: from the start) to its last reader (network
    outputs: to the end). A kernel of element operations writes over an operand of equal size that dies with it.
    """
    inside = {i for kernel in parts for i in kernel.operators}

    def storage(name: str) -> str:
        while (source := graph.producer.get(name)) is not None and source not in inside:
            name = graph.operators[source].inputs[0]
        return name

    last: dict[str, int] = {storage(name): -1 for name in graph.inputs}
    for step, kernel in enumerate(parts):
        for name in (*kernel.inputs, *kernel.outputs):
            last[storage(name)] = step
    last.update({storage(name): len(parts) for name in graph.outputs})
    live = _sizes(graph, (storage(name) for name in graph.inputs))
    peak = sum(live.values())
    for step, kernel in enumerate(parts):
        dying = {storage(name) for name in kernel.inputs if last[storage(name)] == step}
        made = _sizes(graph, kernel.outputs)
        reused = 0
        if all(graph.operators[i].op in _IN_PLACE for i in kernel.operators):
            free = sorted(live.get(name, 0) for name in dying)
            for size in made.values():
                if size in free:
                    free.remove(size)
                    reused += size
        live.update(made)
        peak = max(peak, sum(live.values()) - reused)
        for name in dying | {name for name in made if last[name] == step}:
            live.pop(name, None)
    return peak


def _sizes(graph: View, names: Iterable[str]) -> dict[str, int]:
    return {name: graph.types[name].bytes for name in names if name not in graph.constants}
