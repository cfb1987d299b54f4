"""Searching and verifying from Python: what `hwnas search` does, with an accuracy function of the caller's own.

Nothing is trained here and no folder is kept; a run in a folder, with training and bundle, is `hwnas.api.run`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas import __version__, registry
from hwnas.api.pieces import NO_BATCHES, estimator, load_toolchain
from hwnas.core.device import Device
from hwnas.core.estimate import Budget
from hwnas.core.interfaces import (
    AccuracyFunction,
    BatchSpace,
    DeviceFunction,
    HardwareEstimator,
    SearchSpace,
    Toolchain,
)
from hwnas.core.measurement import Samples
from hwnas.core.trial import SearchResult, Trial
from hwnas.core.workload import Candidate
from hwnas.deploy.bundle import FORMATS, write_forms
from hwnas.deploy.finalists import one_by_one, scale_rule
from hwnas.deploy.measurer import Bench, measure_candidates
from hwnas.deploy.verify import MIN_READINGS, Verdict, judge, measure_networks
from hwnas.digest import digest_bytes
from hwnas.errors import ConfigError, NoFeasibleCandidate
from hwnas.graph.precision import Precision
from hwnas.graph.quantize import quantize
from hwnas.predictors.network import NetworkPredictor
from hwnas.predictors.stack import NetworkStack
from hwnas.predictors.stack_estimator import StackEstimator
from hwnas.profiling.subjects import native_precision, untrained
from hwnas.records import write_atomically
from hwnas.search.loop import run_search

if TYPE_CHECKING:
    from onnx import ModelProto

EXPORT = "export.json"
"""The file that says what an exported network is and whether its weights are trained."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found, with all that is needed to measure it and to search on. Estimates speak, and measurements
    where the search took them; `verify` holds the best against the device."""

    result: SearchResult
    space: BatchSpace
    device: Device
    toolchain: Toolchain | None
    budget: Budget
    accuracy: AccuracyFunction
    estimates: HardwareEstimator | None
    again: Callable[[int], SearchResult] = field(repr=False)
    """Search on with what was learned, in a round of that number."""
    precision: Precision = "fp32"

    @property
    def trials(self) -> tuple[Trial, ...]:
        return self.result.trials

    @property
    def front(self) -> tuple[Trial, ...]:
        return self.result.front


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A trial as the device sees it: spaced readings, and the values (SI by metric) that the budget is held against."""

    trial: Trial
    verdict: Verdict
    values: Mapping[str, float]
    violations: Mapping[str, float]
    found: Found = field(repr=False)

    @property
    def meets_budget(self) -> bool:
        return all(v <= 0 for v in self.violations.values())

    def export(self, folder: Path | str, *, format: str | Sequence[str] = "onnx") -> list[Path]:
        """Write the network in forms of `write_forms`, with `export.json` beside it; returns what was written.

        The weights are trained where the accuracy function has a method `network(candidate)` that gives the trained
        torch module (and, for int8, inputs n x ... in `calibration`), else random; `export.json` says which. Raises ConfigError, BuildError.
        """
        formats = (format,) if isinstance(format, str) else tuple(format)
        for name in formats:
            if name not in FORMATS:
                raise ConfigError("unknown format", key="format", given=name, allowed=FORMATS)
        into, found = Path(folder), self.found
        network, weights = _deployable(found, self.trial.candidate)
        written = write_forms(network, formats, found.device, into, found.precision)
        facts = {
            "hwnas": __version__,
            "candidate": self.trial.encoded,
            "space": found.space.id,
            "weights": weights,
            "accuracy": self.trial.accuracy,
            "device": found.device.name,
            "fidelity": str(found.device.fidelity),
            "toolchain": None if found.toolchain is None else found.toolchain.name,
            "budget": found.budget.limits(),
            "metric": self.verdict.metric,
            "readings": list(self.verdict.readings),
            "values": dict(self.values),
            "files": {p.relative_to(into).as_posix(): digest_bytes(p.read_bytes()) for p in written},
        }
        write_atomically(into / EXPORT, json.dumps(facts, indent=1, sort_keys=True) + "\n")
        return [*written, into / EXPORT]


@dataclass(frozen=True, slots=True)
class Verified:
    """The trials that were verified, the most accurate first; `rounds` is how many searches it took."""

    candidates: tuple[Confirmed, ...]
    rounds: int

    @property
    def best(self) -> Confirmed:
        """The most accurate one that meets the budget on the device; there is one, or `verify` would have raised."""
        return next(c for c in self.candidates if c.meets_budget)


def search(
    space: SearchSpace,
    device: Device,
    *,
    budget: Budget,
    accuracy: AccuracyFunction,
    predictor: NetworkPredictor | NetworkStack | None = None,
    toolchain: str | None = None,
    strategy: str = "guided",
    trials: int = 2000,
    accuracy_queries: int = 100,
    device_measurements: int = 24,
    objectives: tuple[str, ...] | None = None,
    seed: int = 0,
    journal: Path | None = None,
    precision: Precision | None = None,
) -> Found:
    """Search a space under a budget, with estimates from `predictor` and measurements on the device.

    accuracy: callable on a list of candidates, giving fractions. predictor: of a latency table (`fit`) or of measured
    candidates (`fit_measurements`); it is left as it is. objectives: metrics to minimise (None: what a run is measured
    in on the device). Raises as `hwnas.search.loop.search` does.
    """
    if not isinstance(space, BatchSpace):
        raise ConfigError(NO_BATCHES.format(space.name))
    precision = precision or native_precision(device)
    chain = None if device.tabular is not None else _toolchain(device, predictor, toolchain)
    estimates = _estimates(space, device, chain, predictor, budget, precision)

    def searched(number: int) -> SearchResult:
        with _measuring(space, device, chain, device_measurements, precision) as measure:
            return run_search(
                space,
                budget,
                strategy=strategy,
                accuracy=accuracy,
                estimator=estimates,
                measure=measure,
                trials=trials,
                accuracy_queries=accuracy_queries,
                device_measurements=device_measurements,
                objectives=objectives or (device.metric,),
                seed=seed + number,
                journal=journal if not number or journal is None else journal.with_suffix(f".{number}{journal.suffix}"),
                context={"device": device.digest, "toolchain": chain and chain.name},
            )

    return Found(searched(0), space, device, chain, budget, accuracy, estimates, searched, precision)


def verify(
    found: Found,
    device: Device | None = None,
    *,
    top: int = 5,
    readings: int = MIN_READINGS,
    spacing_s: float = 0.3,
    tolerance: float = 0.1,
    rounds: int = 3,
) -> Verified:
    """Measure the `top` most accurate feasible trials; while none meets the budget, correct the estimates and search on.

    Raises NoFeasibleCandidate after `rounds` searches, naming the closest, ConfigError for another device.
    """
    if device is not None and (device.name, device.fidelity) != (found.device.name, found.device.fidelity):
        raise ConfigError(f"the search was for {found.device.name} ({found.device.fidelity}), not for {device.name}")
    result, confirmed = found.result, list[Confirmed]()
    for number in range(rounds):
        if number:
            result = found.again(number)
        known = [t for t in result.trials if t.feasible and t.accuracy is not None]
        chosen = sorted(known, key=lambda t: (-(t.accuracy or 0.0), t.number))[:top]
        confirmed = _confirm(found, chosen, readings=readings, spacing_s=spacing_s, tolerance=tolerance)
        if any(c.meets_budget for c in confirmed):
            return Verified(tuple(confirmed), number + 1)
        for c in confirmed:
            if found.estimates is not None:
                found.estimates.learn(c.trial.candidate, c.values)
    closest = min(confirmed, key=lambda c: max(c.violations.values()))
    raise NoFeasibleCandidate(closest.trial.encoded, dict(closest.violations))


def _confirm(
    found: Found, chosen: Sequence[Trial], *, readings: int, spacing_s: float, tolerance: float
) -> list[Confirmed]:
    metric = found.device.metric
    estimates = {t.candidate.id: t.estimates[metric][0] for t in chosen if metric in t.estimates}
    if found.toolchain is None:
        return [_looked_up(found, trial, estimates.get(trial.candidate.id), tolerance) for trial in chosen]
    with Bench(found.device, found.toolchain, registry.runners.load(found.device.runner)()) as bench:
        measured = measure_networks(
            bench,
            {t.candidate.id: untrained(found.space, t.candidate, found.precision) for t in chosen},
            estimates=estimates,
            confidence=found.budget.confidence,
            readings=readings,
            spacing_s=spacing_s,
            tolerance=tolerance,
        )
    by_trial = [(t, measured[t.candidate.id]) for t in chosen]
    return [Confirmed(t, m.verdict, m.values, found.budget.violations(m.values), found) for t, m in by_trial]


def _looked_up(found: Found, trial: Trial, estimate: float | None, tolerance: float) -> Confirmed:
    """A device that answers from a table says the same each time: one reading is all there is to have."""
    values = _answers(found.device, found.space)(trial.candidate)
    samples = Samples(latency_s=(values["latency"],) if "latency" in values else ())
    known = {m: mean for m, (mean, _) in trial.estimates.items()} | dict(values)
    return Confirmed(
        trial,
        judge(trial.encoded, [samples], "latency", estimate, tolerance),
        known,
        found.budget.violations(known),
        found,
    )


def _toolchain(device: Device, predictor: NetworkPredictor | NetworkStack | None, name: str | None) -> Toolchain:
    known = predictor.workloads.toolchain if isinstance(predictor, NetworkPredictor) else None
    return load_toolchain(name or known or device.toolchains[0], device)


def _estimates(
    space: BatchSpace,
    device: Device,
    toolchain: Toolchain | None,
    predictor: NetworkPredictor | NetworkStack | None,
    budget: Budget,
    precision: Precision,
) -> HardwareEstimator | None:
    others: HardwareEstimator | None = None
    if toolchain is not None:
        # A search corrects its predictor; the caller's stays as it is.
        own = NetworkPredictor.from_json(predictor.to_json()) if isinstance(predictor, NetworkPredictor) else None
        others = estimator(
            space, device, predictor=own, toolchain=toolchain.name, confidence=budget.confidence, precision=precision
        )
    if isinstance(predictor, NetworkStack):
        return StackEstimator(predictor, confidence=budget.confidence, others=others)
    return others


@contextmanager
def _measuring(
    space: BatchSpace,
    device: Device,
    toolchain: Toolchain | None,
    device_measurements: int,
    precision: Precision,
) -> Iterator[DeviceFunction | None]:
    if not device_measurements:
        yield None
    elif toolchain is None:
        yield _answers(device, space)
    else:
        with Bench(device, toolchain, registry.runners.load(device.runner)()) as bench:
            yield measure_candidates(bench, space, precision)


def _answers(device: Device, space: BatchSpace) -> DeviceFunction:
    answers: DeviceFunction = registry.runners.load(device.runner)().answers(device, space.parse)
    return answers


def _deployable(found: Found, candidate: Candidate) -> tuple[ModelProto, str]:
    """The network with trained weights where the accuracy function has them, and which weights those are."""
    network: Any = getattr(found.accuracy, "network", None)
    if network is None:
        return untrained(found.space, candidate, found.precision), "random"
    from hwnas.graph.export import export

    trained = export(network(candidate).eval(), found.space.input_shape)
    if found.precision == "fp32":
        return trained, "trained"
    inputs = getattr(found.accuracy, "calibration", None)
    if inputs is None:
        raise ConfigError("trained weights in int8 need inputs to calibrate on: give `accuracy` an array `calibration`")
    return quantize(trained, one_by_one(inputs), scale_rule(found.device)), "trained"
