"""What a meter saw, and the energy of a window in it: the arithmetic that every meter shares.

A trace is a row of samples, each the mean power since the one before it, on this computer's monotonic clock. It knows
nothing of how a meter is read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.core.interfaces import Loop
from hwnas.core.measurement import EnergyWindow
from hwnas.errors import MeasurementInvalid

ALIGNMENT_S = 0.05
ALIGNMENT = 0.01
"""A gate may differ from the loop by this many seconds and this share of it: what a request to a board may take."""
LOST_LIMIT = 0.05
"""A window in which a stream lost a larger share of its samples than this is not a measurement."""
IDLE_COVERAGE = 0.5
"""Idle power needs samples over at least this share of the idle time, before and after the window."""
LEAST_IDLE_SAMPLES = 3
_EPSILON_S = 1e-9


@dataclass(frozen=True, slots=True)
class Gate:
    """One time that the trigger line was raised (s, `time.monotonic`).

    `rise_s` is None where the meter reports falling edges only; -inf and inf stand for a line that was already raised
    when the recording began, or still was when it ended.
    """

    rise_s: float | None
    fall_s: float


@dataclass(frozen=True, slots=True, eq=False)
class PowerTrace:
    """A finished recording of n samples.

    ends_s: n, when each sample ended; power_w: n, mean power since the end of the sample before; interval_s: the
    nominal time between samples; lost: n, how many samples went missing just before each, and `lost_somewhere` those
    that nobody can place, of which `lost_limit` is the most that a window may have, as a share; gates: None where the meter does not see the trigger, whose name is `trigger`.
    """

    ends_s: np.ndarray
    power_w: np.ndarray
    interval_s: float
    rails: tuple[str, ...]
    lost: np.ndarray | None = None
    lost_somewhere: int = 0
    lost_limit: float = LOST_LIMIT
    gates: tuple[Gate, ...] | None = None
    trigger: str = "the trigger"

    def window(self, loop: Loop, idle_s: float, least_samples: int) -> EnergyWindow | None:
        """The energy of a loop, aligned by the trigger where the meter sees it, else by this computer's clock.

        By the clock, one interval at each end is left out, and the mean power between stands for the whole loop. Idle
        power is the median of the samples up to `idle_s` before and after. None where samples are too few. Raises
        MeasurementInvalid where the trigger does not match the loop, or too many samples were lost.
        """
        if loop.runs < 1 or not loop.ended_s > loop.began_s:
            raise MeasurementInvalid(f"a loop of {loop.runs} runs that lasted {loop.ended_s - loop.began_s:g} s")
        if len(self.ends_s) < 2:
            return None
        if self.gates is None:
            began, ended, guard = loop.began_s, loop.ended_s, self.interval_s
        else:
            began, ended = self._gate(loop, self.gates)
            guard = 0.0
        first, last = began + guard, ended - guard
        inside = self._between(first, last)
        samples = int(np.count_nonzero(inside))
        if samples < max(least_samples, 1) or not self._covers(first, last):
            return None
        lost = self.lost_somewhere + (0 if self.lost is None else int(self.lost[inside].sum()))
        if lost > self.lost_limit * (samples + lost):
            raise MeasurementInvalid(f"the meter lost {lost} of {samples + lost} samples in the window")
        idle_w = self._idle(began, ended, idle_s)
        if idle_w is None:
            return None
        mean_w = self._energy(first, last) / (last - first)
        return EnergyWindow(
            gross_j=mean_w * (ended - began), idle_w=idle_w, window_s=ended - began, runs=loop.runs, samples=samples,
            lost=lost, rails=self.rails,
        )  # fmt: skip

    def _gate(self, loop: Loop, gates: Sequence[Gate]) -> tuple[float, float]:
        """Begin and end of the one gate that is the loop. Raises MeasurementInvalid."""
        duration = loop.ended_s - loop.began_s
        tolerance = ALIGNMENT_S + ALIGNMENT * duration
        met = [g for g in gates if _meets(g, loop, tolerance)]
        if not met:
            raise MeasurementInvalid(f"{self.trigger} was not raised during the loop; is it wired to the board?")
        if len(met) > 1:
            raise MeasurementInvalid(f"{self.trigger} was raised {len(met)} times during one loop")
        rise = met[0].fall_s - duration if met[0].rise_s is None else met[0].rise_s
        lasted = met[0].fall_s - rise
        if not math.isfinite(lasted) or abs(lasted - duration) > tolerance:
            shown = f"for {lasted:.3f} s" if math.isfinite(lasted) else "without an end in the recording"
            raise MeasurementInvalid(f"{self.trigger} was raised {shown}, the loop lasted {duration:.3f} s")
        return rise, met[0].fall_s

    def _idle(self, began: float, ended: float, idle_s: float) -> float | None:
        sides = [
            self._between(began - self.interval_s - idle_s, began - self.interval_s),
            self._between(ended + self.interval_s, ended + self.interval_s + idle_s),
        ]
        lasted = np.diff(self._edges())
        for side in sides:
            if np.count_nonzero(side) < LEAST_IDLE_SAMPLES or lasted[side].sum() < IDLE_COVERAGE * idle_s:
                return None
        return float(np.median(self.power_w[sides[0] | sides[1]])) if idle_s > 0 else None

    def _between(self, first: float, last: float) -> np.ndarray:
        """Which samples lie wholly between two times: n booleans."""
        found: np.ndarray = (self._edges()[:-1] >= first - _EPSILON_S) & (self.ends_s <= last + _EPSILON_S)
        return found

    def _edges(self) -> np.ndarray:
        """Where samples begin and end: n + 1 times."""
        return np.concatenate(([self.ends_s[0] - self.interval_s], self.ends_s))

    def _covers(self, first: float, last: float) -> bool:
        begin = float(self.ends_s[0]) - self.interval_s
        return begin <= first + _EPSILON_S and float(self.ends_s[-1]) >= last - _EPSILON_S

    def _energy(self, first: float, last: float) -> float:
        """Energy (J) between two times: the integral of the samples' power, which is constant over each."""
        edges = self._edges()
        energy = np.concatenate(([0.0], np.cumsum(self.power_w * np.diff(edges))))
        low, high = np.interp([first, last], edges, energy)
        return float(high - low)


def _meets(gate: Gate, loop: Loop, tolerance: float) -> bool:
    if gate.rise_s is None:
        return abs(gate.fall_s - loop.ended_s) <= tolerance
    return gate.rise_s <= loop.ended_s + tolerance and gate.fall_s >= loop.began_s - tolerance


def gates_of(line: np.ndarray, ends_s: np.ndarray, interval_s: float) -> tuple[Gate, ...]:
    """The gates of a sampled trigger line: n booleans and the ends (s) of the n samples that they came with.

    A sample in which the line is raised belongs to the gate as a whole.
    """
    if not len(line):
        return ()
    raised = line.astype(np.int8)
    begins = ends_s - interval_s
    rises = [float(t) for t in begins[1:][np.diff(raised) == 1]]
    falls = [float(t) for t in begins[1:][np.diff(raised) == -1]]
    if line[0]:
        rises.insert(0, -math.inf)
    if line[-1]:
        falls.append(math.inf)
    return tuple(Gate(rise, fall) for rise, fall in zip(rises, falls, strict=True))
