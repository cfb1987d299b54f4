"""A deployed network: products for the core and kernels for the CPU beside it, in execution order, in one file.

The file is MAGIC, the length of a header (u32, little-endian), the header (JSON, see `_Header`), the payload (the
arrays and ONNX networks that the header names by offset and size, back to back), and the digest of all that. Weights
stand as they were trained (groups, kernel height, kernel width, inputs, outputs; int8), biases and entries as int32,
little-endian; a driver unfolds them into the columns of jobs when it loads the file (`hwnas.firmware.fpga.driver`). No
pickle, and nothing is believed: digest, sizes and types are checked before anything is made of them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hwnas.digest import ID_BYTES, canonical_json, digest_bytes
from hwnas.errors import ConfigError, DataError
from hwnas.firmware.fpga.array import Array
from hwnas.firmware.fpga.law import misfit
from hwnas.firmware.fpga.product import Byte, Geometry, Packing, Product, Window, pieces

PROGRAM = "network.fpga"
"""The file in an artifact's folder, and what is deployed."""
MAGIC = b"HWNFPGA1"
MAX_FILE_BYTES = 256 * 2**20
MAX_HEADER_BYTES = 8 * 2**20
MAX_TENSOR = 2**26
"""Elements of a tensor, and bytes of the activations or weights of one job."""

Layout = Literal["image", "line", "matrix"]
"""How the CPU holds what the core reads and writes: n x c x h x w, n x c x w, or rows of features."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of the network, and the storage that it lies in."""

    name: str
    storage: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CoreStep:
    """A product that the core computes, from one storage to another; `shape` is the result's, as the CPU reads it."""

    label: str
    source: str
    target: str
    layout: Layout
    shape: tuple[int, ...]
    product: Product


@dataclass(frozen=True, slots=True)
class HostStep:
    """A kernel that the CPU computes: its network (ONNX), and the storages of that network's inputs and outputs."""

    label: str
    network: bytes
    sources: tuple[str, ...]
    targets: tuple[str, ...]


Step = CoreStep | HostStep


@dataclass(frozen=True, slots=True)
class Program:
    """A network for an array: its inputs and outputs, and its steps in execution order."""

    array: Array
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    steps: tuple[Step, ...]


_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)
_Name = Annotated[str, Field(min_length=1, max_length=4096)]
_Count = Annotated[int, Field(ge=1, le=MAX_TENSOR)]
_Small = Annotated[int, Field(ge=1, le=4096)]
_Padding = Annotated[int, Field(ge=0, le=4096)]
_Integer = Annotated[int, Field(ge=-(2**31), lt=2**31)]
_Pair = tuple[_Small, _Small]
_Shape = Annotated[tuple[_Count, ...], Field(max_length=8)]


class _Blob(BaseModel):
    model_config = _STRICT
    offset: int = Field(ge=0, le=MAX_FILE_BYTES)
    size: int = Field(ge=0, le=MAX_FILE_BYTES)


class _Tensor(BaseModel):
    model_config = _STRICT
    name: _Name
    storage: _Name
    dtype: Literal["float32", "uint8", "int8", "int32", "int64", "bool"]
    shape: _Shape


class _Core(BaseModel):
    model_config = _STRICT
    label: str
    source: _Name
    target: _Name
    layout: Layout
    shape: _Shape
    image: tuple[_Count, _Count, _Count, _Count]
    outputs: _Count
    groups: _Count
    kernel: _Pair
    strides: _Pair
    dilations: _Pair
    pads: tuple[_Padding, _Padding, _Padding, _Padding]
    packing: tuple[_Count, _Count, Annotated[int, Field(ge=0, le=MAX_TENSOR)], _Count]
    kind: Literal["shift", "multiply"]
    lift: Annotated[int, Field(ge=0, le=31)]
    dtype: Byte
    result_dtype: Byte
    zero: Annotated[int, Field(ge=-128, le=255)]
    result_zero: Annotated[int, Field(ge=-128, le=255)]
    low: Annotated[int, Field(ge=-128, le=255)]
    high: Annotated[int, Field(ge=-128, le=255)]
    weights: _Blob
    bias: _Blob
    entries: _Blob


class _Host(BaseModel):
    model_config = _STRICT
    label: str
    network: _Blob
    sources: tuple[_Name, ...]
    targets: Annotated[tuple[_Name, ...], Field(min_length=1)]


class _Header(BaseModel):
    """The header: sizes of the array, tensors, and steps, each a product or a network."""

    model_config = _STRICT
    array: dict[str, _Count]
    inputs: tuple[_Tensor, ...]
    outputs: Annotated[tuple[_Tensor, ...], Field(min_length=1)]
    steps: Annotated[tuple[_Core | _Host, ...], Field(min_length=1, max_length=100_000)]


def encode(program: Program) -> bytes:
    """The file of a program; equal programs are equal bytes."""
    payload = bytearray()

    def kept(data: bytes) -> dict[str, int]:
        payload.extend(data)
        return {"offset": len(payload) - len(data), "size": len(data)}

    steps = [_encoded(step, kept) for step in program.steps]
    header = {
        "array": sizes_of(program.array),
        "inputs": [_tensor(t) for t in program.inputs],
        "outputs": [_tensor(t) for t in program.outputs],
        "steps": steps,
    }
    head = canonical_json(header).encode()
    return sealed(MAGIC + struct.pack("<I", len(head)) + head + bytes(payload))


def sealed(data: bytes) -> bytes:
    """Bytes with their digest behind them."""
    return data + digest_bytes(data).encode()


def decode(data: bytes) -> Program:
    """The program of a file. Raises DataError for anything that `encode` would not have written."""
    start, end = len(MAGIC) + 4, len(data) - 2 * ID_BYTES
    if len(data) > MAX_FILE_BYTES or end < start or data[: len(MAGIC)] != MAGIC:
        raise DataError("is not a program of the FPGA core")
    if sealed(data[:end]) != data:
        raise DataError("is a damaged program of the FPGA core: its digest is not that of its content")
    (size,) = struct.unpack_from("<I", data, len(MAGIC))
    if size > MAX_HEADER_BYTES or start + size > end:
        raise DataError("is a program of the FPGA core whose header is longer than the file")
    try:
        header = _Header.model_validate_json(data[start : start + size])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"is not a program of the FPGA core ({where}: {first['msg']})") from error
    payload = data[start + size : end]
    try:
        array = Array(**header.array)
    except (TypeError, ConfigError) as error:
        raise DataError(f"is a program for an array that cannot be ({error})") from error
    steps = tuple(_core(s, payload, array) if isinstance(s, _Core) else _host(s, payload) for s in header.steps)
    inputs, outputs = (tuple(_plain(tensor) for tensor in part) for part in (header.inputs, header.outputs))
    program = Program(array, inputs, outputs, steps)
    _check_order(program)
    return program


def write_program(program: Program, folder: Path) -> int:
    """Write the program into an artifact's folder; returns its size in bytes."""
    data = encode(program)
    (folder / PROGRAM).write_bytes(data)
    return len(data)


def read_program(folder: Path) -> Program:
    """The program in an artifact's folder. Raises DataError if there is none or it is not one."""
    path = folder / PROGRAM
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"is larger than {MAX_FILE_BYTES} bytes", path=path)
        return decode(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from error


def sizes_of(array: Array) -> dict[str, int]:
    """The sizes of an array by name."""
    return {name: int(getattr(array, name)) for name in array.__dataclass_fields__}


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "storage": tensor.storage, "dtype": tensor.dtype, "shape": tensor.shape}


def _plain(tensor: _Tensor) -> Tensor:
    if prod(tensor.shape) > MAX_TENSOR:
        raise DataError(f"declares tensor {tensor.name!r} of more than {MAX_TENSOR} elements")
    return Tensor(tensor.name, tensor.storage, tensor.dtype, tensor.shape)


def _encoded(step: Step, kept: Any) -> dict[str, Any]:
    if isinstance(step, HostStep):
        return {"label": step.label, "network": kept(step.network), "sources": step.sources, "targets": step.targets}
    product = step.product
    geometry, window, packing = product.geometry, product.geometry.window, product.packing
    numbers = {name: getattr(product, name) for name in ("kind", "lift", "dtype", "zero", "low", "high")}
    numbers |= {"result_dtype": product.result_dtype, "result_zero": product.result_zero}
    where = {"label": step.label, "source": step.source, "target": step.target, "layout": step.layout}
    walk = {name: getattr(window, name) for name in ("kernel", "strides", "dilations", "pads")}
    return {
        **where,
        **numbers,
        **walk,
        "shape": step.shape,
        "image": geometry.image,
        "outputs": geometry.outputs,
        "groups": geometry.groups,
        "packing": (packing.lines, packing.pixels, packing.side, packing.most),
        "weights": kept(product.weights.astype("i1").tobytes()),
        "bias": kept(product.bias.astype("<i4").tobytes()),
        "entries": kept(product.entries.astype("<i4").tobytes()),
    }


def _taken(payload: bytes, blob: _Blob, dtype: str, counts: tuple[int, ...], what: str) -> np.ndarray:
    found = np.frombuffer(_bytes(payload, blob), dtype) if blob.size % np.dtype(dtype).itemsize == 0 else None
    if found is None or found.size not in counts:
        raise DataError(f"holds {blob.size} bytes of {what}, not those of {' or '.join(map(str, counts))} values")
    return found


def _bytes(payload: bytes, blob: _Blob) -> bytes:
    if blob.offset + blob.size > len(payload):
        raise DataError("points beyond its payload")
    return payload[blob.offset : blob.offset + blob.size]


def _host(step: _Host, payload: bytes) -> HostStep:
    return HostStep(step.label, _bytes(payload, step.network), step.sources, step.targets)


def _core(step: _Core, payload: bytes, array: Array) -> CoreStep:
    window = Window(step.kernel, step.strides, step.dilations, step.pads)
    if step.image[3] % step.groups or step.outputs % step.groups:
        raise DataError(f"divides {step.image[3]} inputs and {step.outputs} outputs into {step.groups} groups")
    geometry, packing = Geometry(step.image, window, step.outputs, step.groups), Packing(*step.packing)
    if min(geometry.result) < 1 or prod(geometry.result) != prod(step.shape):
        raise DataError(f"gives a result of {geometry.result} the shape {step.shape}")
    if max(prod(geometry.image), prod(geometry.weights), _largest(geometry, packing)) > MAX_TENSOR:
        raise DataError(f"declares a product of more than {MAX_TENSOR} elements")
    unfit = (misfit(piece.shape(geometry), array) for piece in pieces(geometry, packing))
    if reason := next(filter(None, unfit), None):
        raise DataError(f"holds a job that does not fit the {array} array: {reason}")
    low, high = (0, 255) if step.result_dtype == "uint8" else (-128, 127)
    if not low <= step.low <= step.high <= high or not low <= step.result_zero <= high:
        raise DataError(f"bounds {step.result_dtype} by {step.low} and {step.high}, around {step.result_zero}")
    product = Product(
        geometry=geometry,
        packing=packing,
        weights=_taken(payload, step.weights, "i1", (prod(geometry.weights),), "weights").reshape(geometry.weights),
        bias=_taken(payload, step.bias, "<i4", (step.outputs,), "biases"),
        kind=step.kind,
        entries=_taken(payload, step.entries, "<i4", (1, step.outputs), f"{step.kind} entries"),
        lift=step.lift,
        dtype=step.dtype,
        zero=step.zero,
        result_dtype=step.result_dtype,
        result_zero=step.result_zero,
        low=step.low,
        high=step.high,
    )
    return CoreStep(step.label, step.source, step.target, step.layout, step.shape, product)


def _largest(geometry: Geometry, packing: Packing) -> int:
    """Elements of the larger operand of the first job; the others are no larger."""
    shape = next(pieces(geometry, packing)).shape(geometry)
    return shape.groups * shape.k * max(shape.m, shape.n)


def _check_order(program: Program) -> None:
    """Raises DataError for a step or output that reads what nothing has written."""
    written = {tensor.storage for tensor in program.inputs}
    for step in program.steps:
        sources = (step.source,) if isinstance(step, CoreStep) else step.sources
        if missing := [name for name in sources if name not in written]:
            raise DataError(f"reads {missing[0]!r} before anything has written it")
        written |= {step.target} if isinstance(step, CoreStep) else set(step.targets)
    if missing := [tensor.storage for tensor in program.outputs if tensor.storage not in written]:
        raise DataError(f"gives out {missing[0]!r}, which nothing writes")
