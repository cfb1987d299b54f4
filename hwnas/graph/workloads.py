"""Workloads back into networks that run, and workload bytes from a table, which are hostile until checked."""

from __future__ import annotations

from math import log2, prod, sqrt
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto

from hwnas.core.workload import Workload
from hwnas.errors import DataError, HwnasError
from hwnas.graph.canonical import canonical_workload
from hwnas.graph.rules_qdq import CLAMPS
from hwnas.graph.view import Operator, TensorType, View, has_values, view, without_weights

MAX_WORKLOAD_BYTES = 256 * 1024
"""A canonical workload holds no weights: the largest seen (a dense block's concatenation) is a few kilobytes."""

MAX_ELEMENTS = 2**28
"""Elements that all tensors of a workload may have together (1 GiB of floats): more is not a kernel but an attack."""

CHANNELS_LAST = "hwnas.channels_last"
"""The metadata property of a network whose inputs and outputs a toolchain may lay out channels last."""

_SPATIAL = frozenset({
    "Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool",
    "BatchNormalization", "InstanceNormalization", "LRN", "Resize", "Upsample", "DepthToSpace", "SpaceToDepth",
})  # fmt: skip
"""Operators that read a tensor as an image: batch, channels, then space."""
_TOKENS = frozenset({"MatMul", "Gemm", "Einsum", "Softmax", "LogSoftmax", "LayerNormalization"})
"""Operators whose tensors no toolchain lays out as images."""

_INCONSISTENT = (
    KeyError, IndexError, ValueError, TypeError, OverflowError, AssertionError, RuntimeError,
    onnx.shape_inference.InferenceError,
)  # fmt: skip
"""What reading a graph raises whose parts do not belong together."""

SUMS = frozenset({"Add", "Sub"})
MAC_WEIGHTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def parse_workload(data: bytes, op: str) -> Workload:
    """The workload that bytes from a table hold. Raises DataError unless they are its exact canonical form."""

    def refuse(reason: str) -> DataError:
        return DataError(f"not a workload: {reason}", key=f"workload {op[:80]!r}")

    if len(data) > MAX_WORKLOAD_BYTES:
        raise refuse(f"{len(data)} bytes, at most {MAX_WORKLOAD_BYTES} are allowed")
    network = ModelProto()
    try:
        network.ParseFromString(data)
    except DecodeError:
        raise refuse("the bytes are not ONNX") from None
    if foreign := sorted({node.domain for node in network.graph.node} - {""}):
        raise refuse(f"operators of domain {foreign[0]!r}; only standard ONNX operators are allowed")
    if any(tensor.external_data or tensor.data_location for tensor in network.graph.initializer):
        raise refuse("its weights point to another file")
    try:
        graph = view(network)
        if any(size < 0 for kind in graph.types.values() for size in kind.shape):
            raise refuse("it declares a negative size")
        if sum(kind.elements for kind in graph.types.values()) > MAX_ELEMENTS:
            raise refuse(f"it declares tensors of more than {MAX_ELEMENTS} elements")
        onnx.shape_inference.infer_shapes(without_weights(network), check_type=True, strict_mode=True)
        outputs = [value.name for value in network.graph.output]
        again = canonical_workload(graph, range(len(graph.operators)), outputs)
    except HwnasError as error:
        raise error if str(error).startswith("workload ") else refuse(str(error)) from error
    except _INCONSISTENT as error:
        raise refuse(f"its graph is not consistent ({type(error).__name__}: {error})") from error
    if again.onnx != data:
        raise refuse("the bytes are not in canonical form")
    if again.op != op:
        raise refuse(f"its operators are {again.op!r}")
    return again


def materialize(workload: Workload, seed: int = 0) -> ModelProto:
    """A network that runs: the workload with weights drawn from the seed, scaled so that activations stay near 1.

    Where its activations are images, it says so: inside a network a toolchain may keep them channels last, and the
    workload alone has to cost what it costs there.
    """
    network = ModelProto()
    network.ParseFromString(workload.onnx)
    graph = view(network)
    rng = np.random.default_rng(seed)
    uses = {name: (op, k) for op in graph.operators for k, name in enumerate(op.inputs)}
    for tensor in network.graph.initializer:
        if not has_values(tensor):
            operator, position = uses[tensor.name]
            kind = TensorType(tensor.data_type, tuple(tensor.dims))
            values = _weight(graph, operator, position, kind, rng)
            tensor.raw_data = np.ascontiguousarray(values, onnx.helper.tensor_dtype_to_np_dtype(kind.dtype)).tobytes()
    network.producer_name = "hwnas"
    if _holds_images(graph):
        network.metadata_props.add(key=CHANNELS_LAST, value="1")
    return network


def is_channels_last(network: ModelProto) -> bool:
    """Whether a toolchain may lay out the network's inputs and outputs channels last: it stands inside another one."""
    return any(prop.key == CHANNELS_LAST and prop.value == "1" for prop in network.metadata_props)


def _holds_images(graph: View) -> bool:
    """Whether the tensors of a workload are images: what says nothing of it, such as a sum, most often reads them."""
    operators = graph.operators
    if any(operator.op in _SPATIAL for operator in operators):
        return True
    return not any(o.op in _TOKENS or (o.op == "Transpose" and _rank(graph, o) == 4) for o in operators)


def _rank(graph: View, operator: Operator) -> int:
    return len(graph.types[operator.inputs[0]].shape)


def _weight(graph: View, operator: Operator, position: int, kind: TensorType, rng: np.random.Generator) -> Any:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.dtype)
    if operator.op in ("QuantizeLinear", "DequantizeLinear"):
        return _quantised(graph, operator, position, kind, rng)
    if np.issubdtype(dtype, np.bool_):
        return rng.random(kind.shape) < 0.5
    if not np.issubdtype(dtype, np.floating):
        return _index(graph, operator, position, kind)
    if operator.op in MAC_WEIGHTS or operator.op in ("Einsum", "LSTM", "GRU", "RNN"):
        spread = 0.1 if len(kind.shape) < 2 else sqrt(2 / fan_in(operator, position, kind))
        return _normal(rng, kind.shape, spread)
    if operator.op == "BatchNormalization":
        return rng.uniform(0.5, 1.5, kind.shape) if position in (1, 4) else _normal(rng, kind.shape, 0.1)
    if operator.op in ("LayerNormalization", "InstanceNormalization", "GroupNormalization"):
        return rng.uniform(0.5, 1.5, kind.shape) if position == 1 else _normal(rng, kind.shape, 0.1)
    if operator.op in ("Add", "Sub", "Sum"):
        return _normal(rng, kind.shape, 0.1)
    if operator.op == "PRelu":
        return rng.uniform(0.1, 0.4, kind.shape)
    return rng.uniform(0.5, 1.5, kind.shape)


def _normal(rng: np.random.Generator, shape: tuple[int, ...], spread: float) -> np.ndarray:
    drawn = rng.standard_normal(shape, np.float32)
    drawn *= np.float32(spread)
    return drawn


def fan_in(operator: Operator, position: int, kind: TensorType) -> int:
    """How many products a weight operand contributes to one output element."""
    if operator.op == "Conv":
        return max(1, prod(kind.shape[1:]))
    if operator.op == "ConvTranspose":
        return max(1, prod(kind.shape[2:]) * kind.shape[0])
    if operator.op == "Gemm":
        rows_first = bool(operator.attributes.get("transA" if position == 0 else "transB", 0)) == (position == 0)
        return max(1, kind.shape[0] if rows_first else kind.shape[1])
    if operator.op == "MatMul":
        return max(1, kind.shape[-1] if position == 0 else kind.shape[-2])
    return max(1, kind.shape[-1])


def _index(graph: View, operator: Operator, position: int, kind: TensorType) -> Any:
    """Indices that are valid: they count through the axis they point into; elsewhere ones."""
    if operator.op in ("Gather", "GatherElements") and position == 1:
        source = graph.types[operator.inputs[0]].shape
        axis = operator.attributes.get("axis", 0)
        assert isinstance(axis, int)
        return (np.arange(kind.elements) % source[axis]).reshape(kind.shape)
    return np.ones(kind.shape)


ACTIVATION_EXPONENT = -5
"""Quantised activations of a materialised workload have steps of 1/32: 256 of them cover 8."""


def _quantised(graph: View, operator: Operator, position: int, kind: TensorType, rng: np.random.Generator) -> Any:
    """Stored integers, scales and zero points that belong together, every scale a power of two: a bias has the scale
    of its products, channels differ, and so do summands, as in a calibrated network, whose code it has to run."""
    stored = operator.inputs[0] in graph.constants
    source = graph.producer.get(operator.inputs[0])
    if position == 2:
        clamped = source is not None and graph.operators[source].op in CLAMPS
        return np.full(kind.shape, 128 if kind.dtype == TensorProto.UINT8 and not clamped else 0)
    if position == 1 and not stored:
        return np.full(kind.shape, 2.0 ** (ACTIVATION_EXPONENT + _is_first_summand(graph, operator)))
    if position == 1:
        reader = graph.operators[graph.readers[operator.outputs[0]][0]]
        if reader.op not in MAC_WEIGHTS:
            return np.full(kind.shape, 2.0**-7)
        is_bias = len(reader.inputs) > 2 and reader.inputs[2] == operator.outputs[0]
        weight = 1 if is_bias else reader.inputs.index(operator.outputs[0])
        # integers are uniform in +-127, so their standard deviation is 127 / sqrt(3)
        step = sqrt(2 / fan_in(reader, weight, graph.types[reader.inputs[weight]])) / (127 / sqrt(3))
        channels = np.arange(kind.elements).reshape(kind.shape)
        return 2.0 ** (round(log2(step)) - channels % 2 + (ACTIVATION_EXPONENT if is_bias else 0))
    limits = np.iinfo(onnx.helper.tensor_dtype_to_np_dtype(kind.dtype))
    span = min(int(limits.max), 127)
    return rng.integers(max(int(limits.min), -span), span, kind.shape, endpoint=True)


def _is_first_summand(graph: View, operator: Operator) -> bool:
    """Whether a DequantizeLinear gives the first operand of a sum, and that is not the second as well."""
    for i in graph.readers.get(operator.outputs[0], ()):
        reader = graph.operators[i]
        if reader.op in SUMS and reader.inputs[0] == operator.outputs[0]:
            other = graph.producer.get(reader.inputs[1])
            if other is None or graph.operators[other].inputs[:1] != operator.inputs[:1]:
                return True
    return False
