"""How good is the search itself? Replayed on networks that were all trained, so that the best one is known.

`mnist-5k-accuracies.jsonl` beside this file holds 60 random mbconv-micro networks under a limit (MACs and parameters
at most the medians of the space), each trained fully on eight seeds. A run sees the accuracies of seed 0 only, trains
its best three on seeds 1 and 2, and its choice is judged by the mean of seeds 3 to 7, which it never saw. Random
search gets as many candidate-epochs. Nothing is trained here: `python examples/regret.py --train` made the file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from hwnas.accuracy.datasets import load_dataset
from hwnas.accuracy.pool import TrainingPool
from hwnas.accuracy.shrink import shrunk_accuracies
from hwnas.accuracy.table import AccuracyTable, test_retest
from hwnas.accuracy.trained import TrainedAccuracy
from hwnas.accuracy.training import Training, TrainingPlan
from hwnas.api import load_space
from hwnas.api.settings import load_run
from hwnas.cli.render import print_table
from hwnas.core.estimate import Budget
from hwnas.core.interfaces import BatchSpace
from hwnas.core.workload import Candidate
from hwnas.predictors.estimator import SpaceEstimator
from hwnas.search.loop import run_search
from hwnas.search.tabulated import TabulatedSpace
from hwnas.toolchains.ort import OrtToolchain

HERE = Path(__file__).parent
TABLE = HERE / "mnist-5k-accuracies.jsonl"
SETTINGS = load_run(HERE / "demo.yaml").accuracy
PLAN: TrainingPlan = SETTINGS.plan
NETWORKS, SEEDS, RUNS = 60, 8, 10
QUERY, RETRAIN, JUDGE = 0, (1, 2), (3, 4, 5, 6, 7)
TOP = 3


def pool_of(space: BatchSpace) -> list[Candidate]:
    """60 random networks of at most median MACs and parameters."""
    rng = np.random.default_rng(60)
    genotypes = space.sample_batch(4000, rng)
    macs, params = space.macs(genotypes), space.params(genotypes)  # type: ignore[attr-defined]
    small = genotypes[(macs <= np.median(macs)) & (params <= np.median(params))]
    return [Candidate(space.id, tuple(map(int, g))) for g in np.unique(small, axis=0)[rng.permutation(NETWORKS)]]


def train(path: Path) -> None:
    """Train every network on every seed; goes on where it was stopped."""
    space, dataset = load_space(SPACE), load_dataset("mnist-5k")
    assert isinstance(space, BatchSpace)
    with AccuracyTable.open(path) as table, TrainingPool() as trainings:
        accuracy = TrainedAccuracy(space, dataset, PLAN, table, trainings)
        for i, row in enumerate(accuracy.events(pool_of(space), range(SEEDS)), 1):
            print(f"{i:4}  seed {row.seed}  {100 * row.accuracy:5.1f} %  {row.text}", flush=True)


SPACE = "mbconv-micro"


@dataclass(frozen=True)
class Regret:
    """Mean regret in points over runs, its spread, and what one run costs in candidate-epochs."""

    strategy: str
    points: tuple[float, ...]
    cost: int

    @property
    def mean(self) -> float:
        return mean(self.points)


@dataclass(frozen=True)
class Replayed:
    """What the table knows: validation accuracies (n x seeds) and training losses (n x seeds x epochs)."""

    candidates: tuple[Candidate, ...]
    accuracies: np.ndarray
    losses: np.ndarray
    samples: int

    def regret(self, chosen: Candidate) -> float:
        """Points that the choice loses on the judging seeds against the network that is best there."""
        judged = self.accuracies[:, JUDGE].mean(1)
        return float(100 * (judged.max() - judged[self.candidates.index(chosen)]))

    def choose(self, queried: Sequence[Candidate]) -> Candidate:
        """As a run does it: the three believed best are retrained, and the one that is then believed best is it."""
        rows = [self.candidates.index(c) for c in queried]
        seeds = {i: [QUERY] for i in rows}
        best = [rows[k] for k in np.argsort(-self._believed(seeds), kind="stable")[:TOP]]
        seeds |= {i: [QUERY, *RETRAIN] for i in best}
        believed = dict(zip(seeds, self._believed(seeds)))
        return self.candidates[max(best, key=lambda i: believed[i])]

    def _believed(self, seeds: Mapping[int, Sequence[int]]) -> np.ndarray:
        return shrunk_accuracies(
            [self.accuracies[i, s].tolist() for i, s in seeds.items()],
            [self.losses[i, s, -1].tolist() for i, s in seeds.items()],
            self.samples,
        )


def read(path: Path, space: BatchSpace) -> Replayed:
    """The table as arrays; only networks that have every seed."""
    found: dict[str, dict[int, Training]] = {}
    for row in AccuracyTable.read(path).best():
        if isinstance(row.result, Training) and row.result.complete and row.plan == PLAN.digest:
            found.setdefault(row.text, {})[row.seed] = row.result
    whole = {text: by for text, by in found.items() if len(by) == SEEDS}
    if len(whole) < NETWORKS:
        raise SystemExit(
            f"{path} holds {len(whole)} whole networks of {NETWORKS}; run: python examples/regret.py --train"
        )
    return Replayed(
        tuple(space.parse(text) for text in whole),
        np.array([[by[s].val_accuracy for s in range(SEEDS)] for by in whole.values()], dtype=float),
        np.array([[by[s].losses for s in range(SEEDS)] for by in whole.values()], dtype=float),
        len(load_dataset("mnist-5k").val),
    )


def replay(known: Replayed, space: BatchSpace, runs: int = RUNS) -> list[Regret]:
    """Guided search as the demo does it, with and without a look after one epoch, and random search, all at one cost."""
    table = TabulatedSpace(space, known.candidates)
    row = {c: i for i, c in enumerate(known.candidates)}

    def accuracy(candidates: Sequence[Candidate]) -> list[float]:
        return [float(known.accuracies[row[c], QUERY]) for c in candidates]

    def screen(candidates: Sequence[Candidate]) -> list[float]:
        return [float(known.losses[row[c], QUERY, 0]) for c in candidates]

    def guided(seed: int, queries: int, ratio: int) -> list[Candidate]:
        result = run_search(
            table, Budget(), strategy="guided", accuracy=accuracy, estimator=SpaceEstimator(space, OrtToolchain(), None),
            trials=NETWORKS, accuracy_queries=queries, seed=seed, objectives=("macs",), batch=4,
            screen=screen if ratio > 1 else None, screen_ratio=ratio,
        )  # fmt: skip
        return [t.candidate for t in result.trials if t.accuracy is not None]

    epochs, queries = PLAN.epochs, SETTINGS.queries
    cost = (queries + TOP * len(RETRAIN)) * epochs
    looked = queries * epochs // (epochs + 1)  # trainings that are left when as many again are seen for one epoch
    chosen: dict[str, Callable[[int], list[Candidate]]] = {
        "guided": lambda seed: guided(seed, queries, 1),
        "guided, one-epoch look": lambda seed: guided(seed, looked, 2),
        "random": lambda seed: [
            known.candidates[i] for i in np.random.default_rng(seed).permutation(NETWORKS)[:queries]
        ],
    }
    return [
        Regret(name, tuple(known.regret(known.choose(queried(seed))) for seed in range(runs)), cost)
        for name, queried in chosen.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true", help="train what the table lacks (about 10 minutes)")
    arguments = parser.parse_args()
    if arguments.train:
        train(TABLE)
    space = load_space(SPACE)
    assert isinstance(space, BatchSpace)
    known = read(TABLE, space)
    report(known, replay(known, space))


def report(known: Replayed, regrets: Sequence[Regret]) -> None:
    """Print the bench: one table, and what the accuracies it rests on are worth."""
    queried = 100 * known.accuracies[:, QUERY]
    agreement = test_retest(AccuracyTable.read(TABLE), load_dataset("mnist-5k").digest, PLAN.digest, QUERY)
    rows = [(r.strategy, f"{r.mean:.2f}", f"{stdev(r.points):.2f}", f"{max(r.points):.2f}", r.cost) for r in regrets]
    columns = ("strategy", "mean regret, points", "sd", "worst", "candidate-epochs")
    print_table(
        f"{len(regrets[0].points)} runs on {NETWORKS} trained networks ({queried.min():.0f} to {queried.max():.0f} %), "
        "judged on seeds the runs did not see",
        columns,
        rows,
        right=columns[1:],
    )
    if agreement is not None:
        print(
            f"test-retest Kendall {agreement.tau:.2f} ({agreement.low:.2f} to {agreement.high:.2f}), n = {agreement.n}"
        )


if __name__ == "__main__":
    sys.exit(main())
