"""Accuracy by training: the accuracy function that looks into the table first and trains the rest through the pool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from hwnas.accuracy.candidates import initialised
from hwnas.accuracy.datasets.dataset import Dataset
from hwnas.accuracy.pool import TrainingJob, TrainingPool
from hwnas.accuracy.shrink import shrunk_accuracies
from hwnas.accuracy.table import AccuracyTable, TrainingRow
from hwnas.accuracy.training import Training, TrainingPlan, train
from hwnas.core.interfaces import SearchSpace
from hwnas.core.workload import Candidate
from hwnas.errors import ConfigError, TrainingFailed

if TYPE_CHECKING:
    from torch import nn


def require_fit(space: SearchSpace, dataset: Dataset) -> None:
    """Raises ConfigError unless the space makes networks for the data set's inputs and classes."""
    given, needed = (dataset.input_shape, dataset.classes), (tuple(space.input_shape), space.classes)
    if given != needed:
        raise ConfigError(
            f"data set {dataset.name!r} has inputs {given[0]} in {given[1]} classes, but the space makes networks "
            f"for {needed[0]} in {needed[1]}; set the space's resolution, channels and classes to the data's",
            key="data",
        )


class TrainedAccuracy:
    """Callable on candidates of one space: their validation accuracies (fractions), NaN where a training failed.

    Every result is a row of the table before anybody sees it; what the table has is never trained again, and
    failures count as results too.
    """

    def __init__(
        self,
        space: SearchSpace,
        dataset: Dataset,
        plan: TrainingPlan,
        table: AccuracyTable,
        pool: TrainingPool,
        seed: int = 0,
    ) -> None:
        """Raises ConfigError if the data set does not fit the space."""
        require_fit(space, dataset)
        self.space, self.dataset, self.plan = space, dataset, plan
        self.table, self.pool, self.seed = table, pool, seed

    def __call__(self, candidates: Sequence[Candidate]) -> list[float]:
        """Validation accuracy of each of n candidates (n). Raises ConfigError if the plan leaves no validation part."""
        if self.plan.fit_on != "train":
            raise ConfigError("candidates are compared on the validation part, so fit_on must be 'train'", key="plan")
        return [row.accuracy for row in self.rows(candidates)]

    def rows(
        self, candidates: Sequence[Candidate], seeds: Sequence[int] | None = None, until_epoch: int | None = None
    ) -> list[TrainingRow]:
        """The row of every candidate and seed, candidates outside, trained up to `until_epoch` where not known.

        A row may hold more epochs than asked for. What stopped earlier goes on from its checkpoint.
        """
        jobs = self._jobs(candidates, seeds, until_epoch)
        for _ in self._train(jobs):
            pass
        return [row for job in jobs if (row := self.table.find(job.key(self.dataset))) is not None]

    def events(
        self, candidates: Sequence[Candidate], seeds: Sequence[int] | None = None, until_epoch: int | None = None
    ) -> Iterator[TrainingRow]:
        """The rows that had to be trained, each as soon as it is recorded. Closing it ends the trainings."""
        return self._train(self._jobs(candidates, seeds, until_epoch))

    def believed(
        self, candidates: Sequence[Candidate], seeds: Mapping[str, Sequence[int]] | None = None
    ) -> list[float]:
        """The best estimate of each of n candidates' accuracy (fractions) from finished trainings of this plan.

        Accuracies are shrunk towards what the training losses say (`hwnas.accuracy.shrink`); NaN where none finished.
        `seeds` names, by candidate id, more seeds than the own one to take in; others in the table are not looked at,
        so that the answer does not depend on what else was trained since.
        """
        accuracies: dict[str, list[float]] = {}
        losses: dict[str, list[float]] = {}
        for candidate in candidates:
            for seed in dict.fromkeys([self.seed, *(seeds or {}).get(candidate.id, ())]):
                row = self.table.find(TrainingJob(candidate, self.plan, seed).key(self.dataset))
                result = None if row is None else row.result
                if isinstance(result, Training) and result.complete and result.val_accuracy is not None:
                    accuracies.setdefault(candidate.id, []).append(result.val_accuracy)
                    losses.setdefault(candidate.id, []).append(result.losses[-1])
        values = shrunk_accuracies(list(accuracies.values()), list(losses.values()), len(self.dataset.val))
        by_id = dict(zip(accuracies, values.tolist()))
        return [by_id.get(c.id, float("nan")) for c in candidates]

    def network(self, candidate: Candidate, seed: int | None = None) -> nn.Module:
        """The trained network, from its checkpoint; trained here and now where there is none. Raises TrainingFailed."""
        job = TrainingJob(candidate, self.plan, self.seed if seed is None else seed)
        row = self.table.find(job.key(self.dataset))
        if row is not None and not isinstance(row.result, Training):
            raise TrainingFailed(f"candidate {row.text} could not be trained: {row.result.message}")
        network = initialised(self.space, candidate, job.seed)
        train(network, self.dataset, self.plan, job.seed, self.pool.checkpoint(job, self.dataset))
        return network.eval()

    def _jobs(
        self, candidates: Sequence[Candidate], seeds: Sequence[int] | None, until_epoch: int | None
    ) -> list[TrainingJob]:
        return [
            TrainingJob(candidate, self.plan, seed, until_epoch)
            for candidate in candidates
            for seed in (seeds if seeds is not None else (self.seed,))
        ]

    def _train(self, jobs: Sequence[TrainingJob]) -> Iterator[TrainingRow]:
        todo = {job.key(self.dataset): job for job in jobs if not self._is_known(job)}
        for job, result in self.pool.run(self.space, self.dataset, list(todo.values())):
            row = TrainingRow(
                candidate=job.candidate.id,
                space=job.candidate.space,
                text=self.space.encode(job.candidate),
                dataset=self.dataset.digest,
                plan=self.plan.digest,
                seed=job.seed,
                result=result,
            )
            self.table.append(row)
            yield row

    def _is_known(self, job: TrainingJob) -> bool:
        row = self.table.find(job.key(self.dataset))
        if row is None:
            return False
        if not isinstance(row.result, Training) or row.result.complete:
            return True
        return job.until_epoch is not None and row.epochs >= job.until_epoch
