"""Measuring one artifact: readings until the median is known well enough, on a board that is fit to be measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hwnas.core.device import Device, Protocol
from hwnas.core.interfaces import Board, Health, Meter
from hwnas.core.measurement import EnergyWindow, Fidelity, RunMetric, Samples
from hwnas.core.workload import Artifact
from hwnas.errors import ConfigError, MeasurementInvalid
from hwnas.profiling.stats import relative_half_width

FIXED_READINGS = 10 + 50
"""The usual fixed protocol (10 warm-up and 50 timed readings) that adaptive measuring is compared with."""
PIECE = 10
"""Readings asked for at once, so that the deadline of a run is one of few readings, however many there are."""
SUSTAINED_READINGS = 40
"""A 95th percentile needs tails: two of forty readings lie above it."""
Sleep = Callable[[float], None]


def sustained(device: Device, heat_s: float) -> Device:
    """The same device under the sustained protocol: load for `heat_s` seconds first, then the 95th percentile."""
    readings = max(SUSTAINED_READINGS, device.protocol.max_readings)
    protocol = device.protocol.model_copy(
        update={"heat": heat_s, "statistic": "p95", "min_readings": SUSTAINED_READINGS, "max_readings": readings}
    )
    return device.model_copy(update={"protocol": protocol})


def measure(board: Board, artifact: Artifact, protocol: Protocol, metric: RunMetric = "latency") -> Samples:
    """Readings of one artifact, added until the 95 % interval of their median is narrow or the cap is reached.

    The board's health is looked at before and after. Raises DeviceError, as the board does, and MeasurementInvalid for
    a board that was throttled meanwhile or whose readings are not of the metric.
    """
    before = board.health()
    samples = _read(board, artifact, min(protocol.min_readings, PIECE), protocol, metric)
    while (taken := len(samples.readings(metric))) < protocol.max_readings and (
        taken < protocol.min_readings or relative_half_width(samples.readings(metric)) > protocol.interval
    ):
        more = min(PIECE, max(protocol.min_readings - taken, min(protocol.min_readings, protocol.max_readings - taken)))
        samples = _joined(samples, _read(board, artifact, more, protocol, metric))
    _require_fit(before, board.health())
    return samples


class Unfit(MeasurementInvalid):
    """The board was throttled, or said something else against being measured, before or after the readings."""


@dataclass(frozen=True, slots=True)
class EnergyMeter:
    """A meter beside a board: how energy is taken once the readings are done."""

    meter: Meter
    protocol: Protocol
    sleep: Sleep = time.sleep

    def require(self, fidelity: Fidelity) -> None:
        """Raises ConfigError for a meter whose joules are of another fidelity than the device's readings."""
        if self.meter.fidelity != fidelity:
            raise ConfigError(
                f"meter {self.meter.name} gives energy of fidelity {self.meter.fidelity}, the device is {fidelity}; "
                "two fidelities do not mix in one table"
            )

    def window(self, board: Board, artifact: Artifact) -> EnergyWindow | None:
        """One window of runs back to back, with idle time before and after; None where the meter saw too little."""
        protocol = self.protocol
        before = board.health()
        with self.meter.record() as trace:
            self.sleep(protocol.idle)
            loop = board.loop(artifact, protocol.energy_window, protocol.timeout)
            self.sleep(protocol.idle)
        _require_fit(before, board.health())
        return trace.window(loop, protocol.idle, protocol.energy_samples)


def _read(board: Board, artifact: Artifact, readings: int, protocol: Protocol, metric: RunMetric) -> Samples:
    samples = board.run(artifact, readings, protocol.timeout)
    values = samples.readings(metric)
    if not values or min(values) <= 0:
        raise MeasurementInvalid(f"the board gave {'no' if not values else 'readings of no'} {metric}")
    return samples


def _joined(a: Samples, b: Samples) -> Samples:
    return replace(
        a,
        latency_s=a.latency_s + b.latency_s,
        instructions=_both(a.instructions, b.instructions),
        cycles=_both(a.cycles, b.cycles),
    )


def _both(a: Sequence[float] | None, b: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if a is None or b is None else (*a, *b)


def _require_fit(*moments: Health) -> None:
    complaints = list(dict.fromkeys(c for health in moments for c in health.complaints))
    if complaints:
        raise Unfit(f"the board was not fit to be measured: {', '.join(complaints)}")
