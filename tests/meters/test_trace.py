"""The arithmetic of windows, on traces whose energy is known by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.core.interfaces import Loop
from hwnas.errors import MeasurementInvalid
from hwnas.meters.clock import fit_clock
from hwnas.meters.trace import Gate, PowerTrace, gates_of

STEP_S = 0.01
IDLE_W, ACTIVE_W = 0.2, 1.2


def step(began_s: float = 2.0, ended_s: float = 4.0, total_s: float = 6.0, offset_s: float = 0.0) -> PowerTrace:
    """Idle power, and active power between two times."""
    ends = np.arange(1, round(total_s / STEP_S) + 1) * STEP_S
    active = (ends - STEP_S / 2 > began_s) & (ends - STEP_S / 2 < ended_s)
    return PowerTrace(ends + offset_s, np.where(active, ACTIVE_W, IDLE_W), STEP_S, ("rail",))


def test_net_energy_by_the_clock() -> None:
    window = step().window(Loop(100, 2.0, 4.0), 1.0, 10)
    assert window is not None
    assert window.net_j == pytest.approx((ACTIVE_W - IDLE_W) * 2.0 / 100)
    assert window.gross_j == pytest.approx(ACTIVE_W * 2.0)
    assert window.idle_w == IDLE_W
    assert (window.samples, window.lost, window.runs) == (198, 0, 100)


@given(st.floats(-STEP_S, STEP_S), st.floats(-STEP_S, STEP_S))
def test_by_the_clock_one_interval_of_misalignment_costs_nothing(early: float, late: float) -> None:
    window = step().window(Loop(1, 2.0 + early, 4.0 + late), 1.0, 10)
    assert window is not None
    assert window.net_j == pytest.approx((ACTIVE_W - IDLE_W) * window.window_s)


def test_the_trigger_beats_the_clock() -> None:
    trace = replace(step(), gates=(Gate(2.0, 4.0),))
    window = trace.window(Loop(100, 2.03, 4.04), 1.0, 10)
    assert window is not None
    assert window.window_s == pytest.approx(2.0)
    assert window.net_j == pytest.approx((ACTIVE_W - IDLE_W) * 2.0 / 100)
    assert window.samples == 200


def test_a_falling_edge_alone_ends_the_window() -> None:
    trace = replace(step(), gates=(Gate(None, 4.0),))
    window = trace.window(Loop(1, 2.02, 4.02), 1.0, 10)
    assert window is not None
    assert window.gross_j == pytest.approx(ACTIVE_W * 2.0)


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        ((), "D0 was not raised during the loop"),
        ((Gate(0.1, 0.5),), "not raised"),
        ((Gate(None, 1.0),), "not raised"),
        ((Gate(2.0, 3.0),), r"raised for 1\.000 s, the loop lasted 2\.000 s"),
        ((Gate(2.0, 2.5), Gate(3.0, 4.0)), "raised 2 times"),
        ((Gate(2.0, math.inf),), "without an end in the recording"),
        ((Gate(-math.inf, 4.0),), "without an end in the recording"),
    ],
)
def test_a_gate_that_is_not_the_loop(gates: tuple[Gate, ...], message: str) -> None:
    with pytest.raises(MeasurementInvalid, match=message):
        replace(step(), gates=gates, trigger="D0").window(Loop(1, 2.0, 4.0), 1.0, 10)


@pytest.mark.parametrize(
    ("began_s", "ended_s"), [(-1.0, 1.0), (5.0, 7.0), (0.2, 5.8), (100.0, 102.0), (2.0, 2.0 + 2 * STEP_S)]
)
def test_a_loop_that_the_recording_does_not_hold_with_idle_time(began_s: float, ended_s: float) -> None:
    assert step().window(Loop(1, began_s, ended_s), 1.0, 10) is None


def test_an_empty_recording_is_none() -> None:
    assert PowerTrace(np.empty(0), np.empty(0), STEP_S, ("rail",)).window(Loop(1, 0.0, 1.0), 1.0, 1) is None


def test_lost_samples_are_counted_and_too_many_are_invalid() -> None:
    trace = step()
    lost = np.zeros(len(trace.ends_s), int)
    lost[300] = 3
    lost[50] = 1000  # before the window
    window = replace(trace, lost=lost).window(Loop(1, 2.0, 4.0), 1.0, 10)
    assert window is not None
    assert window.lost == 3
    lost[310] = 20
    with pytest.raises(MeasurementInvalid, match="lost 23 of 221 samples"):
        replace(trace, lost=lost).window(Loop(1, 2.0, 4.0), 1.0, 10)
    with pytest.raises(MeasurementInvalid, match="lost 500"):
        replace(trace, lost_somewhere=500).window(Loop(1, 2.0, 4.0), 1.0, 10)


@pytest.mark.parametrize("loop", [Loop(0, 2.0, 4.0), Loop(3, 4.0, 4.0), Loop(3, 4.0, 2.0)])
def test_a_loop_that_is_none(loop: Loop) -> None:
    with pytest.raises(MeasurementInvalid):
        step().window(loop, 1.0, 10)


def test_a_gap_is_bridged_by_the_power_after_it() -> None:
    trace = step()
    keep = np.ones(len(trace.ends_s), bool)
    keep[250:255] = False
    window = PowerTrace(trace.ends_s[keep], trace.power_w[keep], STEP_S, ("rail",)).window(Loop(1, 2.0, 4.0), 1.0, 10)
    assert window is not None
    assert window.gross_j == pytest.approx(ACTIVE_W * 2.0)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_gates_are_the_times_the_line_was_raised(line: list[bool]) -> None:
    ends = np.arange(1, len(line) + 1, dtype=float)
    gates = gates_of(np.asarray(line), ends, 1.0)
    rebuilt = [any(g.rise_s is not None and g.rise_s < t and t <= g.fall_s for g in gates) for t in ends]
    assert rebuilt == line
    assert len(gates) == sum(a and not b for a, b in zip(line, [False, *line]))


def test_a_clock_is_found_from_arrivals_that_are_late() -> None:
    rng = np.random.default_rng(0)
    index = np.arange(99, 100_000, 100)
    arrived = 50.0 + index * 1e-5 + rng.exponential(0.004, len(index))
    clock = fit_clock(index, arrived, 1e-5, stopped_s=51.001)
    assert clock.origin_s == pytest.approx(50.0, abs=1e-4)
    assert clock.unseen == 0


def test_a_stream_that_is_late_is_whole_and_one_that_is_short_is_not() -> None:
    index = np.arange(99, 100_000, 100)
    arrived = 50.0 + index * 1e-5
    arrived[400:] += 0.3  # a busy host
    assert fit_clock(index, arrived, 1e-5, stopped_s=51.001).unseen == 0
    arrived[400:] += 0.064  # a hundred turns of a counter modulo 64
    assert fit_clock(index, arrived, 1e-5, stopped_s=51.065).unseen == pytest.approx(6400, abs=200)
