"""What an emulated board draws: a current and a trigger line that change at known times, and the energy that is true."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


class Load:
    """A current (A) that is constant between changes, on this computer's monotonic clock, and a trigger line with it."""

    def __init__(self, idle_a: float, volts: float = 3.3) -> None:
        self.idle_a, self.volts = idle_a, volts
        self._lock = threading.Lock()
        self._changes = [(-np.inf, idle_a, False)]

    def draw(self, amps: float, trigger: bool = False) -> float:
        """Draw a current from now on; returns when that was (s, `time.monotonic`)."""
        with self._lock:
            now = time.monotonic()
            self._changes.append((now, amps, trigger))
        return now

    @contextmanager
    def gate(self, amps: float, trigger: bool = True) -> Iterator[None]:
        """Draw a current with the trigger raised, and go back to idle."""
        self.draw(amps, trigger)
        try:
            yield
        finally:
            self.draw(self.idle_a)

    def at(self, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Current (A) and trigger line at n times: n floats and n booleans."""
        with self._lock:
            since, amps, trigger = (np.asarray(column) for column in zip(*self._changes))
        where = np.searchsorted(since, times_s, side="right") - 1
        return amps[where].astype(float), trigger[where].astype(bool)

    def energy_j(self, began_s: float, ended_s: float) -> float:
        """The energy (J) drawn between two times, exactly."""
        with self._lock:
            changes = list(self._changes)
        ends = [change[0] for change in changes[1:]] + [np.inf]
        charge = sum(
            amps * max(0.0, min(end, ended_s) - max(since, began_s)) for (since, amps, _), end in zip(changes, ends)
        )
        return float(charge * self.volts)
