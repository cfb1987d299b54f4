"""Every registered strategy passes the shipped contract, and keeps to the limits in its own way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from small_search import WHOLE, Formula, accuracy_of, few, latency_s, limit

from hwnas import registry
from hwnas.core.trial import Trial
from hwnas.core.workload import Candidate
from hwnas.search.problem import Problem, feasibility
from hwnas.search.strategies.guided import expected_improvement
from hwnas.search.strategies.screened import ScreenedStrategy
from hwnas.search.tabulated import TabulatedSpace
from hwnas.testing import StrategyContract

SPACE = few()
Build = Callable[..., Any]


def problem(seed: int = 0, **settings: Any) -> Problem:
    usual: dict[str, Any] = {"space": SPACE, "budget": limit(6), "accuracy_queries": 40, "device_measurements": 60}
    return Problem(**{**usual, "seed": seed, **settings})


def strategy(name: str, seed: int = 0, **settings: Any) -> Any:
    return registry.strategies.load(name)(problem(seed, **settings))


def trial(number: int, candidate: Candidate, *, accuracy: float | None = None, over: float = -0.1) -> Trial:
    return Trial(number, candidate, SPACE.encode(candidate), accuracy=accuracy, violations={"latency": over})


def told_truth(asked: Sequence[Candidate], start: int = 0) -> list[Trial]:
    """Trials as a device and a training would make them."""
    found = []
    for i, candidate in enumerate(asked):
        over = latency_s(candidate) / 6e-3 - 1
        found.append(trial(start + i, candidate, accuracy=accuracy_of(candidate) if over <= 0 else None, over=over))
    return found


class TestRegistered(StrategyContract):
    @pytest.fixture
    def space(self) -> TabulatedSpace:
        return SPACE

    @pytest.fixture(params=sorted(registry.strategies.names()))
    def build(self, request: pytest.FixtureRequest) -> Build:
        return lambda seed: strategy(request.param, seed)


class TestRegisteredWithEstimator(TestRegistered):
    @pytest.fixture(params=sorted(registry.strategies.names()))
    def build(self, request: pytest.FixtureRequest) -> Build:
        return lambda seed: strategy(request.param, seed, estimator=Formula())


class TestScreened(TestRegistered):
    @pytest.fixture(params=sorted(registry.strategies.names()))
    def build(self, request: pytest.FixtureRequest) -> Build:
        def error(candidates: Sequence[Candidate]) -> list[float]:
            return [1 - accuracy_of(c) for c in candidates]

        return lambda seed: ScreenedStrategy(strategy(request.param, seed), error, 3)


@pytest.mark.parametrize("name", ["random", "evolution", "guided"])
def test_nothing_is_asked_twice_and_a_space_has_an_end(name: str) -> None:
    space = few(30)
    chosen, asked = strategy(name, space=space), []
    while batch := chosen.ask(7):
        asked += batch
        chosen.tell(told_truth(batch, len(asked)))
        assert len(asked) <= len(space)
    assert len(asked) == len(set(asked))
    assert len(asked) >= len(space) - 1


@pytest.mark.parametrize("name", ["random", "evolution", "nsga2", "guided"])
def test_an_estimate_keeps_candidates_out_that_do_not_fit(name: str) -> None:
    chosen = strategy(name, estimator=Formula(), device_measurements=0)
    first = chosen.ask(8)
    assert first
    assert all(latency_s(c) <= 6e-3 for c in first)


@pytest.mark.parametrize("name", ["evolution", "nsga2"])
def test_selection_prefers_what_fits(name: str) -> None:
    """Without any estimate, what the device said of the parents moves the children into the limits."""
    chosen, asked = strategy(name, space=WHOLE, budget=limit(3), accuracy_queries=200), []
    for _ in range(25):
        batch = list(dict.fromkeys(chosen.ask(8)))
        chosen.tell(
            [
                trial(len(asked) + i, c, accuracy=accuracy_of(c), over=latency_s(c) / 3e-3 - 1)
                for i, c in enumerate(batch)
            ]
        )
        asked += batch
    base = np.mean([latency_s(c) <= 3e-3 for c in WHOLE.enumerate()])
    late = np.mean([latency_s(c) <= 3e-3 for c in asked[40:120]])
    assert late > 1.5 * base


def test_evolution_and_nsga2_live_with_infinite_violations_and_no_accuracy() -> None:
    for name in ("evolution", "nsga2"):
        chosen = strategy(name)
        for start in range(0, 60, 6):
            batch = chosen.ask(6)
            chosen.tell([trial(start + i, c, over=math.inf) for i, c in enumerate(batch)])
        assert chosen.ask(6)


def test_nsga2_finds_a_front_of_two_objectives() -> None:
    chosen, asked = strategy("nsga2", budget=limit(50), accuracy_queries=200), []
    for _ in range(30):
        batch = chosen.ask(8)
        found = [
            Trial(len(asked) + i, c, "", accuracy=accuracy_of(c), measured={"latency": latency_s(c)}, violations={})
            for i, c in enumerate(batch)
        ]
        chosen.tell(found)
        asked += batch
    late = asked[-40:]
    whole = list(SPACE.enumerate())
    worth = [accuracy_of(c) - 30 * latency_s(c) for c in whole]
    assert np.mean([accuracy_of(c) - 30 * latency_s(c) for c in late]) > np.mean(worth)


def test_spaces_of_one_candidate_end() -> None:
    for name in sorted(registry.strategies.names()):
        space = TabulatedSpace(WHOLE, [next(SPACE.enumerate())])
        chosen = strategy(name, space=space)
        assert set(chosen.ask(3)) == set(space.enumerate())
        chosen.tell(told_truth(list(space.enumerate())))
        assert set(chosen.ask(3)) <= set(space.enumerate())


def test_guided_never_asks_again_for_what_does_not_fit() -> None:
    chosen, told = strategy("guided"), set[Candidate]()
    for round_ in range(6):
        batch = chosen.ask(8)
        assert not told & set(batch)
        chosen.tell(
            [trial(8 * round_ + i, c, accuracy=accuracy_of(c), over=0.2 * (i % 2)) for i, c in enumerate(batch)]
        )
        told |= set(batch)


def test_guided_never_asks_for_what_it_was_only_told_of() -> None:
    chosen, others = strategy("guided"), list(SPACE.enumerate())[:200]
    chosen.tell(told_truth(others))
    for _ in range(3):
        batch = chosen.ask(10)
        assert batch
        assert not set(others) & set(batch)
        chosen.tell(told_truth(batch))


def test_guided_learns_what_is_good() -> None:
    chosen = strategy("guided", estimator=Formula())
    rounds = []
    for start in range(0, 40, 10):
        batch = chosen.ask(10)
        chosen.tell(told_truth(batch, start))
        rounds.append(np.mean([accuracy_of(c) for c in batch]))
    assert max(rounds[1:]) > rounds[0] + 0.05
    assert chosen.predicted_accuracy(batch[0]) == pytest.approx(accuracy_of(batch[0]), abs=0.15)


def test_guided_lives_in_a_space_that_cannot_be_listed() -> None:
    class Unlisted:
        """The same space without `enumerate` and length."""

        def __getattr__(self, name: str) -> Any:
            if name in ("enumerate", "__len__"):
                raise AttributeError(name)
            return getattr(WHOLE, name)

    chosen, asked = strategy("guided", space=Unlisted(), estimator=Formula()), list[Candidate]()
    for start in range(0, 30, 10):
        batch = chosen.ask(10)
        chosen.tell(told_truth(batch, start))
        asked += batch
    assert len(asked) == len(set(asked)) == 30


def test_a_screen_passes_the_best_first_and_the_rest_later() -> None:
    class InOrder:
        def __init__(self) -> None:
            self.left = list(SPACE.enumerate())[:10]

        def ask(self, n: int) -> list[Candidate]:
            taken, self.left = self.left[:n], self.left[n:]
            return taken

        def tell(self, trials: Any) -> None:
            """It learns nothing."""

    order = {c: float(i) for i, c in enumerate(SPACE.enumerate())}
    order[next(iter(order))] = math.nan
    seen: list[int] = []

    def score(candidates: Sequence[Candidate]) -> list[float]:
        seen.append(len(candidates))
        return [-order[c] for c in candidates]

    screened = ScreenedStrategy(InOrder(), score, 2)
    asked = [
        [int(-score([c])[0]) if c in order and order[c] == order[c] else -1 for c in screened.ask(3)] for _ in range(4)
    ]
    assert asked == [[5, 4, 3], [9, 8, 7], [6, 2, 1], [-1]]
    assert 0 not in seen, "an exhausted strategy is no question to the screen"
    assert screened.ask(3) == []


def test_expected_improvement_by_hand() -> None:
    mean, spread = np.array([0.9, 0.8, 0.9]), np.array([0.0, 0.1, 0.1])
    gain = expected_improvement(mean, spread, 0.8)
    assert gain[0] == pytest.approx(0.1)
    assert gain[1] == pytest.approx(0.1 * 0.3989423, rel=1e-5)
    assert gain[2] == pytest.approx(0.1 * 0.8413447 + 0.1 * 0.2419707, rel=1e-5)


def test_feasibility_by_hand() -> None:
    budget = limit(10, energy="1 J")
    estimates = {
        "latency": np.array([[5e-3, 5e-3], [10e-3, 12e-3], [8e-3, 10e-3], [math.inf, math.inf], [11e-3, 11e-3]])
    }
    assert feasibility(budget, estimates) == pytest.approx([1, 0.5, 0.9, 0, 0])
    estimates["energy"] = np.array([[1.0, 2.0]] * 5)
    assert feasibility(budget, estimates) == pytest.approx([0.5, 0.25, 0.45, 0, 0])
