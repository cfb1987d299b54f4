"""Does the device compute what the computer computes: the same inputs through both, output by output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.core.interfaces import Board
from hwnas.core.workload import Artifact
from hwnas.graph.session import open_session

if TYPE_CHECKING:
    from onnx import ModelProto

IMAGES = 200


@dataclass(frozen=True, slots=True)
class Agreement:
    """Outputs of a device against onnxruntime without graph optimisations, on `inputs` labelled inputs.

    identical: how many inputs gave the same bits; difference: the largest absolute difference of an output;
    device_accuracy and host_accuracy: shares of inputs whose largest output is the label.
    """

    inputs: int
    identical: int
    difference: float
    device_accuracy: float
    host_accuracy: float


def accuracy_of(network: ModelProto, inputs: np.ndarray, labels: np.ndarray) -> float:
    """Share of n inputs (n x ...) whose largest output is the label, one input at a time through onnxruntime."""
    session = _session(network)
    name = session.get_inputs()[0].name
    hits = [int(np.argmax(session.run(None, {name: x[None]})[0])) == int(y) for x, y in zip(inputs, labels)]
    return float(np.mean(hits))


def agreement(
    board: Board, artifact: Artifact, network: ModelProto, inputs: np.ndarray, labels: np.ndarray, timeout_s: float
) -> Agreement:
    """Run the first IMAGES of n inputs (n x ...) on the device and here, one at a time. Raises DeviceError."""
    session = _session(network)
    name = session.get_inputs()[0].name
    board.stage([artifact])
    identical, difference, device_hits, host_hits = 0, 0.0, 0, 0
    count = min(IMAGES, len(inputs))
    for one, label in zip(inputs[:count, None], labels[:count]):
        x = np.ascontiguousarray(one, np.float32)
        there = np.asarray(board.outputs(artifact, [x], timeout_s)[0])
        here = np.asarray(session.run(None, {name: x})[0])
        there = there.reshape(here.shape)
        identical += int(np.array_equal(there, here))
        difference = max(difference, float(np.abs(there.astype(np.float64) - here).max()))
        device_hits += int(np.argmax(there)) == int(label)
        host_hits += int(np.argmax(here)) == int(label)
    return Agreement(count, identical, difference, device_hits / count, host_hits / count)


def _session(network: ModelProto) -> Any:
    # Optimised, onnxruntime fuses quantised operators into integer kernels that round in another way.
    return open_session(network.SerializeToString(), {"threads": 1, "graph_optimization": "none"})
