"""How many candidates a second are estimated on one core, all metrics: the blocks known, and from nothing.

python tests/bench/bench_batch_estimates.py [--candidates 200000]
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from hwnas import api
from hwnas.cli.render import print_table
from hwnas.core.interfaces import BatchSpace
from hwnas.predictors.network import NetworkPredictor
from hwnas.predictors.workload import WorkloadPredictor


def row(name: str, n: int) -> list[str]:
    device, space = api.load_device("host"), api.load_space(name)
    assert isinstance(space, BatchSpace)
    # The roofline stands in for a table: after the first call only a vector of numbers differs.
    predictor = NetworkPredictor(WorkloadPredictor(device))
    estimator = api.estimator(space, device, predictor=predictor, toolchain="ort")
    genotypes = space.sample_batch(n, np.random.default_rng(0))
    start = time.perf_counter()
    estimator.estimate(genotypes)
    cold = time.perf_counter() - start
    rates = []
    for seed in range(1, 6):
        batch = space.sample_batch(n, np.random.default_rng(seed))
        start = time.perf_counter()
        found = estimator.estimate(batch)
        rates.append(n / (time.perf_counter() - start))
        assert all(len(v) == n for v in found.values())
    return [
        name,
        f"{n}",
        f"{cold:.1f} s",
        f"{np.median(rates):,.0f}",
        f"{min(rates):,.0f}",
        ", ".join(estimator.metrics),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=200_000)
    arguments = parser.parse_args()
    rows = [row(name, arguments.candidates) for name in ("mbconv-micro", "mbconv-mobile", "cell")]
    columns = ("space", "batch", "first batch", "candidates/s, median of 5", "slowest", "metrics")
    print_table("batch estimation on one core", columns, rows, right=columns[1:5])


if __name__ == "__main__":
    main()
