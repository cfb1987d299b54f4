"""The networks that the demo and the boards' searches are about, before and after our schedules.

Run: python -m tests.bench.compiled.bench_demo [--count N] [--seed S] [--lock FILE]

Networks of mbconv-micro as the demo draws them, on this computer: TVM's default lowering, which was all there was
before, our schedules, and onnxruntime, interleaved in one process. With an ONNX file, such as demo-out/bundle's, that
network is taken instead.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TVM_NUM_THREADS", "1")

import numpy as np
import onnx

from tests.bench.compiled.engines import onnxruntime, ours, relative_error, stock
from tests.bench.compiled.networks import random_input
from tests.bench.compiled.timing import alone, geometric_mean, interleaved, least_ratio

SPACE = "mbconv-micro"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="ONNX")
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lock", type=Path, help="a lock file that other benches hold while they time")
    settings = parser.parse_args()
    graphs = {str(file): onnx.load(file) for file in settings.files} or drawn(settings.count, settings.seed)
    print(
        f"{'before us':>9} {'after us':>9} {'ort us':>9} {'after/before':>12} {'before/ort':>10} {'after/ort':>9} "
        f"{'error':>8} {'uncov.':>6}  network"
    )
    of_before, of_ort = [], []
    for name, graph in graphs.items():
        given = random_input(graph)
        before, after, reference = stock(graph, given), ours(graph, given), onnxruntime(graph, given)
        with alone(settings.lock):
            times = interleaved({"before": before.run, "after": after.run, "ort": reference.run})
        of_before.append(least_ratio(times["after"], times["before"]))
        of_ort.append(least_ratio(times["after"], times["ort"]))
        shown = " ".join(f"{times[engine].least_s * 1e6:9.1f}" for engine in ("before", "after", "ort"))
        print(
            f"{shown} {of_before[-1]:12.3f} {least_ratio(times['before'], times['ort']):10.2f} {of_ort[-1]:9.2f} "
            f"{relative_error(after.outputs(), reference.outputs()):8.1e} {len(after.uncovered):6d}  {name}",
            flush=True,
        )
    print(
        f"geometric means: after/before {geometric_mean(of_before):.3f}, after/onnxruntime {geometric_mean(of_ort):.3f}"
    )


def drawn(count: int, seed: int) -> dict[str, onnx.ModelProto]:
    """Networks of the demo's space at random, by their text."""
    import torch

    from hwnas.graph.export import export
    from hwnas.registry import spaces

    space, rng = spaces.load(SPACE)(), np.random.default_rng(seed)
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    candidates = [space.sample(rng) for _ in range(count)]
    return {space.encode(c): export(space.decode(c).eval(), tuple(space.input_shape)) for c in candidates}


if __name__ == "__main__":
    main()
