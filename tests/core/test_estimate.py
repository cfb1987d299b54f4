"""Estimates keep their order, budgets their side of the interval."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hwnas.core.estimate import Budget, Estimate
from hwnas.core.measurement import Fidelity


def test_an_estimate_lies_within_its_interval() -> None:
    known = Estimate(2.0, 1.0, 3.0, "table", Fidelity.HARDWARE)
    assert known == Estimate(2.0, 1.0, 3.0, "table", Fidelity.HARDWARE)
    assert known != Estimate(2.0, 1.0, 3.0, "table", Fidelity.MODEL)
    assert len({known, Estimate(2.0, 1.0, 3.0, "table", Fidelity.HARDWARE)}) == 1
    for low, high in ((2.5, 3.0), (1.0, 1.5)):
        with pytest.raises(ValueError, match="low <= mean <= high"):
            Estimate(2.0, low, high, "table", Fidelity.HARDWARE)
    with pytest.raises(TypeError):
        known + known  # type: ignore[operator]  # summing is a named function with a calibrated interval


def test_a_budget_reads_quantities_and_checks_relative_excess() -> None:
    budget = Budget(latency="10 ms", flash="1 KiB", params="2 k")
    assert budget.limits() == {"latency": 0.01, "flash": 1024.0, "params": 2000.0}
    over = budget.violations({"latency": 0.015, "flash": 512, "params": 2000})
    assert over == pytest.approx({"latency": 0.5, "flash": -0.5, "params": 0.0})
    assert str(budget) == "latency <= 10 ms, flash <= 1 KiB, params <= 2 k"
    assert str(Budget()) == "no limit"


def test_what_was_not_measured_is_not_known_to_fit() -> None:
    for values in ({}, {"energy": None}):
        assert Budget(energy="1 J").violations(values) == {"energy": math.inf}


def test_a_limit_of_zero_is_a_limit() -> None:
    assert Budget(macs=0).violations({"macs": 3}) == {"macs": 1.0}
    assert Budget(macs=0).violations({"macs": 0}) == {"macs": 0.0}


@pytest.mark.parametrize("bad", [{"latency": 3}, {"latency": "3 J"}, {"confidence": 1}, {"speed": "1 s"}])
def test_a_budget_refuses_what_is_not_one(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Budget(**bad)  # type: ignore[arg-type]


@given(st.floats(1e-9, 1e3), st.floats(1e-9, 1e3))
def test_feasible_means_at_most_the_limit(value: float, limit: float) -> None:
    over = Budget(latency=f"{limit!r} s").violations({"latency": value})["latency"]
    assert (over <= 0) == (value <= limit)


def test_a_saved_budget_can_be_read_again() -> None:
    budget = Budget(latency="10 ms", flash="1 KiB", confidence="80 %")
    assert Budget.model_validate(budget.model_dump(mode="json")) == budget
