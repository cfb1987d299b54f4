"""fp32 on this computer: our schedules against onnxruntime, one thread, interleaved in one process.

Run: python -m tests.bench.compiled.bench_host [NETWORK ...] [--rounds N] [--threads] [--lock FILE]

One line a network: the ratio of the least readings and the median ratio of neighbouring readings, time of one run,
relative error, kernels without a schedule, layout transforms, seconds to compile cold and with kernels kept, and the
goal of each with its verdict. `--threads` adds how much faster two threads are than one on the larger networks.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TVM_NUM_THREADS", "2")

from tests.bench.compiled.engines import Engine, measure_all, onnxruntime, ours, relative_error, use_threads
from tests.bench.compiled.networks import NETWORKS, REFERENCES, names, network, network_path, random_input
from tests.bench.compiled.timing import alone, geometric_mean, interleaved, least_ratio, median_ratio

GOAL_REFERENCES, GOAL_OTHERS, GOAL_ERROR = 0.85, 1.0, 1e-5
GOAL_COLD_S, GOAL_KEPT_S, GOAL_TWO_THREADS = 5.0, 1.0, 1.6


@dataclass(frozen=True)
class Row:
    name: str
    ratio: float
    passed: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=names(), metavar="NETWORK", help=", ".join(names()))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", action="store_true", help="two threads as well, on the larger networks")
    parser.add_argument("--lock", type=Path, help="a lock file that other benches hold while they time")
    settings = parser.parse_args()
    use_threads(1)
    print(
        f"{'network':16} {'ratio':>6} {'median':>6} {'goal':>5} {'ours us':>9} {'ort us':>9} {'error':>8} {'kernels':>7} "
        f"{'uncov.':>6} {'transp.':>7} {'cold s':>6} {'kept s':>6} {'2 thr.':>6}  verdict"
    )
    rows, reasons = measure_all(
        settings.networks, lambda name: measure(name, settings.rounds, settings.threads, settings.lock)
    )
    sys.exit(0 if summary(rows) and not reasons else 1)


def measure(name: str, rounds: int, threads: bool, lock: Path | None) -> tuple[Row, tuple[str, ...]]:
    """Measure and print one network; what was uncovered is returned with its reasons."""
    graph = network(name)
    given = random_input(graph)
    with tempfile.TemporaryDirectory(prefix="hwnas-bench-objects-") as folder:
        cold = ours(graph, given, objects=Path(folder))
        engine = ours(graph, given, objects=Path(folder))
        reference = onnxruntime(network_path(name), given)
        error = relative_error(engine.outputs(), reference.outputs())
        with alone(lock):
            times = interleaved({"ours": engine.run, "theirs": reference.run}, rounds)
        speedup = two_threads(ours(graph, given, 2), engine, rounds, lock) if threads and _large(name) else None
    ratio = least_ratio(times["ours"], times["theirs"])
    goal = None if name in REFERENCES or name not in NETWORKS else GOAL_OTHERS
    complaints = [
        text
        for failed, text in (
            (goal is not None and ratio > goal, "slower"),
            (not error <= GOAL_ERROR, "error"),
            (bool(engine.uncovered), "uncovered"),
            (cold.compile_s > GOAL_COLD_S, "compile"),
            (engine.compile_s > GOAL_KEPT_S or engine.compiled > 0, "compile with kernels kept"),
            (speedup is not None and speedup < GOAL_TWO_THREADS, "two threads"),
        )
        if failed
    ]
    print(
        f"{name:16} {ratio:6.2f} {median_ratio(times['ours'], times['theirs']):6.2f} "
        f"{'-' if goal is None else f'{goal:.2f}':>5} {times['ours'].least_s * 1e6:9.1f} "
        f"{times['theirs'].least_s * 1e6:9.1f} {error:8.1e} {engine.kernels:7d} {len(engine.uncovered):6d} "
        f"{engine.layout_transforms:7d} {cold.compile_s:6.2f} {engine.compile_s:6.2f} "
        f"{'-' if speedup is None else f'{speedup:.2f}':>6}  {'; '.join(complaints) or 'ok'}",
        flush=True,
    )
    return Row(name, ratio, not complaints), engine.uncovered


def two_threads(double: Engine, single: Engine, rounds: int, lock: Path | None) -> float:
    """How many times faster a network is on two threads than on one, least readings."""

    def on_two() -> object:
        return double.run()

    with alone(lock):
        use_threads(2)
        try:
            times = interleaved({"two": on_two, "one": single.run}, rounds, clock=time.perf_counter)
        finally:
            use_threads(1)
    return times["one"].least_s / times["two"].least_s


def summary(rows: list[Row]) -> bool:
    """Print the geometric means and whether all goals are met."""
    passed = all(row.passed for row in rows)
    groups = {
        "reference networks": [r.ratio for r in rows if r.name in REFERENCES],
        "others": [r.ratio for r in rows if r.name in NETWORKS and r.name not in REFERENCES],
        "drawn from our spaces": [r.ratio for r in rows if r.name not in NETWORKS],
    }
    for label, ratios in groups.items():
        if ratios:
            mean, met = geometric_mean(ratios), ""
            if label == "reference networks":
                met = f" (goal {GOAL_REFERENCES}: {'met' if mean <= GOAL_REFERENCES else 'MISSED'})"
                passed &= mean <= GOAL_REFERENCES
            print(f"{label}: geometric mean {mean:.3f} of {len(ratios)}{met}, worst {max(ratios):.2f}")
    print("all goals met" if passed else "goals MISSED")
    return passed


def _large(name: str) -> bool:
    return name in NETWORKS and NETWORKS[name].large


if __name__ == "__main__":
    main()
