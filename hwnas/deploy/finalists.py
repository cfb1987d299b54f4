"""Finalists: trained on several seeds to choose among them, trained fully to deploy, measured to be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from hwnas.accuracy.trained import TrainedAccuracy
from hwnas.accuracy.training import Training
from hwnas.core.estimate import Budget
from hwnas.core.measurement import Samples
from hwnas.core.workload import Artifact, Candidate
from hwnas.deploy.measurer import Bench
from hwnas.deploy.verify import Verdict, judge, spaced_readings
from hwnas.errors import TrainingFailed
from hwnas.graph.analysis import analyse
from hwnas.graph.export import export

if TYPE_CHECKING:
    from onnx import ModelProto


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

    @property
    def val_accuracy(self) -> float:
        return mean(self.val_accuracies)


@dataclass(frozen=True, slots=True)
class Finalist:
    """A trained candidate with what the device said of it.

    estimates: metric -> (mean, high). values: what the budget is held against (latency: the high reading), in SI.
    """

    trained: Trained
    artifact: Artifact
    verdict: Verdict
    estimates: Mapping[str, tuple[float, float]]
    values: Mapping[str, float]
    violations: Mapping[str, float]

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
) -> list[Finalist]:
    """Build each finalist, read them in turn, spaced in time, and hold the high reading against the budget.

    `estimates` is candidate id -> metric -> (mean, high). Raises BuildError, DeviceError.
    """
    artifacts = {t.candidate.id: bench.build(t.network, folder / t.candidate.id) for t in trained}
    visits: dict[str, list[Samples]] = {name: [] for name in artifacts}
    for name, samples in spaced_readings(bench.board, bench.device, artifacts, readings=readings, spacing_s=spacing_s):
        visits[name].append(samples)
    found: list[Finalist] = []
    for t in trained:
        name = t.candidate.id
        estimate = estimates.get(name, {})
        verdict = judge(name, visits[name], estimate["latency"][0] if "latency" in estimate else None, tolerance)
        sums = analyse(t.network, bench.toolchain.rules)
        values = {
            "latency": verdict.high_s(budget.confidence),
            "flash": float(artifacts[name].flash_bytes or 0),
            "ram": float(sums.peak_activation_bytes),
            "params": float(sums.params),
            "macs": float(sums.macs),
        }
        found.append(Finalist(t, artifacts[name], verdict, estimate, values, budget.violations(values)))
    return found


def winner(finalists: Sequence[Finalist]) -> Finalist | None:
    """The finalist of best mean validation accuracy among those that meet the budget; None if none does."""
    return max((f for f in finalists if f.meets_budget), key=lambda f: f.trained.val_accuracy, default=None)
