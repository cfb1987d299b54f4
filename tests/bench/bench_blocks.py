"""How fast candidates become block counts, features, parameters and MACs, on one core.

Run: python tests/bench/bench_blocks.py
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from hwnas.registry import spaces

N = 200_000
GOAL = 200_000


def best_of(run: Callable[[], object], times: int = 5) -> float:
    """The shortest of several runs, in seconds."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found)


def main() -> None:
    print(f"{N:,} random candidates, one core, best of 5; goal {GOAL:,} block counts a second")
    head = ("space", "blocks", "first use s", "block counts /s", "features /s", "params /s", "macs /s")
    print(" ".join(f"{h:>16}" for h in head))
    for name in ("cell", "mbconv-micro", "mbconv-mobile"):
        space = spaces.load(name)()
        genotypes = space.sample_batch(N, np.random.default_rng(0))
        start = time.perf_counter()
        blocks = len(space.block_counts(genotypes).blocks)
        first = time.perf_counter() - start
        rates = [
            N / best_of(lambda call=call, g=genotypes: call(g))
            for call in (space.block_counts, space.features, space.params, space.macs)
        ]
        print(f"{name:>16} {blocks:>16,} {first:>16.2f} " + " ".join(f"{rate:>16,.0f}" for rate in rates))


if __name__ == "__main__":
    main()
