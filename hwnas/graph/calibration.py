"""What the tensors of a network hold on calibration data: their ranges, and a sample of their values.

The fp32 network runs once over the data in onnxruntime, with the tensors as its outputs. The sample is taken at even
distances, not at random: the same network and data give the same sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
from onnx import ModelProto

from hwnas.errors import BuildError, DataError
from hwnas.graph.canonical import declare
from hwnas.graph.session import open_session
from hwnas.graph.view import View

SAMPLED = 16_384
"""Values of a tensor that are kept over all calibration inputs, about."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The smallest and largest value of a tensor, evenly spaced `values` (n)."""

    low: float
    high: float
    values: np.ndarray

    def merged(self, other: Seen) -> Seen:
        """What two tensors that share a scale hold together."""
        values = np.concatenate([self.values, other.values])
        return Seen(min(self.low, other.low), max(self.high, other.high), values)


def check_calibration(graph: View, calibration: Sequence[np.ndarray]) -> None:
    """Raises DataError unless the network has one input and the data are finite inputs of its shape."""
    if len(graph.inputs) != 1:
        raise DataError(f"quantize needs a network of one input, this one has {len(graph.inputs)}")
    name = graph.inputs[0]
    shape = graph.types[name].shape
    if len(calibration) == 0:
        raise DataError("calibration needs at least one input")
    for i, array in enumerate(calibration):
        if array.shape != shape or not np.isfinite(array).all():
            given = f"of shape {array.shape}" if array.shape != shape else "with values that are not finite"
            raise DataError(
                f"calibration input {i} {given}; the network's input {name!r} is finite and of shape {shape}"
            )


def observe(
    network: ModelProto, graph: View, names: Iterable[str], calibration: Sequence[np.ndarray]
) -> Mapping[str, Seen]:
    """What the float tensors `names` of an fp32 network of one input hold over the data.

    Raises BuildError where onnxruntime cannot run the network, or a tensor is not finite.
    """
    wanted = [name for name in dict.fromkeys(names) if name not in graph.inputs]
    session = _session(network, graph, wanted)
    kept = -(-SAMPLED // len(calibration))
    samples: dict[str, list[np.ndarray]] = {name: [] for name in (*wanted, *graph.inputs)}
    lows, highs = dict.fromkeys(samples, np.inf), dict.fromkeys(samples, -np.inf)
    for given in calibration:
        array = np.ascontiguousarray(given, np.float32)
        try:
            made = session.run(wanted, {graph.inputs[0]: array}) if wanted else []
        except Exception as error:  # onnxruntime raises its own classes, which share no root
            raise BuildError("quantize", f"onnxruntime cannot run the network: {error}") from error
        for name, values in zip((*wanted, *graph.inputs), (*made, array)):
            flat = values.reshape(-1)
            low, high = float(flat.min()), float(flat.max())
            if not (np.isfinite(low) and np.isfinite(high)):
                maker = graph.operators[graph.producer[name]] if name in graph.producer else name
                raise BuildError("quantize", f"{maker} gives values that are not finite on the calibration data")
            lows[name], highs[name] = min(lows[name], low), max(highs[name], high)
            samples[name].append(flat[spread(flat.size, kept)].astype(np.float64))
    return {name: Seen(lows[name], highs[name], np.concatenate(parts)) for name, parts in samples.items()}


def spread(size: int, kept: int) -> np.ndarray:
    """At most `kept` of `size` indices, at a distance that shares no divisor with the size.

    A distance that divides the length of a row or of a plane would meet the same places of every one, its borders say.
    """
    distance = max(1, size // kept)
    while gcd(distance, size) > 1:
        distance += 1
    return (np.arange(min(size, kept)) * distance) % size


def _session(network: ModelProto, graph: View, wanted: Sequence[str]) -> Any:
    shown = ModelProto()
    shown.CopyFrom(network)
    given_out = set(graph.outputs)
    for name in wanted:
        if name not in given_out:
            declare(shown.graph.output.add(), name, graph.types[name])
    try:
        return open_session(shown.SerializeToString(), {"threads": 1, "graph_optimization": "basic"})
    except Exception as error:  # as above
        raise BuildError("quantize", f"onnxruntime cannot open the network: {error}") from error
