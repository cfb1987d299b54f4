"""The contract of energy meters: subclass it, give it a bench, and inherit every test.

A bench is a load whose true energy is known, and a meter beside it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from hwnas.core.interfaces import Loop, Meter, Trace
from hwnas.core.measurement import EnergyWindow, Fidelity
from hwnas.emulators.load import Load
from hwnas.errors import ConfigError

IDLE_S = 0.3
RUNS = 20


@dataclass
class Bench:
    """A meter class with settings that fit, and the load that its emulator shows."""

    kind: Any
    settings: Mapping[str, Any]
    load: Load
    active_a: float

    def record(self, meter: Meter, seconds: float, idle_s: float = 2 * IDLE_S) -> tuple[Trace, Loop]:
        """One recording: idle, a loop of that many seconds, idle."""
        with meter.record() as trace:
            time.sleep(idle_s)
            began = time.monotonic()
            with self.load.gate(self.active_a):
                time.sleep(seconds)
            ended = time.monotonic()
            time.sleep(idle_s)
        return trace, Loop(RUNS, began, ended)

    def net_j(self, loop: Loop) -> float:
        """The true energy of one run above idle."""
        idle_j = self.load.idle_a * self.load.volts * (loop.ended_s - loop.began_s)
        return (self.load.energy_j(loop.began_s, loop.ended_s) - idle_j) / loop.runs


class MeterContract:
    """What every meter that samples promises. Fixture `bench`; `tolerance` is relative, of the net energy of a run."""

    tolerance = 0.01
    seconds = 1.0

    @pytest.fixture
    def bench(self) -> Bench:
        raise NotImplementedError("give the suite a fixture `bench`")

    @pytest.fixture
    def meter(self, bench: Bench) -> Iterator[Meter]:
        meter = bench.kind(bench.settings)
        yield meter
        meter.close()

    def window(self, trace: Trace, loop: Loop, least_samples: int = 5) -> EnergyWindow:
        window = trace.window(loop, IDLE_S, least_samples)
        assert window is not None
        return window

    def test_it_names_itself_and_its_fidelity(self, meter: Meter) -> None:
        assert meter.name
        assert isinstance(meter.fidelity, Fidelity)

    def test_net_energy_is_the_true_one(self, bench: Bench, meter: Meter) -> None:
        trace, loop = bench.record(meter, self.seconds)
        window = self.window(trace, loop)
        assert window.net_j == pytest.approx(bench.net_j(loop), rel=self.tolerance)
        assert window.runs == RUNS
        assert window.idle_w == pytest.approx(bench.load.idle_a * bench.load.volts, rel=0.02)
        assert window.gross_j == pytest.approx(window.net_j * RUNS + window.idle_w * window.window_s, rel=1e-9)
        assert window.rails
        assert window.samples >= 5
        assert all(type(v) is float for v in (window.gross_j, window.idle_w, window.window_s))
        assert all(type(v) is int for v in (window.samples, window.lost))

    def test_too_few_samples_are_none(self, bench: Bench, meter: Meter) -> None:
        trace, loop = bench.record(meter, 0.5)
        samples = self.window(trace, loop).samples
        assert trace.window(loop, IDLE_S, samples) is not None
        assert trace.window(loop, IDLE_S, samples + 1) is None

    def test_without_idle_time_there_is_no_energy(self, bench: Bench, meter: Meter) -> None:
        trace, loop = bench.record(meter, 0.4, idle_s=0.1)
        assert trace.window(loop, 10.0, 1) is None
        assert trace.window(loop, 0.0, 1) is None

    def test_it_records_again_and_closes_twice(self, bench: Bench, meter: Meter) -> None:
        for _ in range(2):
            trace, loop = bench.record(meter, 0.4)
            assert self.window(trace, loop).net_j == pytest.approx(bench.net_j(loop), rel=5 * self.tolerance)
        meter.close()
        meter.close()

    def test_an_error_beside_the_recording_is_not_hidden(self, bench: Bench, meter: Meter) -> None:
        with pytest.raises(KeyError, match="of the board"), meter.record():
            raise KeyError("of the board")

    def test_a_trace_that_has_not_ended_gives_nothing(self, bench: Bench, meter: Meter) -> None:
        with meter.record() as trace, pytest.raises(RuntimeError, match="has not ended"):
            trace.window(Loop(1, 0.0, 1.0), IDLE_S, 1)

    def test_a_setting_that_nobody_knows_is_named(self, bench: Bench) -> None:
        with pytest.raises(ConfigError, match="frobnication"):
            bench.kind({**bench.settings, "frobnication": 1})
