"""The search loop: ask for candidates, estimate, measure, query accuracy, record, tell.

A generator of frozen events; closing it at any point is safe, because what an event tells is on disk already. The
loop decides nothing about *which* candidates to try (the strategy does) and trains and measures nothing itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hwnas import __version__, registry
from hwnas.core.estimate import Budget
from hwnas.core.interfaces import AccuracyFunction, BatchSpace, DeviceFunction, HardwareEstimator, SearchStrategy
from hwnas.core.trial import SearchResult, Trial, pareto_front
from hwnas.core.workload import Candidate
from hwnas.errors import ConfigError, NoFeasibleCandidate
from hwnas.search.answers import Answers
from hwnas.search.events import AccuracyKnown, Evaluated, Event, Finished, Front, MeasuredOnDevice, Started
from hwnas.search.journal import Journal
from hwnas.search.measured import MeasuredEstimator
from hwnas.search.problem import MEASURABLE, Columns, Problem
from hwnas.search.strategies.screened import Screen, ScreenedStrategy

__all__ = [
    "AccuracyKnown",
    "Evaluated",
    "Event",
    "Finished",
    "Front",
    "MeasuredOnDevice",
    "Started",
    "run_search",
    "search",
]
BATCH = 10
_IDLE_ROUNDS = 50
"""Rounds without a new candidate after which a strategy counts as exhausted."""


def search(
    space: BatchSpace,
    budget: Budget,
    *,
    strategy: str | SearchStrategy = "guided",
    accuracy: AccuracyFunction,
    estimator: HardwareEstimator | None = None,
    measure: DeviceFunction | None = None,
    trials: int = 2000,
    accuracy_queries: int = 100,
    device_measurements: int = 0,
    seed: int = 0,
    journal: Path | None = None,
    objectives: tuple[str, ...] = ("latency",),
    columns: Columns | None = None,
    context: Mapping[str, Any] | None = None,
    batch: int = BATCH,
    screen: Screen | None = None,
    screen_ratio: int = 2,
) -> Iterator[Event]:
    """Search a space under a budget; yields events, the last of them Finished with the SearchResult.

    accuracy: called on at most `accuracy_queries` distinct candidates; NaN where it cannot tell. estimator: batch
    estimates of hardware metrics; where it is None and the strategy wants one, whole networks measured in this search
    are its only source. measure: the device, called on at most `device_measurements` distinct candidates; when it is
    given, only measured candidates are answers. trials: how many candidates may be named in all. columns: extra
    features for accuracy predictors. context: JSON values that name what else the answers depend on (device, data);
    they join the manifest. journal: where to record, and to resume from if it exists; a strategy given as an object
    must be as new as it was at the start. screen: a cheap score, lower is better, of `screen_ratio` times as many
    candidates as go on to `accuracy`; it has to answer alike each time, and is not journaled.

    Raises ConfigError for arguments that make no sense, DataError for a foreign or damaged journal, DeviceError when
    the device is gone, and NoFeasibleCandidate at the end when nothing that was tried meets the budget.
    """
    _check(budget, objectives, trials=trials, accuracy_queries=accuracy_queries, batch=batch)
    if device_measurements < 0 or (device_measurements == 0) != (measure is None):
        raise ConfigError(
            "a device to measure on and a number of device_measurements go together", key="device_measurements"
        )
    named = strategy if isinstance(strategy, str) else getattr(strategy, "name", type(strategy).__name__)
    factory = registry.strategies.load(strategy) if isinstance(strategy, str) else None
    to_measure = tuple(m for m in dict.fromkeys([*budget.limits(), *objectives]) if m in MEASURABLE)
    if getattr(factory or strategy, "wants_estimator", False) and measure is not None:
        missing = tuple(m for m in to_measure if estimator is None or m not in estimator.metrics)
        if missing:
            estimator = MeasuredEstimator(space, missing, confidence=budget.confidence, seed=seed, others=estimator)
    known = {*(estimator.metrics if estimator else ()), *(MEASURABLE if measure else ())}
    for metric in (*budget.limits(), *objectives):
        if metric not in known:
            raise ConfigError(f"nothing here tells {metric}: neither the estimator nor a device", key=metric)
    manifest = {
        "hwnas": __version__,
        "space": space.id,
        "scope": getattr(space, "scope", None),
        "budget": budget.model_dump(mode="json"),
        "strategy": named,
        "trials": trials,
        "accuracy_queries": accuracy_queries,
        "device_measurements": device_measurements,
        "seed": seed,
        "objectives": list(objectives),
        "batch": batch,
        "screen_ratio": screen_ratio if screen is not None else 1,
        "context": dict(context or {}),
    }
    problem = Problem(
        space, budget, seed, objectives, trials, accuracy_queries, device_measurements, estimator, columns
    )
    asked = factory(problem) if factory is not None else strategy
    assert not isinstance(asked, str)
    if screen is not None:
        _check(budget, objectives, screen_ratio=screen_ratio)
        asked = ScreenedStrategy(asked, screen, screen_ratio)
    return _events(problem, asked, manifest, journal, lambda j: Answers(problem, j, accuracy, measure))


def run_search(*args: Any, **settings: Any) -> SearchResult:
    """Run `search` to its end and return the result."""
    for event in search(*args, **settings):
        if isinstance(event, Finished):
            return event.result
    raise AssertionError("a search ends with Finished or an error")


def _check(budget: Budget, objectives: tuple[str, ...], **counts: int) -> None:
    for key, value in counts.items():
        if value < 1:
            raise ConfigError(f"must be at least 1, not {value}", key=key)
    for metric in objectives:
        if metric not in Budget.METRICS:
            raise ConfigError("is not a metric", key="objectives", given=metric, allowed=Budget.METRICS)


def _events(
    problem: Problem,
    strategy: SearchStrategy,
    manifest: Mapping[str, Any],
    path: Path | None,
    answering: Callable[[Journal], Answers],
) -> Iterator[Event]:
    journal = Journal(path, manifest)
    try:
        yield Started(manifest, journal.recorded)
        yield from _Run(problem, strategy, answering(journal), journal, manifest).events()
    finally:
        journal.close()


class _Run:
    """The state of one search: its trials, and the front as last told."""

    def __init__(
        self,
        problem: Problem,
        strategy: SearchStrategy,
        answers: Answers,
        journal: Journal,
        manifest: Mapping[str, Any],
    ) -> None:
        self._problem, self._strategy, self._answers, self._journal = problem, strategy, answers, journal
        self._manifest, self._batch = manifest, int(manifest["batch"])
        self._trials: dict[Candidate, Trial] = {}
        self._front: tuple[Trial, ...] = ()
        asked = dict.fromkeys([*problem.budget.limits(), *problem.objectives])
        self._proof = tuple(m for m in asked if m in MEASURABLE) if answers.measures else ()
        # measuring is cheap and training is not: measure before, if there are measurements enough to do so
        ample = problem.device_measurements >= problem.accuracy_queries
        self._order: Literal["first", "last", "never"] = "never" if not self._proof else "first" if ample else "last"

    def events(self) -> Iterator[Event]:
        yield from self._measure_design()
        idle = 0
        while idle < _IDLE_ROUNDS and (room := self._room()) > 0:
            asked = list(dict.fromkeys(self._strategy.ask(room)))[:room]
            if not asked:
                break
            fresh = [c for c in asked if c not in self._trials]
            idle = 0 if fresh else idle + 1
            yield from self._evaluate(fresh)
            self._strategy.tell([self._trials[c] for c in asked if c in self._trials])
            for candidate in fresh:
                if candidate in self._trials:
                    yield Evaluated(self._trials[candidate])
            if self._order == "last":
                yield from self._prove(1)
            yield from self._front_if_new()
        if self._order == "last":
            yield from self._prove(None)
        yield from self._finish()

    def _room(self) -> int:
        """How many accuracies may be asked for in this round."""
        room = min(self._batch, self._problem.trials - len(self._trials), self._answers.accuracies_left)
        return min(room, self._answers.measurements_left) if self._order == "first" else room

    def _measure_design(self) -> Iterator[Event]:
        """What an estimator that starts from nothing wants measured first: a quarter of the measurements, 30 at most."""
        estimator = self._problem.estimator
        if not isinstance(estimator, MeasuredEstimator) or not self._answers.measures:
            return
        for candidate in estimator.design(design_size(self._problem.device_measurements)):
            yield from self._measure(candidate)

    def _evaluate(self, fresh: Sequence[Candidate]) -> Iterator[Event]:
        """Turn new candidates into trials: estimates, then measurements, then accuracies of those that may be feasible."""
        if not fresh:
            return
        found = self._problem.estimates(np.array([c.genotype for c in fresh], dtype=np.int64))
        drafts = []
        for i, candidate in enumerate(fresh):
            estimates = {m: (float(v[i, 0]), float(v[i, 1])) for m, v in found.items()}
            if self._order == "first" and not self._ruled_out(estimates):
                yield from self._measure(candidate)
            drafts.append(self._trial(len(self._trials) + i, candidate, estimates))
        yield from self._answers.query([t.candidate for t in drafts if t.feasible])
        for draft in drafts:
            trial = replace(draft, accuracy=self._answers.accuracy(draft.candidate))
            self._journal.add_trial(trial)
            self._trials[trial.candidate] = trial

    def _ruled_out(self, estimates: Mapping[str, tuple[float, float]]) -> bool:
        """Whether a limit that no measurement could lift is exceeded: flash, RAM, parameters."""
        exact = {m: high for m, (_, high) in estimates.items() if m not in self._proof}
        over = self._problem.budget.violations(exact)
        return any(over[m] > 0 for m in over if m in exact)

    def _trial(self, number: int, candidate: Candidate, estimates: Mapping[str, tuple[float, float]]) -> Trial:
        """A trial as far as hardware goes. Without a measurement the estimate's high end counts, if there is one."""
        reading = self._answers.reading(candidate)
        values: dict[str, float | None] = {m: high for m, (_, high) in estimates.items()}
        if reading is not None:
            values.update({m: reading.measured.get(m) for m in self._proof})
            values.update(reading.measured)
        violations = self._problem.budget.violations(values)
        if reading is None and self._order == "last":  # proven later; what nothing estimates is not held against it
            violations = {m: v for m, v in violations.items() if m in values}
        predicted = getattr(self._strategy, "predicted_accuracy", lambda _: None)(candidate)
        return Trial(
            number=number,
            candidate=candidate,
            encoded=self._problem.space.encode(candidate),
            predicted_accuracy=predicted,
            estimates=estimates,
            measured=dict(reading.measured) if reading is not None else {},
            violations=violations,
            extras={"not_measurable": reading.failure} if reading is not None and reading.failure else {},
        )

    def _measure(self, candidate: Candidate) -> Iterator[MeasuredOnDevice]:
        event = self._answers.measure(candidate)
        if event is None:
            return
        if self._problem.estimator is not None:
            self._problem.estimator.learn(candidate, event.measured)
        yield event

    def _prove(self, most: int | None) -> Iterator[Event]:
        """Measure front members that nothing but estimates speak for, the most accurate first, `most` of them."""
        count = 0
        while self._answers.measurements_left > 0 and (most is None or count < most):
            front = pareto_front(tuple(self._trials.values()), self._problem.objectives)
            unproven = [t for t in front if self._answers.reading(t.candidate) is None]
            if not unproven:
                return
            trial = max(unproven, key=lambda t: (t.accuracy or 0.0, -t.number))
            yield from self._measure(trial.candidate)
            count += 1
            proven = self._trial(trial.number, trial.candidate, trial.estimates)
            proven = replace(proven, accuracy=trial.accuracy)
            self._trials[trial.candidate] = proven
            self._strategy.tell([proven])

    def _front_if_new(self) -> Iterator[Event]:
        front = pareto_front(self._final_trials(), self._problem.objectives)
        if front != self._front:
            self._front = front
            yield Front(front)

    def _final_trials(self) -> tuple[Trial, ...]:
        """All trials; where a device can be asked, one that it was not asked about is not known to fit."""
        if not self._proof:
            return tuple(self._trials.values())
        return tuple(
            t
            if self._answers.reading(t.candidate) is not None
            else replace(t, violations={**t.violations, **dict.fromkeys(self._proof, math.inf)})
            for t in self._trials.values()
        )

    def _finish(self) -> Iterator[Event]:
        yield from self._front_if_new()
        trials = self._final_trials()
        if not self._front:
            raise self._nothing_feasible(trials)
        yield Finished(SearchResult(trials, self._front, self._manifest))

    def _nothing_feasible(self, trials: tuple[Trial, ...]) -> NoFeasibleCandidate:
        tried = [t for t in trials if t.violations and not t.feasible]
        if not tried or any(t.feasible for t in trials):
            return NoFeasibleCandidate("unknown: no candidate got both an accuracy and its hardware metrics", {})
        closest = min(tried, key=lambda t: (sum(max(v, 0.0) for v in t.violations.values()), t.number))
        return NoFeasibleCandidate(closest.encoded, dict(closest.violations))


def design_size(device_measurements: int) -> int:
    """How many of the measurements an estimator that starts from nothing gets first."""
    return min(device_measurements, max(10, min(30, device_measurements // 4)))
