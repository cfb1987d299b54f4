"""int8 on this computer: our integer kernels against our own fp32 and onnxruntime's int8, one thread, interleaved.

Run: python -m tests.bench.compiled.bench_int8 [NETWORK ...] [--rounds N] [--inputs N] [--lock FILE]

The int8 networks are the QDQ form of the fixed ones. Steps are how many quantisation steps the outputs are off those
of onnxruntime without optimisation, which computes what the QDQ graph says: the most, and how many outputs are off at
all, over some inputs that calibration never saw. The column beside it says how far onnxruntime with all its
optimisations is off by itself: where a network amplifies a single step (layer normalisation and softmax over many
tokens do), it is off by more than one as well; there the verdict says how far our result, and that of onnxruntime
without optimisation, are off what the graph says in float64 (`exact`).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TVM_NUM_THREADS", "1")

import numpy as np
import onnx
from onnx import numpy_helper

from tests.bench.compiled.engines import Engine, measure_all, onnxruntime, ours
from tests.bench.compiled.exact import exact_outputs
from tests.bench.compiled.networks import names, network, quantised, random_input
from tests.bench.compiled.timing import alone, geometric_mean, interleaved, least_ratio

GOAL_FP32, GOAL_INT8, GOAL_STEPS = 0.8, 0.6, 1
FRESH_SEED = 1000


@dataclass(frozen=True)
class Row:
    name: str
    of_fp32: float
    of_int8: float
    passed: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=names(), metavar="NETWORK", help=", ".join(names()))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--inputs", type=int, default=8)
    parser.add_argument("--lock", type=Path, help="a lock file that other benches hold while they time")
    settings = parser.parse_args()
    print(
        f"{'network':16} {'of fp32':>7} {'of ort':>7} {'int8 us':>9} {'fp32 us':>9} {'ort int8':>9} {'steps':>5} {'ort':>5} "
        f"{'off':>11} {'kernels':>7} {'uncov.':>6} {'transp.':>7}  verdict (goals {GOAL_FP32}, {GOAL_INT8}, {GOAL_STEPS})"
    )
    rows, reasons = measure_all(
        settings.networks, lambda name: measure(name, settings.rounds, settings.inputs, settings.lock)
    )
    for label, values, goal in (
        ("of our own fp32", [r.of_fp32 for r in rows], GOAL_FP32),
        ("of onnxruntime's int8", [r.of_int8 for r in rows], GOAL_INT8),
    ):
        if not values:
            continue
        met = sum(v <= goal for v in values)
        print(f"{label}: geometric mean {geometric_mean(values):.3f} (goal {goal}), {met} of {len(values)} networks")
    sys.exit(0 if all(r.passed for r in rows) and not reasons else 1)


def measure(name: str, rounds: int, inputs: int, lock: Path | None) -> tuple[Row, tuple[str, ...]]:
    """Measure and print one network; what was uncovered is returned with its reasons."""
    graph = quantised(name)
    given = random_input(graph)
    engine, plain, reference = ours(graph, given), ours(network(name), given), onnxruntime(graph, given)
    exact = onnxruntime(graph, given, optimisation="none")
    fresh = [random_input(graph, FRESH_SEED + i) for i in range(inputs)]
    steps, off, total = steps_off(engine, exact, output_step(graph), fresh)
    their_steps, *_ = steps_off(reference, exact, output_step(graph), fresh)
    with alone(lock):
        runs = {"int8": engine.run, "fp32": plain.run, "theirs": reference.run}
        times = interleaved(runs, rounds)
    of_fp32, of_int8 = (least_ratio(times["int8"], times[other]) for other in ("fp32", "theirs"))
    amplified = off_exact(graph, {"ours": engine, "onnxruntime": exact}, fresh) if steps > GOAL_STEPS else ""
    complaints = [
        text
        for failed, text in (
            (of_fp32 > GOAL_FP32, "slow beside fp32"),
            (of_int8 > GOAL_INT8, "slow beside onnxruntime"),
            (steps > GOAL_STEPS, f"steps{amplified}"),
            (bool(engine.uncovered), "uncovered"),
        )
        if failed
    ]
    print(
        f"{name:16} {of_fp32:7.2f} {of_int8:7.2f} {times['int8'].least_s * 1e6:9.1f} "
        f"{times['fp32'].least_s * 1e6:9.1f} {times['theirs'].least_s * 1e6:9.1f} {steps:5d} {their_steps:5d} {f'{off}/{total}':>11} "
        f"{engine.kernels:7d} {len(engine.uncovered):6d} {engine.layout_transforms:7d}  {'; '.join(complaints) or 'ok'}",
        flush=True,
    )
    return Row(name, of_fp32, of_int8, not complaints), engine.uncovered


def steps_off(engine: Engine, exact: Engine, step: float, inputs: list[np.ndarray]) -> tuple[int, int, int]:
    """The most steps that an output is off, how many outputs are off, of how many in all."""
    most = off = total = 0
    for given in inputs:
        apart = np.rint(np.abs(engine.outputs(given).astype(np.float64) - exact.outputs(given)) / step)
        most, off, total = max(most, int(apart.max())), off + int((apart > 0).sum()), total + apart.size
    return most, off, total


def off_exact(graph: onnx.ModelProto, engines: Mapping[str, Engine], inputs: list[np.ndarray]) -> str:
    """How many steps each engine is off the float64 evaluation of a graph; nothing where there is none."""
    most = dict.fromkeys(engines, 0)
    for given in inputs:
        wanted = exact_outputs(graph, given)
        if wanted is None:
            return ""
        for name, engine in engines.items():
            apart = np.abs(engine.outputs(given).astype(np.float64) - wanted) / output_step(graph)
            most[name] = max(most[name], int(np.rint(apart.max())))
    return f" (off float64: {', '.join(f'{name} {count}' for name, count in most.items())})"


def output_step(graph: onnx.ModelProto) -> float:
    """The scale of the DequantizeLinear that makes a network's output."""
    made = {name: node for node in graph.graph.node for name in node.output}
    last = made[graph.graph.output[0].name]
    assert last.op_type == "DequantizeLinear", f"the output is made by {last.op_type}"
    scales = {i.name: numpy_helper.to_array(i) for i in graph.graph.initializer if i.name == last.input[1]}
    return float(scales[last.input[1]])


if __name__ == "__main__":
    main()
