"""Benchmarks as accuracy functions and spaces: looked up, restricted, and strict about what the file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_search import WHOLE, few

from hwnas.core.workload import Candidate
from hwnas.errors import CandidateError, ConfigError, DataError
from hwnas.search.tabulated import TabulatedAccuracy, TabulatedSpace
from hwnas.spaces.cell import CellSpace
from hwnas.testing import SearchSpaceContract


class TestContract(SearchSpaceContract):
    exported = 1

    @pytest.fixture
    def space(self) -> TabulatedSpace:
        return few()


def written(folder: Path, text: str) -> Path:
    path = folder / "accuracy.csv"
    path.write_text(text, encoding="utf-8")
    return path


def accuracy(path: Path, unit: Any = "%") -> TabulatedAccuracy:
    return TabulatedAccuracy(path, WHOLE.parse, candidate="net", column="acc", unit=unit)


A, B = WHOLE.parse("(0, 0, 0, 0, 0, 0)"), WHOLE.parse("(0, 0, 0, 0, 0, 3)")


def test_percent_and_fractions(tmp_path: Path) -> None:
    percent = accuracy(written(tmp_path, 'net,acc\n"(0, 0, 0, 0, 0, 0)",25\n"(0, 0, 0, 0, 0, 3)",\n'))
    assert percent.candidates == (A,)
    assert percent([A, A]) == [0.25, 0.25]
    assert accuracy(written(tmp_path, 'net,acc\n"(0, 0, 0, 0, 0, 0)",0.25\n'), "fraction")([A]) == [0.25]
    with pytest.raises(DataError, match=r"has no accuracy of candidate \[0, 0, 0, 0, 0, 3\]"):
        percent([A, B])


@pytest.mark.parametrize(
    ("text", "unit", "message"),
    [
        ('net,acc\n"(0, 0, 0, 0, 0, 0)",101\n', "%", "line 2: 101 is no accuracy in the unit '%'"),
        ('net,acc\n"(0, 0, 0, 0, 0, 0)",25\n', "fraction", "no accuracy in the unit 'fraction'"),
        ('net,acc\n"(0, 0, 0, 0, 0, 0)",-1\n', "%", "no accuracy"),
        ('net,acc\n"(0, 0, 0, 0, 0, 0)",nan\n', "%", "'nan' is not a number"),
        ('net,acc\n"(0, 0, 0, 0, 0, 0)",1\n"(0, 0, 0, 0, 0, 0)",2\n', "%", "line 3: .* stands twice"),
        ('net,acc\n"(0, 0, 0, 0, 0, 0)",\n', "%", "has no accuracies"),
        ("net,acc\n", "%", "has no accuracies"),
        ("net,other\n", "%", "'acc' is not a column"),
        ("net,acc\nno network,3\n", "%", "no network"),
        ('net,acc\n"(0, 0, 0, 0, 0, 0)",25\n', "points", "is not a unit of accuracy"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text: str, unit: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        accuracy(written(tmp_path, text), unit)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        accuracy(tmp_path / "none.csv")


def test_draws_and_children_are_listed_ones() -> None:
    space, rng = few(40), np.random.default_rng(0)
    listed = set(space.enumerate())
    assert len(listed) == len(space)
    drawn = [Candidate(space.id, tuple(g)) for g in space.sample_batch(2000, rng).tolist()]
    assert set(drawn) == listed
    for _ in range(100):
        a, b = space.sample(rng), space.sample(rng)
        assert {space.mutate(a, rng), space.crossover(a, b, rng)} <= listed


def test_a_space_of_one_has_itself_for_a_child() -> None:
    space, rng = TabulatedSpace(WHOLE, [A]), np.random.default_rng(0)
    assert space.mutate(A, rng) == space.crossover(A, A, rng) == A


def test_a_listed_space_keeps_what_its_space_can_do() -> None:
    space = few()
    rows = space.sample_batch(5, np.random.default_rng(0))
    assert np.array_equal(space.features(rows), WHOLE.features(rows))
    assert np.array_equal(space.prune(rows), WHOLE.prune(rows))
    assert space.scope != few(300).scope
    assert space.scope == few().scope
    with pytest.raises(AttributeError):
        _ = space.nothing_of_that_name


def test_other_candidates_are_refused() -> None:
    with pytest.raises(CandidateError, match="is not among the 1 listed candidates of cell"):
        TabulatedSpace(WHOLE, [A]).parse(WHOLE.encode(B))
    with pytest.raises(CandidateError, match="belongs to space"):
        TabulatedSpace(CellSpace(), [A])
    with pytest.raises(ConfigError, match="at least one candidate"):
        TabulatedSpace(WHOLE, [])
