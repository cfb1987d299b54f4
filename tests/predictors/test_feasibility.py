"""Which networks run at all: hazards where a space names them, trees where it does not or where they say more."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hwnas.errors import DataError
from hwnas.predictors.feasibility import Feasibility, NoisyOr
from hwnas.spaces.cell import CellSpace
from hwnas.spaces.mbconv import mbconv_micro

SPACE = CellSpace()


def drawn(n: int, seed: int) -> np.ndarray:
    return SPACE.sample_batch(n, np.random.default_rng(seed))


def test_a_noisy_or_learns_how_often_each_hazard_strikes() -> None:
    rng = np.random.default_rng(0)
    hazards = (rng.random((4000, 3)) < 0.2).astype(float)
    survival = 0.99 * np.prod(np.where(hazards > 0, [0.1, 0.5, 1.0], 1.0), axis=1)
    found = NoisyOr.fit(hazards, rng.random(4000) > survival)
    assert found.strikes == pytest.approx([0.9, 0.5, 0.0], abs=0.05)
    assert found.leak == pytest.approx(0.01, abs=0.01)
    assert np.abs(found.runs(hazards) - survival).max() < 0.05


def test_a_hazard_that_was_never_met_still_counts() -> None:
    hazards = np.zeros((20, 2))
    hazards[:8, 0] = 1
    found = NoisyOr.fit(hazards, hazards[:, 0] > 0)
    sure, met, unmet = found.runs(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    assert sure > 0.9 > 0.6 > unmet > met


def test_hazards_that_explain_failures_are_used_and_others_are_not() -> None:
    genotypes, others = drawn(60, 1), drawn(3000, 2)
    struck = SPACE.hazards(genotypes).any(1)
    by_hazard = Feasibility.fit(SPACE, genotypes, ~struck, 0)
    assert by_hazard is not None and by_hazard.hazards is not None
    assert np.mean((by_hazard.runs(SPACE, others) > 0.5) == ~SPACE.hazards(others).any(1)) > 0.99

    genotypes = drawn(300, 3)
    runs = genotypes[:, 0] != 2  # something that no hazard knows
    by_trees = Feasibility.fit(SPACE, genotypes, runs, 0)
    assert by_trees is not None and by_trees.trees is not None
    assert np.mean((by_trees.runs(SPACE, others) > 0.5) == (others[:, 0] != 2)) > 0.99


def test_where_everything_runs_there_is_nothing_to_learn() -> None:
    assert Feasibility.fit(SPACE, drawn(10, 0), np.ones(10, bool), 0) is None


def test_one_failure_is_a_class_too() -> None:
    genotypes = drawn(12, 4)
    found = Feasibility.fit(SPACE, genotypes, np.arange(12) > 0, 0)
    assert found is not None
    assert ((found.runs(SPACE, genotypes) >= 0) & (found.runs(SPACE, genotypes) <= 1)).all()


def test_a_space_without_hazards_has_trees() -> None:
    space = mbconv_micro()
    genotypes = space.sample_batch(40, np.random.default_rng(0))
    runs = space.macs(genotypes) < np.median(space.macs(genotypes))
    found = Feasibility.fit(space, genotypes, runs, 0)
    assert found is not None and found.trees is not None
    assert np.mean((found.runs(space, genotypes) > 0.5) == runs) > 0.9


def test_saved_and_read_back_it_says_the_same() -> None:
    genotypes = drawn(50, 5)
    for runs in (~SPACE.hazards(genotypes).any(1), genotypes[:, 0] != 2):
        found = Feasibility.fit(SPACE, genotypes, runs, 0)
        assert found is not None
        again = Feasibility.from_json(json.loads(json.dumps(found.to_json())))
        assert np.allclose(found.runs(SPACE, genotypes), again.runs(SPACE, genotypes))
    for document in (3, {}, {"strikes": [0.5], "leak": 2}, {"strikes": [1.5], "leak": 0.1}, {"trees": {}}, "trees"):
        with pytest.raises(DataError, match=r"the saved feasibility is not readable|not readable"):
            Feasibility.from_json(document)
    few = Feasibility.from_json({"strikes": [0.5], "leak": 0.1})
    with pytest.raises(DataError, match="fitted on other hazards than space"):
        few.runs(SPACE, genotypes)
    with pytest.raises(DataError, match="fitted on other hazards"):
        few.runs(mbconv_micro(), genotypes)
