"""The law of a few constants: what it recovers, what it shrugs off, and that it is read back as it was."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.errors import DataError
from hwnas.predictors.operator_law import OperatorLaw

PRICES = np.array([3e-4, 1.4e-4, 4e-5, 9e-5])


def drawn(n: int, seed: int, jump_s: float = 0.0, place_s: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """n random networks of three kinds of operators, and what they take."""
    counts = np.random.default_rng(seed).integers(0, 6, (n, 3)).astype(float)
    seconds = PRICES[0] + counts @ PRICES[1:]
    return counts, seconds + jump_s * (seconds > place_s)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_prices_are_recovered_from_twenty_networks(seed: int) -> None:
    counts, seconds = drawn(20, seed)
    others, truth = drawn(200, seed + 1)
    assert np.abs(OperatorLaw.fit(counts, seconds).predict(others) / truth - 1).max() < 0.02


def test_a_jump_is_found_where_it_is() -> None:
    counts, seconds = drawn(40, 1, jump_s=9e-5, place_s=1e-3)
    others, truth = drawn(500, 2, jump_s=9e-5, place_s=1e-3)
    errors = np.abs(OperatorLaw.fit(counts, seconds).predict(others) / truth - 1)
    plain = np.column_stack([np.ones(len(counts)), counts])
    line = np.column_stack([np.ones(500), others]) @ np.linalg.lstsq(plain, seconds, rcond=None)[0]
    assert errors.mean() < 0.006
    assert errors.mean() < 0.3 * np.abs(line / truth - 1).mean()


def test_one_bad_measurement_in_ten_does_no_harm() -> None:
    counts, seconds = drawn(40, 3)
    spoiled = seconds * np.where(np.arange(40) % 10 == 0, 1.5, 1.0)
    others, truth = drawn(200, 4)
    assert np.abs(OperatorLaw.fit(counts, spoiled).predict(others) / truth - 1).mean() < 0.02


def test_prices_are_never_negative_and_a_column_that_was_never_seen_costs_nothing() -> None:
    counts, seconds = drawn(10, 5)
    law = OperatorLaw.fit(np.column_stack([counts, np.zeros(10)]), 2e-3 - seconds / 2)
    assert (law.prices >= 0).all()
    assert law.prices[:, -1] == pytest.approx(0)
    assert law.width == 4


def test_five_networks_are_few_but_enough() -> None:
    counts, seconds = drawn(5, 6)
    found = OperatorLaw.fit(counts, seconds).predict(counts)
    assert np.abs(found / seconds - 1).max() < 0.3


def test_saved_and_read_back_it_predicts_the_same() -> None:
    counts, seconds = drawn(30, 7, jump_s=1e-4, place_s=9e-4)
    law = OperatorLaw.fit(counts, seconds)
    again = OperatorLaw.from_json(json.loads(json.dumps(law.to_json())))
    assert np.array_equal(law.predict(counts), again.predict(counts))
    document = law.to_json()
    for key, value in (
        ("prices", [1.0]),
        ("prices", [["x"]]),
        ("prices", []),
        ("heights", [1.0]),
        ("places", [0.0] * len(law.places)),
        ("heights", [float("nan")] * len(law.heights)),
        ("probability", [1.0] * len(law.probability)),
        ("probability", None),
    ):
        with pytest.raises(DataError, match="the saved operator law is not readable"):
            OperatorLaw.from_json({**document, key: value})
    with pytest.raises(DataError, match="not readable"):
        OperatorLaw.from_json({})
