"""The canonical, weight-free form of a fused kernel: equal kernels become equal bytes, in every process.

Operators are numbered by walking from the outputs through ordered operands, so neither names nor the order of nodes
matter; operands of commutative operators are sorted; attributes that state a default are dropped. Weights keep their
type and shape and lose their values; what changes the meaning of a kernel (axes, bounds, shapes) keeps them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import ceil
from typing import NamedTuple, cast

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, ValueInfoProto, numpy_helper

from hwnas.core.workload import Workload
from hwnas.errors import UnsupportedOperator
from hwnas.graph.view import METADATA_OPS, OPSET, Attribute, Operator, TensorType, View, attribute_value, has_values

COMMUTATIVE = frozenset({"Add", "Mul", "Max", "Min", "Sum", "Mean", "And", "Or", "Xor", "Equal"})

WEIGHT_OPERANDS: Mapping[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "BatchNormalization": (1, 2, 3, 4),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "PRelu": (1,),
    "Einsum": (0, 1, 2, 3),
    "DequantizeLinear": (0, 1, 2),
    "QuantizeLinear": (1, 2),
    "LSTM": (1, 2, 3, 7),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
}
"""Operands that are weights whatever their size. Scales and zero points come from calibration, so they are weights
too: a kernel's speed does not depend on them, and its id must not."""

MAX_KEPT = 64
"""Largest integer constant that keeps its values (shapes, axes, short index lists)."""

_DEFAULT_LESS = frozenset({"strides", "dilations", "pads", "output_padding"})
_AXIS_OPS = frozenset(
    {"Softmax", "LogSoftmax", "Hardmax", "Concat", "Gather", "GatherElements", "Split", "LayerNormalization"}
    | {"ArgMax", "ArgMin", "Flatten", "CumSum", "TopK", "OneHot", "ScatterElements", "RMSNormalization"}
    | {"QuantizeLinear", "DequantizeLinear", "LpNormalization"}
)
_WINDOWED = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"})


def keeps_values(op: str, operand: int, tensor: TensorType) -> bool:
    """Whether a constant operand is part of a kernel's meaning, rather than a weight of it."""
    if operand in WEIGHT_OPERANDS.get(op, ()):
        return False
    if tensor.dtype in (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL):
        return tensor.elements <= MAX_KEPT
    if op == "Resize":
        return tensor.elements <= MAX_KEPT
    return tensor.elements == 1


@lru_cache(maxsize=4096)
def _defaults(op: str, domain: str, opset: int) -> dict[str, Attribute]:
    schema = onnx.defs.get_schema(op, opset, domain)
    return {
        name: attribute_value(a.default_value)
        for name, a in schema.attributes.items()
        if a.default_value.type != AttributeProto.UNDEFINED
    }


@lru_cache(maxsize=4096)
def since_version(op: str, domain: str, opset: int) -> int:
    """The opset that last changed an operator. Raises UnsupportedOperator for one ONNX does not define."""
    try:
        return int(onnx.defs.get_schema(op, opset, domain).since_version)
    except onnx.defs.SchemaError:
        where = domain or "ONNX"
        raise UnsupportedOperator(op, f"not an operator of {where} in opset {opset}") from None


def normal_attributes(operator: Operator, types: Mapping[str, TensorType], opset: int) -> dict[str, Attribute]:
    """Attributes in one spelling: defaults dropped, automatic padding resolved, axes counted from the front."""
    given = dict(operator.attributes)
    op = operator.op
    if not given and op not in _WINDOWED:
        return given
    source = types.get(operator.inputs[0]) if operator.inputs else None
    if op in _WINDOWED and source is not None:
        _resolve_window(operator, given, source, types)
    axis = given.get("axis")
    if op in _AXIS_OPS and isinstance(axis, int) and axis < 0 and source is not None:
        given["axis"] = axis + len(source.shape)
    defaults = _defaults(op, operator.domain, opset)
    kept: dict[str, Attribute] = {}
    for name in sorted(given):
        value = given[name]
        if name in defaults and value == _positive_default(op, name, defaults[name], source):
            continue
        if name in _DEFAULT_LESS and isinstance(value, tuple):
            neutral = 0 if name in ("pads", "output_padding") else 1
            if all(v == neutral for v in value):
                continue
        kept[name] = value
    return kept


def _positive_default(op: str, name: str, value: Attribute, source: TensorType | None) -> Attribute:
    if name == "axis" and op in _AXIS_OPS and isinstance(value, int) and value < 0 and source is not None:
        return value + len(source.shape)
    return value


def _resolve_window(
    operator: Operator, given: dict[str, Attribute], source: TensorType, types: Mapping[str, TensorType]
) -> None:
    spatial = len(source.shape) - 2
    if "kernel_shape" not in given:
        given["kernel_shape"] = types[operator.inputs[1]].shape[2:]
    automatic = given.get("auto_pad", b"NOTSET")
    if automatic in (b"NOTSET", b"VALID"):
        given.pop("auto_pad", None)
        if automatic == b"VALID":
            given["pads"] = (0,) * (2 * spatial)
        return
    if operator.op == "ConvTranspose" or not isinstance(kernel := given["kernel_shape"], tuple):
        return
    strides, dilations = given.get("strides", (1,) * spatial), given.get("dilations", (1,) * spatial)
    assert isinstance(strides, tuple) and isinstance(dilations, tuple)
    begin, end = [], []
    for size, k, s, d in zip(source.shape[2:], kernel, strides, dilations):
        total = max(0, int((ceil(size / int(s)) - 1) * int(s) + (int(k) - 1) * int(d) + 1 - size))
        small, large = total // 2, total - total // 2
        begin.append(small if automatic == b"SAME_UPPER" else large)
        end.append(large if automatic == b"SAME_UPPER" else small)
    given.pop("auto_pad")
    given["pads"] = (*begin, *end)


def _write_attribute(proto: AttributeProto, name: str, value: Attribute) -> None:
    proto.name = name
    if isinstance(value, bytes):
        proto.type, proto.s = AttributeProto.STRING, value
    elif isinstance(value, int):
        proto.type, proto.i = AttributeProto.INT, value
    elif isinstance(value, float):
        proto.type, proto.f = AttributeProto.FLOAT, value
    elif isinstance(value, TensorProto):
        proto.type = AttributeProto.TENSOR
        proto.t.CopyFrom(_bare_tensor("", value))
    elif value and isinstance(value[0], float):
        proto.type = AttributeProto.FLOATS
        proto.floats.extend(cast("tuple[float, ...]", value))
    elif value and isinstance(value[0], bytes):
        proto.type = AttributeProto.STRINGS
        proto.strings.extend(cast("tuple[bytes, ...]", value))
    else:
        proto.type = AttributeProto.INTS
        proto.ints.extend(cast("tuple[int, ...]", value))


def _bare_tensor(name: str, tensor: TensorProto) -> TensorProto:
    array = numpy_helper.to_array(tensor)
    return TensorProto(name=name, dims=array.shape, data_type=tensor.data_type, raw_data=array.tobytes())


def _attribute_key(value: Attribute) -> str:
    return repr(value) if not isinstance(value, TensorProto) else _bare_tensor("", value).SerializeToString().hex()


class _Walk:
    """One walk over a group: digests from the inputs up, then an order in which a walk from the outputs meets it."""

    def __init__(self, view: View, group: Sequence[int], outputs: Sequence[str]) -> None:
        self.view = view
        self.operators = {i: view.operators[i] for i in group}
        self.inside = {name for op in self.operators.values() for name in op.outputs if name}
        self.opset = max(OPSET, max(since_version(op.op, op.domain, view.opset) for op in self.operators.values()))
        self.attributes = {i: normal_attributes(op, view.types, view.opset) for i, op in self.operators.items()}
        self.digests: dict[str, bytes] = {}
        self.operands: dict[int, tuple[Operand, ...]] = {}
        for i in group:
            self._digest(i)
        self.outputs = sorted(outputs, key=lambda name: self.digests[name])

    def _digest(self, i: int) -> None:
        op = self.operators[i]
        operands = [self._operand(op.op, k, name) for k, name in enumerate(op.inputs)]
        while operands and operands[-1].kind == "absent":
            operands.pop()
        if op.op == "Conv" and len(operands) == 2 and operands[1].kind == "weight":
            operands.append(_weight(TensorType(operands[1].type.dtype, operands[1].type.shape[:1])))
        if op.op in COMMUTATIVE and not op.domain:
            operands.sort(key=lambda operand: (_RANK[operand.kind], operand.digest))
        self.operands[i] = tuple(operands)
        text = blake2b(digest_size=12)
        attributes = ";".join(f"{k}={_attribute_key(v)}" for k, v in self.attributes[i].items())
        text.update(f"{op.domain}|{op.op}|{attributes}|".encode())
        for operand in operands:
            text.update(operand.digest)
        stem = text.digest()
        for k, name in enumerate(op.outputs):
            if name:
                self.digests[name] = stem + bytes((k,))

    def _operand(self, op: str, position: int, name: str) -> Operand:
        if not name:
            return Operand("absent", name, b"-", TensorType(0, ()))
        kind = self.view.types[name]
        if name in self.inside:
            return Operand("inner", name, self.digests[name], kind)
        tensor = self.view.constants.get(name)
        if tensor is None:
            return Operand("input", name, f"x{kind}".encode(), kind)
        if has_values(tensor) and keeps_values(op, position, kind):
            return Operand("kept", name, f"c{kind}".encode() + numpy_helper.to_array(tensor).tobytes(), kind)
        return _weight(kind)

    def order(self) -> list[int]:
        """Operators in the order of a depth-first walk from the outputs, operands first."""
        done: set[int] = set()
        result: list[int] = []
        producer = self.view.producer
        stack = [(producer[name], False) for name in reversed(self.outputs)]
        while stack:
            i, ready = stack.pop()
            if i in done:
                continue
            if ready:
                done.add(i)
                result.append(i)
                continue
            stack.append((i, True))
            stack.extend((producer[o.name], False) for o in reversed(self.operands[i]) if o.kind == "inner")
        return result

    def results(self, i: int) -> list[str]:
        """The outputs of an operator that somebody reads; '' in the place of one that nobody does."""
        given = [n if n in self.outputs or n in self.view.readers else "" for n in self.operators[i].outputs]
        while len(given) > 1 and not given[-1]:
            given.pop()
        return given


class Operand(NamedTuple):
    """An operand of an operator in a group: inner, input, weight, kept (a constant with its values) or absent."""

    kind: str
    name: str
    digest: bytes
    type: TensorType


def _weight(kind: TensorType) -> Operand:
    return Operand("weight", "", f"w{kind}".encode(), kind)


_RANK = {"inner": 0, "input": 1, "weight": 2, "kept": 3, "absent": 4}


def canonical_workload(view: View, group: Sequence[int], outputs: Sequence[str]) -> Workload:
    """The workload of a group of operators (indices in topological order) that gives out the tensors `outputs`.

    Every use of a weight is a weight of its own, so that equal parameters which an exporter merged make no difference;
    and every convolution has a bias, because exporters drop a bias of zeros and with it would go the id.
    Raises UnsupportedOperator for an operator that ONNX does not define.
    """
    walk = _Walk(view, group, outputs)
    network = empty_network(walk.opset)
    graph = network.graph
    names: dict[str, str] = {name: f"y{k}" for k, name in enumerate(walk.outputs)}
    kept: dict[bytes, str] = {}
    order = walk.order()
    for i in order:
        op = walk.operators[i]
        node = graph.node.add(op_type=op.op, domain=op.domain)
        for operand in walk.operands[i]:
            node.input.append(_operand_name(graph, view, operand, names, kept))
        for name in walk.results(i):
            if name and name not in names:
                names[name] = f"t{len(graph.value_info)}"
                declare(graph.value_info.add(), names[name], view.types[name])
            node.output.append(names[name] if name else "")
        for key, value in walk.attributes[i].items():
            _write_attribute(node.attribute.add(), key, value)
    for k, name in enumerate(walk.outputs):
        declare(graph.output.add(), f"y{k}", view.types[name])
    return Workload(network.SerializeToString(deterministic=True), label([walk.operators[i] for i in order]))


def _operand_name(
    graph: GraphProto, view: View, operand: Operand, names: dict[str, str], kept: dict[bytes, str]
) -> str:
    if operand.kind == "absent":
        return ""
    if operand.kind == "inner" or (operand.kind == "input" and operand.name in names):
        return names[operand.name]
    if operand.kind == "input":
        names[operand.name] = f"x{len(graph.input)}"
        declare(graph.input.add(), names[operand.name], operand.type)
        return names[operand.name]
    if operand.digest in kept:
        return kept[operand.digest]
    tensor = graph.initializer.add(dims=operand.type.shape, data_type=operand.type.dtype)
    if operand.kind == "weight":
        tensor.name = f"w{len(graph.initializer) - 1}"
    else:
        tensor.name = kept[operand.digest] = f"c{len(graph.initializer) - 1}"
        tensor.raw_data = numpy_helper.to_array(view.constants[operand.name]).tobytes()
    return str(tensor.name)


def empty_network(opset: int) -> ModelProto:
    """A network without operators, of the given opset and the oldest IR version that knows it."""
    network = ModelProto(ir_version=ir_version(opset))
    network.opset_import.add(domain="", version=opset)
    network.graph.name = "workload"
    return network


@lru_cache(maxsize=32)
def ir_version(opset: int) -> int:
    """The oldest IR version that knows an opset."""
    return int(onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)]))


def declare(info: ValueInfoProto, name: str, kind: TensorType) -> None:
    """Fill in the declaration of a tensor with a static shape."""
    info.name = name
    tensor = info.type.tensor_type
    tensor.elem_type = kind.dtype
    tensor.shape.SetInParent()
    for size in kind.shape:
        tensor.shape.dim.add(dim_value=size)


def label(operators: Iterable[Operator]) -> str:
    """What a workload is called: its operators joined by +, with :int8 where it computes on quantised tensors."""
    names = [op.op for op in operators if op.op not in METADATA_OPS]
    plain = [name for name in names if name not in ("QuantizeLinear", "DequantizeLinear")]
    if not plain:
        return "+".join(names) or "Reshape"
    return "+".join(plain) + (":int8" if len(plain) < len(names) else "")
