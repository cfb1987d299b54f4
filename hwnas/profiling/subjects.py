"""What there is to measure in a search space or in a user's network: workloads with their frequency, whole networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from hwnas.core.device import Device
from hwnas.core.interfaces import BatchSpace, SearchSpace
from hwnas.core.workload import Block, Candidate, Network, Workload
from hwnas.digest import content_id
from hwnas.graph.builder import GraphBuilder
from hwnas.graph.fusion import split
from hwnas.graph.precision import Precision, cast, cast_block
from hwnas.graph.workloads import materialize
from hwnas.profiling.plan import Subject

if TYPE_CHECKING:
    from onnx import ModelProto

SAMPLED = 4000
"""Candidates drawn to see how often each workload occurs in a space."""
SAMPLED_ONE_BY_ONE = 200
"""The same for a space that knows no batches."""


@dataclass(frozen=True, slots=True)
class Subjects:
    """Workloads with how often a network of the space has each, and whole networks to calibrate on."""

    frequency: Mapping[Workload, float]
    by_id: Mapping[str, Subject]
    networks: Sequence[Subject]
    known: Mapping[str, Workload]


def untrained(space: SearchSpace, candidate: Candidate, precision: Precision = "fp32") -> ModelProto:
    """The candidate's network as ONNX with random weights: for timing, where the values of weights do not matter.

    A space that has a `graph` method gives it in milliseconds; any other is decoded and exported.
    """
    graph = getattr(space, "graph", None)
    if graph is not None:
        return cast(graph(candidate), precision)
    from hwnas.graph.export import export

    return cast(export(space.decode(candidate), space.input_shape), precision)


def network_subject(
    label: str, model: ModelProto, rules: str, space: str | None = None
) -> tuple[Subject, dict[str, Workload]]:
    """A whole network as a subject, and its workloads."""
    parts = split(model, rules)
    network = Network(label=label, onnx_digest=content_id(list(parts.order)), parts=dict(parts.parts), space=space)
    return Subject(network, lambda: model, tuple(parts.workloads.values())), dict(parts.workloads)


def space_subjects(
    space: SearchSpace, rules: str, networks: int, seed: int = 0, precision: Precision = "fp32"
) -> Subjects:
    """The workloads that the candidates of a space are made of, and `networks` random candidates as whole networks."""
    rng = np.random.default_rng(seed)
    blocks: tuple[Block, ...]
    if isinstance(space, BatchSpace):
        counts = space.block_counts(space.sample_batch(SAMPLED, rng))
        blocks, weights = counts.blocks, np.asarray(counts.counts.mean(0)).ravel()
    else:
        seen: dict[Block, int] = {}
        for _ in range(SAMPLED_ONE_BY_ONE):
            for block in space.blocks(space.sample(rng)):
                seen[block] = seen.get(block, 0) + 1
        blocks, weights = tuple(seen), np.array(list(seen.values())) / SAMPLED_ONE_BY_ONE
    frequency: dict[str, float] = {}
    known: dict[str, Workload] = {}
    for block, weight in zip(blocks, weights):
        parts = split(cast_block(block, precision, space.input_shape, space.classes).build(), rules)
        known.update(parts.workloads)
        for part, n in parts.parts.items():
            frequency[part] = frequency.get(part, 0.0) + n * float(weight)
    whole: list[Subject] = []
    drawn: set[Candidate] = set()
    for _ in range(20 * networks):  # a small space may not have that many
        candidate = space.sample(rng)
        if len(whole) == networks:
            break
        if candidate in drawn:
            continue
        drawn.add(candidate)
        subject, parts_of = network_subject(
            space.encode(candidate), untrained(space, candidate, precision), rules, space.id
        )
        known.update(parts_of)
        for part in parts_of:  # a rare workload that only this network has
            frequency.setdefault(part, 1.0 / SAMPLED)
        whole.append(subject)
    return _subjects(frequency, known, whole)


def network_subjects(label: str, model: ModelProto, rules: str) -> Subjects:
    """The workloads of one network, and the network itself."""
    subject, known = network_subject(label, model, rules)
    assert isinstance(subject.item, Network)
    return _subjects({k: float(n) for k, n in subject.item.parts.items()}, known, [subject])


def native_precision(device: Device) -> Precision:
    """The precision of a device unless another is named: fp32, or int8 where it computes nothing else."""
    return "fp32" if "fp32" in device.dtypes else "int8"


def reference_workload(device: Device) -> ModelProto:
    """The workload that opens and closes every session: a 3x3 convolution with ReLU6, as wide as the device can hold.

    16 channels at 32x32 (64 KiB in and out); on a microcontroller 8 channels at 12x12 (4.5 KiB in and out). In int8
    where a device computes nothing else.
    """
    channels, size = (8, 12) if device.mcu is not None else (16, 32)
    graph = GraphBuilder("reference")
    network = graph.build(graph.relu6(graph.conv(graph.input((1, channels, size, size)), channels, (3, 3))))
    return cast(network, native_precision(device))


def _subjects(frequency: Mapping[str, float], known: Mapping[str, Workload], networks: Sequence[Subject]) -> Subjects:
    by_id = {k: Subject(w, partial(materialize, w)) for k, w in known.items()}
    return Subjects({known[k]: f for k, f in frequency.items()}, by_id, networks, known)
