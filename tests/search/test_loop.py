"""The search loop: same seed same search, nothing asked twice, nothing asked beyond the counts, honest ends."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_search import Formula, Outside, accuracy_of, events_of, few, latency_s, limit, result_of

from hwnas.core.estimate import Budget
from hwnas.core.trial import pareto_front
from hwnas.errors import ConfigError, DataError, DeviceUnavailable, NoFeasibleCandidate
from hwnas.search.events import AccuracyKnown, Evaluated, Finished, Front, MeasuredOnDevice, Started

STRATEGIES = ("random", "evolution", "nsga2", "guided")
TABLES = pytest.mark.parametrize("strategy", STRATEGIES)


@TABLES
def test_the_same_seed_gives_the_same_search_whatever_the_global_state(strategy: str) -> None:
    np.random.seed(1)
    first = result_of(Outside(), strategy=strategy, seed=3)
    np.random.seed(2)
    assert result_of(Outside(), strategy=strategy, seed=3) == first
    other = result_of(Outside(), strategy=strategy, seed=4)
    assert [t.candidate for t in other.trials] != [t.candidate for t in first.trials]


@TABLES
@pytest.mark.parametrize("measurements", [24, 5, 0])
def test_counts_are_limits(strategy: str, measurements: int) -> None:
    outside = Outside(untrainable=0.2, broken=0.1)
    result = result_of(
        outside,
        strategy=strategy,
        estimator=None if measurements == 24 else Formula(),
        measure=outside.measure if measurements else None,
        device_measurements=measurements,
        trials=30,
        seed=1,
    )
    assert len(result.trials) <= 30
    assert len(outside.trained) == len(set(outside.trained)) <= 12
    assert len(outside.measured) == len(set(outside.measured)) <= measurements
    assert [t.number for t in result.trials] == list(range(len(result.trials)))
    assert sum(t.accuracy is not None for t in result.trials) <= len(outside.trained)


@TABLES
def test_few_trials_end_the_search(strategy: str) -> None:
    result = result_of(Outside(), strategy=strategy, estimator=Formula(), trials=7, accuracy_queries=50)
    assert len(result.trials) <= 7


def test_what_is_returned_was_measured_and_fits() -> None:
    for measurements in (24, 6):
        outside = Outside(broken=0.1)
        result = result_of(outside, strategy="evolution", estimator=Formula(), device_measurements=measurements)
        assert result.front
        for trial in result.front:
            assert trial.candidate in outside.measured
            assert trial.measured["latency"] == latency_s(trial.candidate) <= 6e-3
            assert trial.accuracy == accuracy_of(trial.candidate)
        assert result.front == pareto_front(result.trials, ("latency",))
        assert result.best in result.front


def test_an_estimate_that_lies_is_caught_by_the_device() -> None:
    class Optimist(Formula):
        def estimate(self, genotypes: np.ndarray) -> dict[str, np.ndarray]:
            return {m: v / 3 for m, v in super().estimate(genotypes).items()}

    result = result_of(Outside(), estimator=Optimist(), device_measurements=8, accuracy_queries=20)
    assert all(latency_s(t.candidate) <= 6e-3 for t in result.front)
    assert any(t.measured and not t.feasible for t in result.trials)


def test_a_device_without_any_limit_still_measures_the_objective() -> None:
    outside = Outside()
    result = result_of(outside, budget=Budget())
    assert all(t.measured for t in result.front)
    assert outside.measured


@TABLES
def test_events_come_in_order_and_tell_what_happened(strategy: str) -> None:
    outside = Outside(untrainable=0.1)
    events = list(events_of(outside, strategy=strategy, seed=2))
    assert isinstance(events[0], Started)
    assert events[0].recorded == 0
    assert isinstance(events[-1], Finished)
    known = [e for e in events if isinstance(e, AccuracyKnown)]
    assert [e.candidate for e in known] == outside.trained
    assert [e.count for e in known] == list(range(1, len(known) + 1))
    read = [e for e in events if isinstance(e, MeasuredOnDevice)]
    assert [e.candidate for e in read] == outside.measured
    assert [e.count for e in read] == list(range(1, len(read) + 1))
    assert not any(e.replayed for e in known + read)
    assert [e.trial for e in events if isinstance(e, Evaluated)] == list(events[-1].result.trials)
    assert [e for e in events if isinstance(e, Front)][-1].trials == events[-1].result.front


@TABLES
@pytest.mark.parametrize("measurements", [24, 5])
def test_a_search_cut_off_anywhere_goes_on_as_if_it_had_not_been(
    strategy: str, measurements: int, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "strategy": strategy,
        "estimator": Formula(),
        "space": few(),
        "device_measurements": measurements,
        "seed": 5,
    }
    whole = Outside(untrainable=0.1, broken=0.1)
    journal = tmp_path / "whole.jsonl"
    expected = result_of(whole, journal, **settings)
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) > 20
    for kept in range(len(lines) + 1):
        cut = tmp_path / f"{kept}.jsonl"
        torn = lines[kept][: len(lines[kept]) // 2] if kept < len(lines) and kept % 2 else b""
        cut.write_bytes(b"".join(lines[:kept]) + torn)
        outside = Outside(untrainable=0.1, broken=0.1)
        assert result_of(outside, cut, **settings) == expected
        assert cut.read_bytes() == journal.read_bytes()
        answered = sum(b'"accuracy":' in line and b'"trial":' not in line for line in lines[:kept])
        measured = sum(b'"measured":' in line and b'"trial":' not in line for line in lines[:kept])
        failed = sum(b'"failure":' in line and b'"trial":' not in line for line in lines[:kept])
        assert outside.trained == whole.trained[answered:]
        assert outside.measured == whole.measured[measured + failed :]


def test_a_guided_search_without_estimator_resumes_too(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"strategy": "guided", "accuracy_queries": 16, "device_measurements": 40, "seed": 1}
    journal = tmp_path / "whole.jsonl"
    expected = result_of(Outside(), journal, **settings)
    lines = journal.read_bytes().splitlines(keepends=True)
    for kept in (1, 5, len(lines) // 2, len(lines) - 3):
        cut = tmp_path / f"{kept}.jsonl"
        cut.write_bytes(b"".join(lines[:kept]))
        assert result_of(Outside(), cut, **settings) == expected
        assert cut.read_bytes() == journal.read_bytes()


def test_closing_the_generator_keeps_what_was_told(tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    first = Outside()
    running = events_of(first, journal)
    for event in running:
        if isinstance(event, AccuracyKnown) and event.count == 5:
            break
    running.close()  # type: ignore[attr-defined]
    second = Outside()
    events = list(events_of(second, journal))
    assert isinstance(events[0], Started)
    assert events[0].recorded == 5 + len(first.measured)
    assert first.trained + second.trained == [e.candidate for e in events if isinstance(e, AccuracyKnown)]
    assert sum(e.replayed for e in events if isinstance(e, AccuracyKnown)) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 9},
        {"budget": limit(7)},
        {"strategy": "evolution"},
        {"accuracy_queries": 13},
        {"context": {"device": "another"}},
        {"space": few(300)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_journal_of_another_search_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    result_of(Outside(), journal)
    before = journal.read_bytes()
    outside = Outside()
    key = {"space": "scope"}.get(next(iter(change)), next(iter(change)))
    with pytest.raises(DataError, match=f"belongs to another search .*{key}"):
        result_of(outside, journal, **change)
    assert journal.read_bytes() == before
    assert not outside.trained


def test_a_journal_of_other_code_is_refused(tmp_path: Path) -> None:
    class Other(Formula):
        def estimate(self, genotypes: np.ndarray) -> dict[str, np.ndarray]:
            return {m: 1.01 * v for m, v in super().estimate(genotypes).items()}

    journal = tmp_path / "j.jsonl"
    result_of(Outside(), journal, estimator=Formula())
    with pytest.raises(DataError, match="is not the one recorded there"):
        result_of(Outside(), journal, estimator=Other())


@TABLES
def test_an_impossible_budget_names_the_closest(strategy: str) -> None:
    space, outside = few(), Outside()
    with pytest.raises(NoFeasibleCandidate, match=r"over latency by [\d.]+ %") as raised:
        result_of(outside, strategy=strategy, space=space, budget=limit(0.3))
    over = raised.value.violations["latency"]
    closest = space.parse(raised.value.closest)
    assert over == pytest.approx(latency_s(closest) / 0.3e-3 - 1)
    assert not outside.trained, "what does not fit need not be trained"
    assert latency_s(closest) == min(map(latency_s, outside.measured))


def test_no_accuracy_at_all_is_no_answer() -> None:
    with pytest.raises(NoFeasibleCandidate, match="no candidate got both an accuracy and its hardware metrics"):
        result_of(Outside(untrainable=1.1))


@TABLES
def test_failed_trainings_and_crashes_are_rows(strategy: str, tmp_path: Path) -> None:
    outside = Outside(untrainable=0.3, broken=0.3)
    result = result_of(outside, tmp_path / "j.jsonl", strategy=strategy, seed=1)
    crashed = [t for t in result.trials if t.extras]
    assert crashed
    for trial in crashed:
        assert trial.extras["not_measurable"] == "DeviceCrashed: the program ended with signal 11"
        assert trial.violations["latency"] == math.inf
        assert trial.accuracy is None
    assert all(t.accuracy is not None and not t.extras for t in result.front)


def test_a_device_that_is_gone_stops_the_search_which_then_goes_on(tmp_path: Path) -> None:
    outside, journal = Outside(), tmp_path / "j.jsonl"
    expected = result_of(Outside())

    def unplugged(candidate: Any) -> dict[str, float]:
        if len(outside.measured) == 7:
            raise DeviceUnavailable("the cable is out")
        return outside.measure(candidate)

    with pytest.raises(DeviceUnavailable):
        result_of(outside, journal, measure=unplugged)
    again = Outside()
    assert result_of(again, journal) == expected
    assert not set(again.measured) & set(outside.measured)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda cs: [1.5 for _ in cs], "accuracy 1.5 of .* is not a fraction"),
        (lambda cs: [91 for _ in cs], "is not a fraction"),
        (lambda cs: [0.5], "gave 1 values for 4 candidates"),
        (lambda cs: [0.5] * 5, "gave 5 values for 4 candidates"),
        (lambda cs: iter([0.5]), "gave 1 values for 4 candidates"),
        (lambda cs: ["good"] * 4, "accuracy 'good' of .* is not a number"),
    ],
)
def test_impossible_accuracies_are_an_error(answer: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        result_of(Outside(), accuracy=answer, budget=limit(50))


@pytest.mark.parametrize(
    "answer", [{}, {"latency": -1.0}, {"latency": math.nan}, {"latency": math.inf}, {"latency": "slow"}]
)
def test_impossible_measurements_are_an_error(answer: Any) -> None:
    with pytest.raises(ConfigError, match="which are no measurements"):
        result_of(Outside(), measure=lambda _: answer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trials": 0}, "at least 1"),
        ({"accuracy_queries": 0}, "at least 1"),
        ({"batch": 0}, "at least 1"),
        ({"device_measurements": -1}, "go together"),
        ({"device_measurements": 0}, "go together"),
        ({"objectives": ("speed",)}, "is not a metric"),
        ({"budget": limit(5, flash="1 kB")}, "nothing here tells flash"),
        ({"measure": None}, "nothing here tells latency"),
        ({"strategy": "gided"}, "guided"),
        ({"screen": lambda cs: [0.0] * len(cs), "screen_ratio": 0}, "at least 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_arguments_that_make_no_sense_are_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        result_of(Outside(), **settings)


@TABLES
def test_a_screen_lets_the_better_half_through(strategy: str) -> None:
    def error(candidates: Any) -> list[float]:
        return [1 - accuracy_of(c) for c in candidates]

    settings: dict[str, Any] = {"strategy": strategy, "estimator": Formula(), "device_measurements": 12}
    screened, plain = Outside(), Outside()
    first = result_of(screened, **settings, screen=error, screen_ratio=4)
    assert first == result_of(Outside(), **settings, screen=error, screen_ratio=4)
    assert first.manifest["screen_ratio"] == 4
    assert result_of(plain, **settings).manifest["screen_ratio"] == 1
    assert len(screened.trained) <= 12
    if strategy == "random":
        assert np.mean([accuracy_of(c) for c in screened.trained]) > np.mean([accuracy_of(c) for c in plain.trained])


def test_a_screen_that_answers_for_others_is_an_error() -> None:
    with pytest.raises(ConfigError, match="the screen gave 1 scores for 8 candidates"):
        result_of(Outside(), screen=lambda cs: [0.5])


def test_a_small_space_is_searched_to_its_end() -> None:
    space, outside = few(6), Outside()
    result = result_of(outside, space=space, budget=limit(50), accuracy_queries=100, device_measurements=100)
    assert len(result.trials) == len(space)
    assert result.best is not None
    assert result.best.accuracy == max(map(accuracy_of, space.enumerate()))


def test_guided_search_beats_random_on_nas_bench_201(shared_data: Path) -> None:
    from tests.bench.bench_search_tabular import Benchmark, Task

    benchmark = Benchmark(shared_data, "edgegpu")
    regret = {
        method: [benchmark.run(Task("edgegpu", 0.25, method, seed), 60, measurements) for seed in range(2)]
        for method, measurements in (("random", 60), ("guided", 110))
    }
    assert all(o.queries <= 60 for runs in regret.values() for o in runs)
    assert all(o.measurements <= 110 for o in regret["guided"])
    mean = {method: np.mean([o.regret for o in runs]) for method, runs in regret.items()}
    assert mean["guided"] < mean["random"] / 2
