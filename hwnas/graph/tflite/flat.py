"""A TFLite file, table by table: tensors, constant buffers, operators, one subgraph. Knows the schema, nothing of ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hwnas.errors import BuildError

FILE_IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
ALIGNMENT = 16
"""Kernels expect their constants at such addresses."""
MAX_BYTES = 2**31 - 1
"""FlatBuffers hold offsets of 32 bits."""

VERSIONS: Mapping[str, int] = {
    "ADD": 2, "AVERAGE_POOL_2D": 2, "CONCATENATION": 2, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4,
    "LEAKY_RELU": 2, "LOGISTIC": 2, "MAXIMUM": 2, "MAX_POOL_2D": 2, "MEAN": 2, "MINIMUM": 2, "MUL": 2, "PAD": 2,
    "PADV2": 2, "QUANTIZE": 2, "RELU": 2, "RELU6": 2, "RESIZE_BILINEAR": 3, "RESIZE_NEAREST_NEIGHBOR": 3, "SLICE": 2,
    "SOFTMAX": 2, "SUB": 2, "TANH": 2, "TRANSPOSE": 2,
}  # fmt: skip
"""The version of each operator that takes signed 8-bit tensors; 1 for those not named."""
WIDE_VERSIONS: Mapping[str, int] = {"AVERAGE_POOL_2D": 3, "MAX_POOL_2D": 3, "QUANTIZE": 2, "RESIZE_BILINEAR": 4}
"""The same for 16-bit tensors."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Quantisation of a tensor: one scale and zero point, or one of each for every index of `axis`."""

    scales: np.ndarray
    zeros: np.ndarray
    axis: int = 0

    @staticmethod
    def of(scale: float, zero: int) -> Scale:
        """The same scale and zero point for all values of a tensor."""
        return Scale(np.array([scale], np.float32), np.array([zero], np.int64))

    def equals(self, other: Scale) -> bool:
        """Whether the same integers stand for the same reals."""
        return np.array_equal(self.scales, other.scales) and np.array_equal(self.zeros, other.zeros)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the file, of numpy's type `dtype`; `values` makes it a constant."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: Scale | None = None
    values: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """An operator by its name in the schema's BuiltinOperator; `options` names its table of options, if it has one."""

    operator: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: str | None
    fields: Mapping[str, Any]


@dataclass(slots=True)
class TfliteFile:
    """What is written: tensors by index, operators in execution order, the indices of inputs and outputs."""

    tensors: list[Tensor] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)

    def add(self, tensor: Tensor) -> int:
        """The index of a new tensor."""
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def call(
        self, operator: str, inputs: Sequence[int], output: int, options: str | None = None, **fields: Any
    ) -> None:
        """Append an operator; `fields` are those of its options, as the schema's tables spell them."""
        self.calls.append(Call(operator, tuple(inputs), (output,), options, fields))

    def serialised(self) -> bytes:
        """The bytes of the file. Raises BuildError where a package is missing, or where they are more than 2 GiB."""
        if sum(t.values.nbytes for t in self.tensors if t.values is not None) > MAX_BYTES // 2:
            raise BuildError("tflite", "its constants take more than 1 GiB, which one TFLite file cannot hold")
        return _Writer(self).file()


class _Writer:
    """FlatBuffers are written from the leaves up: whatever a table points to has to be there before it."""

    def __init__(self, content: TfliteFile) -> None:
        try:
            import flatbuffers
            import tflite
        except ImportError as error:
            raise BuildError("tflite", f'{error.name} is not installed: pip install "hwnas[npu]"') from error
        self._content, self._schema = content, tflite
        self._builder = flatbuffers.Builder(1 << 16)

    def file(self) -> bytes:
        needed = [self._needed(call) for call in self._content.calls]
        codes = list(dict.fromkeys(needed))
        buffers = [self._table("Buffer")]  # by convention the first is empty: tensors without values point to it
        tensors = []
        for tensor in self._content.tensors:
            index = 0
            if tensor.values is not None:
                index = len(buffers)
                buffers.append(self._table("Buffer", Data=self._bytes(tensor.values.tobytes())))
            tensors.append(self._tensor(tensor, index))
        graph = self._table(
            "SubGraph",
            Tensors=self._offsets(tensors),
            Inputs=self._integers(self._content.inputs),
            Outputs=self._integers(self._content.outputs),
            Operators=self._offsets([self._call(codes.index(n), c) for n, c in zip(needed, self._content.calls)]),
            Name=self._builder.CreateString("main"),
        )
        root = self._table(
            "Model",
            Version=SCHEMA_VERSION,
            OperatorCodes=self._offsets([self._code(*code) for code in codes]),
            Subgraphs=self._offsets([graph]),
            Description=self._builder.CreateString("hwnas"),
            Buffers=self._offsets(buffers),
        )
        self._builder.Finish(root, file_identifier=FILE_IDENTIFIER)
        return bytes(self._builder.Output())

    def _tensor(self, tensor: Tensor, buffer: int) -> int:
        scale: dict[str, int] = {}
        if tensor.scale is not None:
            scale["Quantization"] = self._table(
                "QuantizationParameters",
                Scale=self._vector(tensor.scale.scales.astype(np.float32)),
                ZeroPoint=self._vector(tensor.scale.zeros.astype(np.int64)),
                QuantizedDimension=tensor.scale.axis,
            )
        return self._table(
            "Tensor",
            Shape=self._integers(tensor.shape),
            Type=getattr(self._schema.TensorType, tensor.dtype.upper()),
            Buffer=buffer,
            Name=self._builder.CreateString(tensor.name),
            **scale,
        )

    def _needed(self, call: Call) -> tuple[str, int]:
        """An operator and the version that takes its operand's type."""
        wide = self._content.tensors[call.inputs[0]].dtype == "int16"
        return call.operator, (WIDE_VERSIONS if wide else VERSIONS).get(call.operator, 1)

    def _code(self, name: str, version: int) -> int:
        code = getattr(self._schema.BuiltinOperator, name)
        # readers of before 2020 know a byte only; larger codes say 127 there
        return self._table("OperatorCode", DeprecatedBuiltinCode=min(code, 127), BuiltinCode=code, Version=version)

    def _call(self, code: int, call: Call) -> int:
        more: dict[str, int] = {}
        if call.options is not None:
            given = {k: self._integers(v) if isinstance(v, (tuple, list)) else v for k, v in call.fields.items()}
            more["BuiltinOptionsType"] = getattr(self._schema.BuiltinOptions, call.options)
            more["BuiltinOptions"] = self._table(call.options, **given)
        inputs, outputs = self._integers(call.inputs), self._integers(call.outputs)
        return self._table("Operator", OpcodeIndex=code, Inputs=inputs, Outputs=outputs, **more)

    def _table(self, name: str, **fields: Any) -> int:
        getattr(self._schema, f"{name}Start")(self._builder)
        for key, value in fields.items():
            getattr(self._schema, f"{name}Add{key}")(self._builder, value)
        return int(getattr(self._schema, f"{name}End")(self._builder))

    def _integers(self, values: Sequence[int]) -> int:
        return self._vector(np.array(values, np.int32))

    def _vector(self, values: np.ndarray) -> int:
        return int(self._builder.CreateNumpyVector(values))

    def _bytes(self, data: bytes) -> int:
        self._builder.StartVector(1, len(data), ALIGNMENT)
        self._builder.head -= len(data)
        self._builder.Bytes[self._builder.head : self._builder.head + len(data)] = data
        return int(self._builder.EndVector())

    def _offsets(self, offsets: Sequence[int]) -> int:
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return int(self._builder.EndVector())
