"""Block graphs joined end to end: the untrained network of a chained space in milliseconds, without the exporter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from onnx import ModelProto, TensorProto

from hwnas.errors import DataError

FLOAT_BYTES = 4


def chain(blocks: Sequence[ModelProto]) -> ModelProto:
    """One network in which each block's only output is the next one's only input.

    A block that recurs has the same weights in another order: training leaves no two alike, and a toolchain would store
    equal ones once. Raises DataError where a block has several inputs or outputs, or the shapes do not meet.
    """
    if not blocks:
        raise DataError("a network needs at least one block")
    network = ModelProto()
    network.ir_version = blocks[0].ir_version
    network.opset_import.extend(blocks[0].opset_import)
    network.graph.name = "chain"
    previous = None
    seen: Counter[str] = Counter()
    for i, block in enumerate(blocks):
        graph = block.graph
        if len(graph.input) != 1 or len(graph.output) != 1:
            raise DataError(f"block {i} has {len(graph.input)} inputs and {len(graph.output)} outputs, not one of each")
        if previous is not None and _shape(previous) != _shape(graph.input[0]):
            raise DataError(f"block {i} takes {_shape(graph.input[0])}, but the one before gives {_shape(previous)}")
        names = {"": "", graph.input[0].name: f"b{i - 1}.out" if i else graph.input[0].name}
        names[graph.output[0].name] = f"b{i}.out"

        def rename(name: str, names: dict[str, str] = names, i: int = i) -> str:
            return names.setdefault(name, f"b{i}.{name}")

        for node in graph.node:
            copy = network.graph.node.add()
            copy.CopyFrom(node)
            copy.name = rename(node.name) if node.name else ""
            copy.input[:] = [rename(n) for n in node.input]
            copy.output[:] = [rename(n) for n in node.output]
        for tensor in graph.initializer:
            initializer = network.graph.initializer.add()
            initializer.CopyFrom(tensor)
            initializer.name = rename(tensor.name)
            if seen[graph.name] and tensor.data_type == TensorProto.FLOAT and tensor.raw_data:
                initializer.raw_data = _turned(tensor.raw_data, seen[graph.name] * FLOAT_BYTES)
        for value in [*graph.value_info, *([graph.output[0]] if i + 1 < len(blocks) else [])]:
            info = network.graph.value_info.add()
            info.CopyFrom(value)
            info.name = rename(value.name)
        seen[graph.name] += 1
        if previous is None:
            network.graph.input.add().CopyFrom(graph.input[0])
        previous = graph.output[0]
    assert previous is not None
    result = network.graph.output.add()
    result.CopyFrom(previous)
    result.name = f"b{len(blocks) - 1}.out"
    return network


def _turned(data: bytes, places: int) -> bytes:
    places %= len(data)
    return data[places:] + data[:places]


def _shape(value: object) -> tuple[int, ...]:
    return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)  # type: ignore[attr-defined]
