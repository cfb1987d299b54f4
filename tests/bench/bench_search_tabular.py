"""How close to the best network under a latency budget each strategy comes, on NAS-Bench-201 and HW-NAS-Bench tables.

Every method has 100 accuracy queries. The baselines measure what they query and nothing else: 100 networks, where one
that turns out to exceed the budget is a query spent. Guided search measures more, and the table says how many; the row
'random+' is random search with as many measurements as guided is allowed, so that measurements alone explain nothing.

Run: python tests/bench/bench_search_tabular.py [--seeds 5] [--first-seed 0] [--processes 1] [--devices raspi4 edgegpu] ...
It needs the public tables in ../shared/data beside the repository.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hwnas.core.device import TabularSource
from hwnas.core.estimate import Budget
from hwnas.core.workload import Candidate
from hwnas.errors import NoFeasibleCandidate
from hwnas.runners.tabular import load_tabular
from hwnas.search.loop import run_search
from hwnas.search.tabulated import TabulatedAccuracy, TabulatedSpace
from hwnas.spaces.cell import CellSpace

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
ACCURACY, HARDWARE = "nb201_val_accuracy_cifar10.csv", "nb201_hw_cifar10.csv"
DEVICES, QUANTILES, SEEDS = ("raspi4", "edgegpu"), (0.10, 0.25, 0.50), 5
QUERIES, MORE = 100, 100
MEASUREMENTS = {
    "random": QUERIES,
    "evolution": QUERIES,
    "nsga2": QUERIES,
    "guided": QUERIES + MORE,
    "random+": QUERIES + MORE,
}
TRIALS = 10_000
CHANCE = 0.10
"""The accuracy of a run that found nothing feasible: guessing among ten classes."""
GOAL = 4.0


class Task(NamedTuple):
    """One run: a device, a budget as a quantile of all latencies, a strategy and a seed."""

    device: str
    quantile: float
    method: str
    seed: int


class Outcome(NamedTuple):
    """Regret in points of validation accuracy, what was asked for, and how long it took."""

    task: Task
    regret: float
    measurements: int
    queries: int
    seconds: float


class Benchmark:
    """The tables of one device: accuracies (fractions) and latencies (seconds) of the unique connected networks."""

    def __init__(self, folder: Path, device: str) -> None:
        whole = CellSpace()
        self.accuracy = TabulatedAccuracy(folder / ACCURACY, whole.parse, candidate="net", column="val_accs", unit="%")
        self.measure = load_tabular(
            TabularSource(
                file=str(folder / HARDWARE),
                candidate="net",
                metrics={"latency": f"{device}_latency"},
                unit={"latency": "ms"},
                invalid_below=0,
            ),
            whole.parse,
            name=device,
        )
        networks = [c for c in self.accuracy.candidates if whole.connected(c)]
        self.space = TabulatedSpace(whole, networks)
        self.latencies = {c: self.measure(c)["latency"] for c in networks}
        self.accuracies = dict(zip(networks, self.accuracy(networks)))

    def limit(self, quantile: float) -> float:
        """The latency, in seconds, that this part of all networks meets."""
        return float(np.quantile(list(self.latencies.values()), quantile))

    def run(self, task: Task, queries: int = QUERIES, measurements: int | None = None) -> Outcome:
        """Search once; the regret is against the best network of the table that meets the limit."""
        limit = self.limit(task.quantile)
        best = max(a for c, a in self.accuracies.items() if self.latencies[c] <= limit)
        measured: list[Candidate] = []
        queried: list[Candidate] = []

        def measure(candidate: Candidate) -> dict[str, float]:
            measured.append(candidate)
            return self.measure(candidate)

        def accuracy(candidates: list[Candidate]) -> list[float]:
            queried.extend(candidates)
            return self.accuracy(candidates)

        started = time.perf_counter()
        try:
            found = run_search(
                self.space,
                Budget.model_validate({"latency": f"{limit!r} s"}),
                strategy=task.method.rstrip("+"),
                accuracy=accuracy,
                measure=measure,
                trials=TRIALS,
                accuracy_queries=queries,
                device_measurements=measurements or MEASUREMENTS[task.method],
                seed=task.seed,
            ).best
        except NoFeasibleCandidate:
            found = None
        if found is not None and self.latencies[found.candidate] > limit:
            raise AssertionError(f"{task} returned a network that exceeds the budget")
        reached = CHANCE if found is None else self.accuracies[found.candidate]
        seconds = time.perf_counter() - started
        return Outcome(task, 100 * (best - reached), len(measured), len(queried), seconds)


@cache
def benchmark(folder: Path, device: str) -> Benchmark:
    """The benchmark of a device, read once in each process."""
    return Benchmark(folder, device)


def run(folder: Path, task: Task) -> Outcome:
    """One task in any process."""
    return benchmark(folder, task.device).run(task)


def run_all(folder: Path, tasks: list[Task], processes: int) -> list[Outcome]:
    """Every task, in `processes` processes; results in the order of the tasks, whatever their number."""
    if processes == 1:
        return [run(folder, task) for task in tasks]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(run, [folder] * len(tasks), tasks))


def show(outcomes: list[Outcome], methods: list[str]) -> None:
    """Print one table: a line for each device and budget, a column for each method, then means and ratios."""

    def of(method: str, *where: object) -> list[Outcome]:
        return [o for o in outcomes if o.task.method == method and where in ((), o.task[:2])]

    print(f"{'mean regret, points':<22}" + "".join(f"{m:>12}" for m in methods))
    for where in dict.fromkeys(o.task[:2] for o in outcomes):
        print(
            f"{where[0]:<10} q{100 * where[1]:<10.0f}"
            + "".join(f"{np.mean([o.regret for o in of(m, *where)]):>12.3f}" for m in methods)
        )
    rows = {
        "all tasks": lambda found: f"{np.mean([o.regret for o in found]):.3f}",
        "  median": lambda found: f"{np.median([o.regret for o in found]):.3f}",
        "  worst": lambda found: f"{max(o.regret for o in found):.2f}",
        "  share <= .1": lambda found: f"{np.mean([o.regret <= 0.1 for o in found]):.0%}",
        "measurements": lambda found: f"{np.mean([o.measurements for o in found]):.0f}",
        "accuracies looked up": lambda found: f"{np.mean([o.queries for o in found]):.0f}",
        "seconds a run": lambda found: f"{np.mean([o.seconds for o in found]):.1f}",
    }
    for name, text in rows.items():
        print(f"{name:<22}" + "".join(f"{text(of(m)):>12}" for m in methods))
    if "guided" in methods:
        guided = float(np.mean([o.regret for o in of("guided")]))
        for baseline in (m for m in methods if m != "guided"):
            ratio = float(np.mean([o.regret for o in of(baseline)])) / max(guided, 1e-9)
            goal = f" (goal {GOAL:g}: {'met' if ratio >= GOAL else 'MISSED'})" if baseline == "random" else ""
            print(f"{baseline} / guided: {ratio:.1f}{goal}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--devices", nargs="+", default=list(DEVICES))
    parser.add_argument("--quantiles", nargs="+", type=float, default=list(QUANTILES))
    parser.add_argument("--methods", nargs="+", default=list(MEASUREMENTS), choices=list(MEASUREMENTS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--first-seed", type=int, default=0, help="others than those that guided search was built on")
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    missing = [name for name in (ACCURACY, HARDWARE) if not (given.data / name).is_file()]
    if missing:
        sys.exit(f"{', '.join(missing)} not found in {given.data}: put the public tables there, or name them by --data")
    tasks = [
        Task(device, quantile, method, seed)
        for device in given.devices
        for quantile in given.quantiles
        for seed in range(given.first_seed, given.first_seed + given.seeds)
        for method in given.methods
    ]
    started = time.perf_counter()
    outcomes = run_all(given.data, tasks, given.processes)
    networks = len(benchmark(given.data, given.devices[0]).space)
    print(
        f"NAS-Bench-201, {networks:,} unique connected networks, {QUERIES} accuracy queries, {given.seeds} seeds, "
        f"{given.processes} process(es), {time.perf_counter() - started:.0f} s"
    )
    show(outcomes, given.methods)


if __name__ == "__main__":
    main()
