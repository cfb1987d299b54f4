"""Measuring one artifact: readings until the median is known well enough, or a cap."""

from __future__ import annotations

from dataclasses import replace

from hwnas.core.device import Protocol
from hwnas.core.interfaces import Board
from hwnas.core.measurement import Samples
from hwnas.core.workload import Artifact
from hwnas.profiling.stats import relative_half_width

FIXED_READINGS = 10 + 50
"""The usual fixed protocol (10 warm-up and 50 timed readings) that adaptive measuring is compared with."""


def measure(board: Board, artifact: Artifact, protocol: Protocol) -> Samples:
    """Readings of one artifact, added until the 95 % interval of their median is narrow or the cap is reached.

    Raises DeviceError, as the board does.
    """
    samples = board.run(artifact, protocol.min_readings, protocol.timeout)
    while (
        samples.latency_s
        and len(samples.latency_s) < protocol.max_readings
        and relative_half_width(samples.latency_s) > protocol.interval
    ):
        more = min(protocol.min_readings, protocol.max_readings - len(samples.latency_s))
        extra = board.run(artifact, more, protocol.timeout)
        samples = replace(samples, latency_s=samples.latency_s + extra.latency_s)
    return samples
