"""Verification: finalists on the device, by readings spaced in time, against their estimates and the budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from hwnas.core.device import Device
from hwnas.core.interfaces import Board
from hwnas.core.measurement import RunMetric, Samples
from hwnas.core.workload import Artifact
from hwnas.deploy.measurer import ACCELERATOR, Bench
from hwnas.errors import DeviceError, MeasurementInvalid
from hwnas.graph.analysis import analyse
from hwnas.profiling.measure import measure
from hwnas.profiling.stats import median_upper_bound
from hwnas.profiling.subjects import reference_workload

if TYPE_CHECKING:
    from onnx import ModelProto

MIN_READINGS = 5
MOST_ROUNDS = 4
"""Rounds, as a multiple of those that count, after which a device that will not settle is taken as it is."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A finalist's spaced readings of the device's metric, in SI: each is the median of one visit.

    `high` bounds the typical reading and is what the budget is held against; `within` tells whether the estimate's
    error stays inside the tolerance.
    """

    name: str
    metric: RunMetric
    readings: tuple[float, ...]
    estimate: float | None
    tolerance: float

    @property
    def median(self) -> float:
        return median(self.readings)

    def high(self, confidence: float = 0.9) -> float:
        """The upper bound of the median reading with that confidence: what a budget is held against."""
        return median_upper_bound(self.readings, confidence)

    @property
    def error(self) -> float | None:
        """(estimate - measured) / measured; None without an estimate."""
        return None if self.estimate is None else self.estimate / self.median - 1

    @property
    def within(self) -> bool | None:
        return None if self.error is None else abs(self.error) <= self.tolerance


def spaced_readings(
    board: Board,
    device: Device,
    artifacts: Mapping[str, Artifact],
    reference: Artifact,
    *,
    readings: int = MIN_READINGS,
    spacing_s: float = 0.3,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, list[Samples]]:
    """Visit every artifact in turn, `readings` times, spaced in time; a slow spell of the device hits all alike.

    Each round begins and ends with the reference workload. A round in which that ran slower than at its best, by more
    than the protocol's drift, is disturbed and visited again, up to MOST_ROUNDS times as many rounds in all; the
    rounds in which the reference was fastest count. A round in which the device was not fit (throttled) does not count
    at all. Nothing is chosen by the readings themselves. Raises DeviceError.
    """
    board.stage([reference, *artifacts.values()])
    rounds: list[tuple[float, dict[str, Samples]]] = []
    invalid: MeasurementInvalid | None = None
    before: float | None = None
    for attempt in range(readings * MOST_ROUNDS):
        if attempt:
            sleep(spacing_s)
        try:
            if before is None:
                before = _reading(board, device, reference)
            visits = {
                name: measure(board, artifact, device.protocol, device.metric) for name, artifact in artifacts.items()
            }
            after = _reading(board, device, reference)
        except MeasurementInvalid as error:  # throttled, say: a round that does not count
            invalid, before = error, None
            continue
        rounds.append((max(before, after), visits))
        before = after
        limit = min(slowest for slowest, _ in rounds) * (1 + device.protocol.drift)
        if sum(slowest <= limit for slowest, _ in rounds) >= readings:
            break
    if len(rounds) < min(readings, MIN_READINGS):
        raise DeviceError(
            f"the device could not be measured in {readings * MOST_ROUNDS} rounds: {invalid}"
        ) from invalid
    order = sorted(range(len(rounds)), key=lambda i: (rounds[i][0], i))[:readings]
    return {name: [rounds[i][1][name] for i in sorted(order)] for name in artifacts}


def _reading(board: Board, device: Device, artifact: Artifact) -> float:
    value = measure(board, artifact, device.protocol, device.metric).metric(device.metric)
    assert value is not None  # or `measure` would have raised
    return value


def judge(name: str, visits: Sequence[Samples], metric: RunMetric, estimate: float | None, tolerance: float) -> Verdict:
    """A verdict from the visits to one artifact, on those that hold the metric."""
    medians = tuple(v for s in visits if (v := s.metric(metric)) is not None)
    return Verdict(name, metric, medians, estimate, tolerance)


@dataclass(frozen=True, slots=True)
class Measured:
    """A network on the device: what was built, its verdict, and the values (SI by metric) that a budget is held against.

    The metric of the device's runs among them is the high reading.
    """

    artifact: Artifact
    verdict: Verdict
    values: Mapping[str, float]


def measure_networks(
    bench: Bench,
    networks: Mapping[str, ModelProto],
    *,
    estimates: Mapping[str, float],
    confidence: float,
    folder: Path | None = None,
    readings: int = MIN_READINGS,
    spacing_s: float = 0.3,
    tolerance: float = 0.1,
) -> dict[str, Measured]:
    """Build networks (by name, each into its own place in `folder`) and read them in turn, spaced in time.

    `estimates` are of the device's metric by name, where there are any. Raises BuildError, DeviceError.
    """
    artifacts = {name: bench.build(n, folder and folder / name) for name, n in networks.items()}
    reference = bench.build(reference_workload(bench.device))
    visits = spaced_readings(bench.board, bench.device, artifacts, reference, readings=readings, spacing_s=spacing_s)
    found: dict[str, Measured] = {}
    for name, network in networks.items():
        verdict = judge(name, visits[name], bench.device.metric, estimates.get(name), tolerance)
        sizes = footprint(artifacts[name], network, bench.toolchain.rules)
        values = {**sizes, **run_values(bench.device, verdict, visits[name], confidence)}
        found[name] = Measured(artifacts[name], verdict, values)
    return found


def run_values(device: Device, verdict: Verdict, visits: Sequence[Samples], confidence: float) -> dict[str, float]:
    """What a budget on running is held against (SI): the verdict's high reading, and what the device derives of a run."""
    values: dict[str, float] = {verdict.metric: verdict.high(confidence)}
    for metric in device.derived:
        known = [value for samples in visits if (value := device.value(samples, metric)) is not None]
        if known:
            values[metric] = median(known)
    return values


def footprint(artifact: Artifact, network: ModelProto, rules: str) -> dict[str, float]:
    """Flash and RAM (bytes) of what was built, parameters and multiply-accumulates, what an accelerator takes.

    Where a toolchain does not say what RAM its artifact takes, it is that of the activations alive at once; flash that
    it does not say is absent, and so in no budget.
    """
    sums = analyse(network, rules)
    return {
        **({} if artifact.flash_bytes is None else {"flash": float(artifact.flash_bytes)}),
        "ram": float(artifact.memory.get("ram", sums.peak_activation_bytes)),
        "params": float(sums.params),
        "macs": float(sums.macs),
        **{use: float(artifact.memory[use]) for use in ACCELERATOR if use in artifact.memory},
    }
