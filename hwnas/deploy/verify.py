"""Verification: finalists on the device, by readings spaced in time, against their estimates and the budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from hwnas.core.device import Device
from hwnas.core.interfaces import Board
from hwnas.core.measurement import Samples
from hwnas.core.workload import Artifact
from hwnas.deploy.measurer import Bench
from hwnas.graph.analysis import analyse
from hwnas.profiling.measure import measure
from hwnas.profiling.stats import median_upper_bound

if TYPE_CHECKING:
    from onnx import ModelProto

MIN_READINGS = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """A finalist's spaced readings: each is the median (s) of one visit; `samples` pools them.

    `high_s` bounds the typical latency and is what the budget is held against; `within` tells whether the estimate's error stays inside the tolerance.
    """

    name: str
    readings_s: tuple[float, ...]
    samples: Samples
    estimate_s: float | None
    tolerance: float

    @property
    def median_s(self) -> float:
        return median(self.readings_s)

    def high_s(self, confidence: float = 0.9) -> float:
        """The upper bound of the median reading with that confidence: what a budget is held against."""
        return median_upper_bound(self.readings_s, confidence)

    @property
    def error(self) -> float | None:
        """(estimate - measured) / measured; None without an estimate."""
        return None if self.estimate_s is None else self.estimate_s / self.median_s - 1

    @property
    def within(self) -> bool | None:
        return None if self.error is None else abs(self.error) <= self.tolerance


def spaced_readings(
    board: Board,
    device: Device,
    artifacts: Mapping[str, Artifact],
    *,
    readings: int = MIN_READINGS,
    spacing_s: float = 0.3,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[tuple[str, Samples]]:
    """Visit every artifact `readings` times in turn, so that a slow spell of the device hits all alike.

    Raises DeviceError, as the board does.
    """
    for visit in range(readings):
        for name, artifact in artifacts.items():
            yield name, measure(board, artifact, device.protocol)
        if visit + 1 < readings:
            sleep(spacing_s)


def judge(name: str, visits: Sequence[Samples], estimate_s: float | None, tolerance: float) -> Verdict:
    """A verdict from the visits to one artifact; each must hold latencies."""
    medians = tuple(v for s in visits if (v := s.metric("latency")) is not None)
    pooled = Samples(latency_s=tuple(x for s in visits for x in s.latency_s), inner=visits[0].inner)
    return Verdict(name, medians, pooled, estimate_s, tolerance)


@dataclass(frozen=True, slots=True)
class Measured:
    """A network on the device: what was built, its verdict, and the values (SI by metric) that a budget is held against.

    The latency among them is the high reading.
    """

    artifact: Artifact
    verdict: Verdict
    values: Mapping[str, float]


def measure_networks(
    bench: Bench,
    networks: Mapping[str, ModelProto],
    *,
    estimates_s: Mapping[str, float],
    confidence: float,
    folder: Path | None = None,
    readings: int = MIN_READINGS,
    spacing_s: float = 0.3,
    tolerance: float = 0.1,
) -> dict[str, Measured]:
    """Build networks (by name, each into its own place in `folder`) and read them in turn, spaced in time.

    `estimates_s` are estimated latencies by name, where there are any. Raises BuildError, DeviceError.
    """
    artifacts = {name: bench.build(n, folder and folder / name) for name, n in networks.items()}
    visits: dict[str, list[Samples]] = {name: [] for name in artifacts}
    for name, samples in spaced_readings(bench.board, bench.device, artifacts, readings=readings, spacing_s=spacing_s):
        visits[name].append(samples)
    found: dict[str, Measured] = {}
    for name, network in networks.items():
        verdict = judge(name, visits[name], estimates_s.get(name), tolerance)
        sums = analyse(network, bench.toolchain.rules)
        values = {
            "latency": verdict.high_s(confidence),
            "flash": float(artifacts[name].flash_bytes or 0),
            "ram": float(sums.peak_activation_bytes),
            "params": float(sums.params),
            "macs": float(sums.macs),
        }
        found[name] = Measured(artifacts[name], verdict, values)
    return found
