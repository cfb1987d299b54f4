"""The door for a network that somebody else made: an ONNX file is hostile until every check here has passed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx.inliner
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import ModelProto, TensorProto, ValueInfoProto

from hwnas.errors import DataError, UnsupportedOperator
from hwnas.graph.canonical import since_version
from hwnas.graph.folding import fold_channel_scales, fold_constants
from hwnas.graph.simplify import drop_dead, simplify_in_place
from hwnas.graph.view import OPSET, bits_of, opset_of, without_weights

if TYPE_CHECKING:
    from onnx import GraphProto

MAX_FILE_BYTES = 2**31 - 1
"""Protobuf's own limit for a file; external data counts towards it, because a network is held in memory as one."""

OLDEST_OPSET = 7


def load_onnx(path: Path | str, shapes: Mapping[str, tuple[int, ...]] | None = None) -> ModelProto:
    """Read an ONNX file as a network that every other part of hwnas can work with: opset 18, static shapes, batch 1.

    `shapes` fixes the shapes of inputs that the file leaves open (command line: ``--shape input=1x3x224x224``).
    Constants are computed, and what follows a convolution per channel is folded into it.
    Raises DataError for a file that is broken, too large, refers to data outside its own folder or leaves a shape
    open; UnsupportedOperator for control flow, foreign domains and unknown operators.
    """
    path = Path(path)
    network = _read(path)
    try:
        _check_operators(network)
        _fix_inputs(network, dict(shapes or {}))
        network = _converted(network)
        _check(network)
        fold_constants(network)
        fold_channel_scales(network)
        drop_dead(network.graph)
        simplify_in_place(network)
    except DataError as error:
        if error.path is None:
            raise DataError(str(error), path=path, given=error.given) from error
        raise
    _check(network)
    return network


def _read(path: Path) -> ModelProto:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise DataError("is not a file", path=path)
        if size > MAX_FILE_BYTES:
            raise DataError(f"{size} bytes, at most {MAX_FILE_BYTES} are allowed", path=path)
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from error
    network = ModelProto()
    try:
        network.ParseFromString(data)
    except DecodeError:
        raise DataError("is not an ONNX file, or is cut short", path=path) from None
    if not network.graph.node:
        raise DataError("is not an ONNX file: it holds no operators", path=path)
    _check_text(network, path)
    _read_external(network, path, size)
    _check_sizes(network, path)
    if network.functions:
        network = onnx.inliner.inline_local_functions(network)
    return network


def _read_external(network: ModelProto, path: Path, size: int) -> None:
    folder = path.resolve().parent
    for tensor in _tensors(network.graph):
        if tensor.data_location != TensorProto.EXTERNAL and not tensor.external_data:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        try:
            # resolve() follows symbolic links, so a link that leads out of the folder is outside too
            file = (folder / location).resolve(strict=True)
            offset = int(entries.get("offset", 0))
            length = int(entries.get("length", file.stat().st_size - offset))
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(f"the data of tensor {tensor.name!r} cannot be found: {error}", path=path) from error
        if not location or Path(location).is_absolute() or not file.is_relative_to(folder) or not file.is_file():
            message = f"the data of tensor {tensor.name!r} is in {location!r}, outside the network's own folder"
            raise DataError(message, path=path)
        if offset < 0 or length < 0 or offset + length > file.stat().st_size:
            raise DataError(f"the data of tensor {tensor.name!r} is cut short in {location!r}", path=path)
        size += length
        if size > MAX_FILE_BYTES:
            raise DataError(f"with its external data over {MAX_FILE_BYTES} bytes", path=path)
        with file.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")


def _check_text(message: Message, path: Path) -> None:
    """Protobuf hands out a string that is not UTF-8 as bytes, which nobody expects of a name."""
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING:
            for text in value if field.is_repeated else (value,):
                if not isinstance(text, str):
                    raise DataError(f"holds a {field.name} that is not text: {bytes(text)[:40]!r}", path=path)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if field.is_repeated else (value,):
                _check_text(inner, path)


def _check_sizes(network: ModelProto, path: Path) -> None:
    """The checker does not compare a tensor's shape with the bytes it holds."""
    for tensor in _tensors(network.graph):
        if any(size < 0 for size in tensor.dims):
            raise DataError(f"tensor {tensor.name!r} declares a negative size: {list(tensor.dims)}", path=path)
        try:
            needed = (prod(tensor.dims) * bits_of(tensor.data_type) + 7) // 8
        except (KeyError, ValueError, TypeError):
            raise DataError(f"tensor {tensor.name!r} is of the unknown type {tensor.data_type}", path=path) from None
        if not tensor.HasField("raw_data"):
            try:
                onnx.numpy_helper.to_array(tensor)
            except (ValueError, TypeError) as error:
                raise DataError(f"tensor {tensor.name!r} does not hold what it declares: {error}", path=path) from None
        elif len(tensor.raw_data) != needed:
            shape = "x".join(map(str, tensor.dims)) or "1"
            message = f"tensor {tensor.name!r} of shape {shape} needs {needed} bytes and holds {len(tensor.raw_data)}"
            raise DataError(message, path=path)


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)
            for inner in attribute.graphs:
                yield from _tensors(inner)


def _check_operators(network: ModelProto) -> None:
    opset = opset_of(network)
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise DataError(f"opset {opset}; supported are {OLDEST_OPSET} to {newest}: export the network again")
    if network.graph.sparse_initializer:
        raise UnsupportedOperator(network.graph.sparse_initializer[0].values.name, "sparse weights are not supported")
    for node in network.graph.node:
        name = f"{node.op_type} {node.name!r}" if node.name else node.op_type
        if node.domain not in ("", "ai.onnx"):
            raise UnsupportedOperator(
                name, f"it is of domain {node.domain!r}; only standard ONNX operators are supported"
            )
        since_version(node.op_type, "", opset)
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise UnsupportedOperator(name, "control flow has no fixed latency; export the network without it")


def _fix_inputs(network: ModelProto, shapes: dict[str, tuple[int, ...]]) -> None:
    graph = network.graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    for name in shapes:
        if name not in {value.name for value in inputs}:
            raise DataError(f"the network has no input {name!r}", given=name, allowed=[value.name for value in inputs])
    for value in inputs:
        _fix_input(value, shapes.get(value.name))
    # what the file says about other tensors may repeat the open dimensions: infer it anew
    del graph.value_info[:]
    for output in graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")


def _fix_input(value: ValueInfoProto, shape: tuple[int, ...] | None) -> None:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.elem_type:
        raise DataError(f"input {value.name!r} is not a tensor")
    known = tensor.HasField("shape")
    given = [d.dim_value if d.HasField("dim_value") else (d.dim_param or "?") for d in tensor.shape.dim]
    if shape is not None:
        fits = not known or (
            len(given) == len(shape) and all(isinstance(g, str) or g == s for g, s in zip(given, shape))
        )
        if not fits or any(size < 1 for size in shape):
            asked = "x".join(map(str, shape))
            raise DataError(f"input {value.name!r} of shape {_shown(given)} cannot be given the shape {asked}")
        del tensor.shape.dim[:]
        for size in shape:
            tensor.shape.dim.add(dim_value=size)
        given = list(shape)
    elif not known or any(not isinstance(size, int) or size < 1 for size in given):
        example = [1 if i == 0 else g if isinstance(g, int) and g > 0 else 224 for i, g in enumerate(given)]
        fix = f"--shape {value.name}={'x'.join(map(str, example or [1, 3, 224, 224]))}"
        raise DataError(f"input {value.name!r} has the open shape {_shown(given)}; fix it, for example with {fix}")
    if len(given) > 1 and given[0] != 1:
        raise DataError(f"input {value.name!r} of shape {_shown(given)} has batch {given[0]}; export it with batch 1")


def _shown(shape: list[int | str]) -> str:
    return "x".join(map(str, shape)) if shape else "unknown"


def _converted(network: ModelProto) -> ModelProto:
    """The network in opset 18; a newer one that cannot be converted back is kept as it is."""
    opset = opset_of(network)
    if opset == OPSET:
        return network
    light = without_weights(network)
    small = {tensor.name for tensor in light.graph.initializer}
    weights = [tensor for tensor in network.graph.initializer if tensor.name not in small]
    try:
        converted = onnx.version_converter.convert_version(light, OPSET)
    except Exception as error:  # the converter's C++ raises RuntimeError and its own ConvertError
        if opset > OPSET:
            return network
        raise DataError(
            f"cannot be converted from opset {opset} to {OPSET}: {error}; export it with opset 18"
        ) from error
    # Without its values a weight was an input to the converter; with them it is none.
    stored = {tensor.name for tensor in weights}
    inputs = [value for value in converted.graph.input if value.name not in stored]
    del converted.graph.input[:]
    converted.graph.input.extend(inputs)
    converted.graph.initializer.extend(weights)
    return converted


def _check(network: ModelProto) -> None:
    try:
        # the checker insists on the shapes of outputs, which many exporters leave to inference
        onnx.checker.check_model(onnx.shape_inference.infer_shapes(without_weights(network)), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError) as error:
        raise DataError(f"is not valid ONNX: {str(error).strip().splitlines()[0]}") from error
