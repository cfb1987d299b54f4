"""A meter's own sample clock on this computer's monotonic clock.

Bytes arrive late by a varying time, never early: the earliest of many arrivals tells when sample 0 was taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNSEEN_S = 0.03
UNSEEN = 1e-3
"""A stream that is short by more than this many seconds and this share of its duration has lost samples unseen."""


@dataclass(frozen=True, slots=True)
class SampleClock:
    """Sample i ended at `origin_s + i x interval_s`; `unseen` samples are missing that no counter showed."""

    origin_s: float
    interval_s: float
    unseen: int

    def ends_s(self, index: np.ndarray) -> np.ndarray:
        """When samples ended (s, `time.monotonic`), by their index: n."""
        times: np.ndarray = self.origin_s + index * self.interval_s
        return times


def fit_clock(index: np.ndarray, arrived_s: np.ndarray, interval_s: float, stopped_s: float) -> SampleClock:
    """The clock of a stream, from the index of the last sample of each of m pieces and when the piece arrived (m, s).

    `stopped_s` is when the meter was told to stop: samples that vanished without a trace are those that the stream is
    short of until then. However late its last pieces arrive, they are all there.
    """
    origin_s = float((arrived_s - index * interval_s).min())
    lasted = stopped_s - origin_s
    short_s = lasted - float(index[-1]) * interval_s
    unseen = round(short_s / interval_s) if short_s > UNSEEN_S + UNSEEN * lasted else 0
    return SampleClock(origin_s, interval_s, unseen)
