"""Running a partition stage by stage: what tells that the parts together still compute what the network computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hwnas.errors import DataError
from hwnas.graph.session import open_session
from hwnas.toolchains.partition.stages import Partition, Segment

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto

Compute = Callable[[Segment, Sequence["np.ndarray"]], Sequence["np.ndarray"]]
"""Computes a segment's outputs from its inputs, both in the order that the segment names them."""


def run_partition(
    divided: Partition,
    inputs: Sequence[np.ndarray],
    compute: Compute | None = None,
    graph_optimization: str = "none",
) -> list[np.ndarray]:
    """The outputs of the network: stages on the CPU in onnxruntime, segments too unless `compute` takes them.

    With `graph_optimization` none, onnxruntime computes bit for bit what it does for the whole network at that level.
    Raises DataError for inputs that are not as many as the network has, or results that are not as a segment names them.
    """
    graph = divided.graph
    if len(inputs) != len(graph.inputs):
        raise DataError(f"the network takes {len(graph.inputs)} inputs, and {len(inputs)} were given")
    known = dict(zip(graph.inputs, inputs))
    for stage in divided.stages:
        given = [known[name] for name in stage.inputs]
        if compute is not None and isinstance(stage, Segment):
            made = list(compute(stage, given))
            shapes = [graph.types[name].shape for name in stage.outputs]
            if [array.shape for array in made] != shapes:
                raise DataError(
                    f"segment {stage.index} gives {shapes}, and {[a.shape for a in made]} was computed for it"
                )
        else:
            made = run_onnx(stage.network, given, graph_optimization)
        known.update(zip(stage.outputs, made))
    return [known[name] for name in graph.outputs]


def run_onnx(network: ModelProto, inputs: Sequence[np.ndarray], graph_optimization: str = "none") -> list[np.ndarray]:
    """The outputs of an ONNX network in onnxruntime, inputs in the network's order."""
    session = open_session(network.SerializeToString(), {"threads": 1, "graph_optimization": graph_optimization})
    names = [value.name for value in network.graph.input]
    return list(session.run(None, dict(zip(names, inputs))))
