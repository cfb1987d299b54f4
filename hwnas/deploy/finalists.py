"""Finalists: trained on several seeds to choose among them, trained fully to deploy, measured to be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas import registry
from hwnas.accuracy.trained import TrainedAccuracy
from hwnas.accuracy.training import Training
from hwnas.core.artifact import read_artifact
from hwnas.core.device import Device
from hwnas.core.estimate import Budget
from hwnas.core.workload import Artifact, Candidate
from hwnas.deploy.agreement import accuracy_of
from hwnas.deploy.measurer import Bench
from hwnas.deploy.verify import Verdict, measure_networks
from hwnas.errors import DataError, TrainingFailed
from hwnas.graph.export import export
from hwnas.graph.precision import Precision
from hwnas.graph.quantize import quantize
from hwnas.graph.scales import ScaleRule

if TYPE_CHECKING:
    from onnx import ModelProto


CALIBRATION = 128
"""Training inputs that the ranges of an int8 network are taken from."""


def one_by_one(inputs: np.ndarray) -> list[np.ndarray]:
    """The first CALIBRATION of n inputs, each as a batch of one."""
    return [inputs[i : i + 1] for i in range(min(CALIBRATION, len(inputs)))]


def scale_rule(device: Device) -> ScaleRule:
    """How networks are quantised for a device: powers of two, unless its toolchain computes closer with free scales."""
    rule: ScaleRule = getattr(registry.toolchains.load(device.toolchains[0]), "scales", "power-of-two")
    return rule


@dataclass(frozen=True, slots=True)
class Trained:
    """A candidate trained for deployment: seeds it was compared on, and the network that is deployed.

    val_accuracies: one a seed, each trained on the train part alone. final: the training (train and validation part)
    that gave `network`; its test accuracy was not looked at before the choice was made.
    """

    candidate: Candidate
    encoded: str
    val_accuracies: tuple[float, ...]
    curves: tuple[tuple[int, Training], ...]
    final: Training
    network: ModelProto

    def deployed(self, precision: Precision, calibration: np.ndarray, device: Device) -> ModelProto:
        """The network in the precision that the device runs; `calibration` is n x ... inputs for int8."""
        if precision == "fp32":
            return self.network
        return quantize(self.network, one_by_one(calibration), scale_rule(device))


@dataclass(frozen=True, slots=True)
class Finalist:
    """A trained candidate with what the device said of it.

    test_accuracy: of the network in the precision that is deployed. estimates: metric -> (mean, high). values: what the budget is held against (of the device's metric the high reading), in SI.
    """

    trained: Trained
    artifact: Artifact
    verdict: Verdict
    estimates: Mapping[str, tuple[float, float]]
    values: Mapping[str, float]
    violations: Mapping[str, float]
    test_accuracy: float | None

    @property
    def meets_budget(self) -> bool:
        return all(v <= 0 for v in self.violations.values())


def train_finalists(accuracy: TrainedAccuracy, candidates: Sequence[Candidate], seeds: Sequence[int]) -> list[Trained]:
    """Train each candidate on every seed and, on train and validation part together, the network to deploy.

    Failed trainings drop their candidate. Raises TrainingFailed if that leaves none.
    """
    accuracy.rows(candidates, seeds)
    plan = accuracy.plan.model_copy(update={"fit_on": "train+val", "patience": None})
    full = TrainedAccuracy(accuracy.space, accuracy.dataset, plan, accuracy.table, accuracy.pool, accuracy.seed)
    full.rows(candidates)
    found: list[Trained] = []
    for candidate in candidates:
        rows = accuracy.rows([candidate], seeds)
        final = full.rows([candidate])[0].result
        curves = [(row.seed, row.result) for row in rows if isinstance(row.result, Training)]
        if len(curves) < len(seeds) or not isinstance(final, Training):
            continue
        found.append(
            Trained(
                candidate=candidate,
                encoded=accuracy.space.encode(candidate),
                val_accuracies=tuple(row.accuracy for row in rows),
                curves=tuple(curves),
                final=final,
                network=export(full.network(candidate), accuracy.space.input_shape),
            )
        )
    if not found:
        raise TrainingFailed(f"none of the {len(candidates)} finalists could be trained")
    return found


def measure_finalists(
    bench: Bench,
    trained: Sequence[Trained],
    budget: Budget,
    *,
    estimates: Mapping[str, Mapping[str, tuple[float, float]]],
    folder: Path,
    readings: int,
    spacing_s: float,
    tolerance: float,
    precision: Precision,
    calibration: np.ndarray,
    test: tuple[np.ndarray, np.ndarray],
) -> list[Finalist]:
    """Build each finalist, read them in turn, spaced in time, and hold the high reading against the budget.

    `estimates` is candidate id -> metric -> (mean, high). Raises BuildError, DeviceError.
    """
    metric = bench.device.metric
    networks = {t.candidate.id: t.deployed(precision, calibration, bench.device) for t in trained}
    measured = measure_networks(
        bench,
        networks,
        estimates={name: e[metric][0] for name, e in estimates.items() if metric in e},
        confidence=budget.confidence,
        folder=folder,
        readings=readings,
        spacing_s=spacing_s,
        tolerance=tolerance,
    )
    found: list[Finalist] = []
    for t in trained:
        m = measured[t.candidate.id]
        estimate = estimates.get(t.candidate.id, {})
        accuracy = t.final.test_accuracy if precision == "fp32" else accuracy_of(networks[t.candidate.id], *test)
        found.append(Finalist(t, m.artifact, m.verdict, estimate, m.values, budget.violations(m.values), accuracy))
    return found


def finalist_json(found: Finalist) -> dict[str, Any]:
    """What measuring a finalist told, as JSON: `finalist_from_json` needs the trained candidate beside it."""
    verdict = found.verdict
    return {
        "id": found.trained.candidate.id,
        "metric": verdict.metric,
        "readings": list(verdict.readings),
        "estimate": verdict.estimate,
        "tolerance": verdict.tolerance,
        "estimates": {m: list(v) for m, v in found.estimates.items()},
        "values": dict(found.values),
        "test_accuracy": found.test_accuracy,
    }


def finalist_from_json(document: Mapping[str, Any], trained: Trained, budget: Budget, folder: Path) -> Finalist:
    """A finalist measured before, its artifact under `folder`. Raises DataError for what is not one."""
    try:
        told = (document[k] for k in ("estimate", "tolerance"))
        verdict = Verdict(trained.candidate.id, document["metric"], tuple(document["readings"]), *told)
        estimates = {m: (float(mean), float(high)) for m, (mean, high) in document["estimates"].items()}
        values = {m: float(v) for m, v in document["values"].items()}
        accuracy = document["test_accuracy"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"is not a finalist's measurement ({error})") from error
    artifact = read_artifact(folder / trained.candidate.id)
    return Finalist(trained, artifact, verdict, estimates, values, budget.violations(values), accuracy)


def winner(finalists: Sequence[Finalist], believed: Mapping[str, float]) -> Finalist | None:
    """The finalist that is believed most accurate (by candidate id) among those that meet the budget; None if none."""
    return max((f for f in finalists if f.meets_budget), key=lambda f: believed[f.trained.candidate.id], default=None)
