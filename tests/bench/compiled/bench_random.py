"""Random convolutions on this computer, with fresh shapes every time: our schedules against onnxruntime, one thread.

Run: python -m tests.bench.compiled.bench_random [--count N] [--seed S] [--all] [--lock FILE]

Each is a convolution with a bias and a ReLU: any kernel, stride, dilation, groups and number of channels, on 5 to 40
pixels. Inputs and outputs are NCHW on both sides, so that transposing them is part of the time. The seed that is
printed draws the same shapes again.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TVM_NUM_THREADS", "1")

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.bench.compiled.engines import first_line, onnxruntime, ours, relative_error
from tests.bench.compiled.timing import alone, interleaved, least_ratio

GOAL_MEDIAN, GOAL_P90, GOAL_WORST, GOAL_ERROR = 0.9, 1.3, 2.0, 1e-5
SHOWN = 12
WRITTEN = re.compile(r"(\d+)->(\d+) (\d+)x(\d+) k(\d+) s(\d+) p(\d+) d(\d+) g(\d+)")


@dataclass(frozen=True)
class Shape:
    """A convolution: channels in and out, image, kernel, stride, padding, dilation, groups."""

    inputs: int
    outputs: int
    image: tuple[int, int]
    kernel: int
    stride: int
    padding: int
    dilation: int
    groups: int

    def __str__(self) -> str:
        return (
            f"{self.inputs}->{self.outputs} {self.image[0]}x{self.image[1]} k{self.kernel} s{self.stride} "
            f"p{self.padding} d{self.dilation} g{self.groups}"
        )

    @classmethod
    def parse(cls, text: str) -> Shape:
        """The shape that is written so. Raises ValueError."""
        if not (found := WRITTEN.fullmatch(text.strip())):
            raise ValueError(f"{text!r} is no convolution such as {cls(3, 8, (9, 7), 3, 1, 0, 1, 1)}")
        i, o, h, w, kernel, stride, padding, dilation, groups = map(int, found.groups())
        return cls(i, o, (h, w), kernel, stride, padding, dilation, groups)


@dataclass(frozen=True)
class Result:
    shape: Shape
    ratio: float
    ours_s: float
    theirs_s: float
    error: float
    uncovered: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=80)
    parser.add_argument("--seed", type=int, help="drawn afresh if it is not given")
    parser.add_argument("--all", action="store_true", help="list every convolution, not only the slowest")
    parser.add_argument("--lock", type=Path, help="a lock file that other benches hold while they time")
    settings = parser.parse_args()
    seed = secrets.randbelow(10**6) if settings.seed is None else settings.seed
    rng = np.random.default_rng(seed)
    print(f"{settings.count} random convolutions, --seed {seed}", flush=True)
    results = []
    for _ in range(settings.count):
        shape = drawn(rng)
        try:
            results.append(measure(shape, rng, settings.lock))
        except Exception as error:  # one that cannot be compiled does not hide the others
            results.append(Result(shape, float("inf"), 0.0, 0.0, float("inf"), (f"FAILED: {first_line(error)}",)))
    sys.exit(0 if report(results, settings.all) else 1)


def drawn(rng: np.random.Generator) -> Shape:
    """A convolution at random: a third depthwise, a sixth in groups, half full, that of half of these 1x1."""
    while True:
        kernel = int(rng.choice([1, 3, 5, 7], p=[0.3, 0.4, 0.2, 0.1]))
        dilation = int(rng.choice([1, 2])) if kernel in (3, 5) and rng.random() < 0.15 else 1
        image = int(rng.integers(5, 41)), int(rng.integers(5, 41))
        reach = (kernel - 1) * dilation + 1
        padding = int(rng.choice([0, reach // 2]))
        if min(image) + 2 * padding < reach:
            continue
        inputs, outputs, groups = int(rng.integers(1, 131)), int(rng.integers(1, 131)), 1
        kind = rng.random()
        if kind < 1 / 3 and kernel > 1:
            outputs = groups = inputs
        elif kind < 1 / 2:
            groups = int(rng.choice([2, 3, 4, 8]))
            inputs, outputs = max(1, inputs // groups) * groups, max(1, outputs // groups) * groups
        stride = int(rng.choice([1, 2], p=[0.7, 0.3]))
        return Shape(inputs, outputs, image, kernel, stride, padding, dilation, groups)


def convolution(shape: Shape, rng: np.random.Generator) -> onnx.ModelProto:
    """The convolution with a bias and a ReLU as an ONNX network."""
    fan = shape.inputs // shape.groups * shape.kernel**2
    weights = rng.standard_normal((shape.outputs, shape.inputs // shape.groups, shape.kernel, shape.kernel))
    made = [
        numpy_helper.from_array((weights / np.sqrt(fan)).astype(np.float32), "w"),
        numpy_helper.from_array(rng.standard_normal(shape.outputs).astype(np.float32) * 0.1, "b"),
    ]
    nodes = [
        helper.make_node(
            "Conv", ["x", "w", "b"], ["y"], kernel_shape=[shape.kernel] * 2, strides=[shape.stride] * 2,
            pads=[shape.padding] * 4, dilations=[shape.dilation] * 2, group=shape.groups,
        ),
        helper.make_node("Relu", ["y"], ["z"]),
    ]  # fmt: skip
    reach = (shape.kernel - 1) * shape.dilation + 1
    size = [(d + 2 * shape.padding - reach) // shape.stride + 1 for d in shape.image]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, shape.inputs, *shape.image])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, shape.outputs, *size])],
        made,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def measure(shape: Shape, rng: np.random.Generator, lock: Path | None) -> Result:
    graph = convolution(shape, rng)
    given = rng.standard_normal((1, shape.inputs, *shape.image)).astype(np.float32)
    engine, reference = ours(graph, given), onnxruntime(graph, given)
    error = relative_error(engine.outputs(), reference.outputs())
    with alone(lock):
        times = interleaved({"ours": engine.run, "theirs": reference.run}, rounds=30, least_s=0.1, most_s=1.0)
    ratio = least_ratio(times["ours"], times["theirs"])
    return Result(shape, ratio, times["ours"].least_s, times["theirs"].least_s, error, engine.uncovered)


def report(results: list[Result], everything: bool) -> bool:
    """Print the slowest or all, the quantiles with goals and verdicts, what is wrong; whether all goals are met."""
    slowest = sorted(results, key=lambda r: -r.ratio)
    print(f"{'ratio':>6} {'ours us':>8} {'ort us':>8} {'error':>8}  convolution")
    for r in slowest if everything else slowest[:SHOWN]:
        print(f"{r.ratio:6.2f} {r.ours_s * 1e6:8.1f} {r.theirs_s * 1e6:8.1f} {r.error:8.1e}  {r.shape}")
    ratios = np.asarray([r.ratio for r in results])
    passed = True
    for label, value, goal in (
        ("median", float(np.median(ratios)), GOAL_MEDIAN),
        ("p90", float(np.quantile(ratios, 0.9)), GOAL_P90),
        ("worst", float(ratios.max()), GOAL_WORST),
        ("largest error", max(r.error for r in results), GOAL_ERROR),
    ):
        passed &= value <= goal
        print(f"{label}: {value:.3g} (goal {goal:g}: {'met' if value <= goal else 'MISSED'})")
    uncovered: dict[str, list[Shape]] = {}
    for r in results:
        for reason in r.uncovered:
            uncovered.setdefault(reason.partition(": ")[2], []).append(r.shape)
    for reason, shapes in uncovered.items():
        print(f"uncovered ({len(shapes)}, such as {shapes[0]}): {reason[:300]}")
    return passed and not uncovered


if __name__ == "__main__":
    main()
