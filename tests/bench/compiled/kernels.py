"""Where a network's time goes: each of our kernels, beside what onnxruntime spends on the same convolution or product.

Run: python -m tests.bench.compiled.kernels NETWORK [--int8]

Multiply-adds are those that a kernel executes, padded lanes included; onnxruntime's are those of the operator. A
kernel of ours is matched to the operator of the same output and about as many multiply-adds; onnxruntime's profiler
tells whole microseconds, and what it fuses differently stands below the table.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TVM_NUM_THREADS", "1")

import numpy as np
import onnx

from tests.bench.compiled.bench_random import Shape, convolution
from tests.bench.compiled.engines import Engine, executable, host_target, onnxruntime, ours
from tests.bench.compiled.networks import network, quantised, random_input
from tests.bench.compiled.timing import alone, interleaved, peak_flops

PRODUCTS = ("Conv", "MatMul", "Gemm")


@dataclass(frozen=True)
class Kernel:
    """A PrimFunc of ours: `calls` in one run, seconds of each, multiply-adds executed, dimensions of its result."""

    name: str
    calls: int
    each_s: float
    inside_s: float
    """Seconds of each call within the network, where other kernels have used the caches; the median of some runs."""
    macs: int
    result: tuple[int, ...]
    operands: tuple[tuple[int, ...], ...]


@dataclass
class Node:
    """An operator of onnxruntime's optimised graph."""

    name: str
    op: str
    each_s: float
    macs: int
    result: tuple[int, ...]
    operands: list[tuple[int, ...]] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="a name, or a convolution as bench_random prints it: '3->8 9x7 k3 s1 p0 d1 g1'")
    parser.add_argument("--int8", action="store_true", help="the quantised form")
    parser.add_argument("--lock", type=Path, help="a lock file that other benches hold while they time")
    settings = parser.parse_args()
    if "->" in settings.network:
        graph = convolution(Shape.parse(settings.network), np.random.default_rng(0))
    else:
        graph = quantised(settings.network) if settings.int8 else network(settings.network)
    given = random_input(graph)
    engine, reference = ours(graph, given), onnxruntime(graph, given)
    with alone(settings.lock):
        times = interleaved({"ours": engine.run, "onnxruntime": reference.run})
        mine, theirs = our_kernels(engine, given), reference_nodes(graph, given)
    ratio = times["ours"].least_s / times["onnxruntime"].least_s
    print(
        f"{settings.network}: ours {times['ours'].least_s * 1e6:.1f} us, "
        f"onnxruntime {times['onnxruntime'].least_s * 1e6:.1f} us, ratio {ratio:.2f} (least of interleaved runs); "
        f"one core's peak {peak_flops() / 1e9:.0f} GFLOP/s"
    )
    for reason in engine.uncovered:
        print(f"UNCOVERED {reason}")
    # The profiler's own time is in its readings, about as much for every node.
    extra_s = max(0.0, sum(node.each_s for node in theirs) - times["onnxruntime"].least_s) / len(theirs)
    for node in theirs:
        node.each_s = max(0.0, node.each_s - extra_s)
    table(mine, theirs)


def our_kernels(engine: Engine, given: np.ndarray) -> list[Kernel]:
    """Every PrimFunc of a network, timed on buffers of its own that stay in the cache if they fit."""
    import tvm
    from tvm import relax

    from hwnas.toolchains.schedules.isa import isa_of
    from hwnas.toolchains.schedules.objects import pass_options
    from hwnas.toolchains.schedules.pipeline import apply_rules, calls_of

    target = host_target()
    scheduled, _ = apply_rules(engine.module, isa_of(target))
    module = relax.transform.AttachGlobalSymbol()(scheduled)
    kernels = {v: f for v, f in module.functions.items() if isinstance(f, tvm.tirx.PrimFunc)}
    calls = calls_of(module)
    with tvm.transform.PassContext(opt_level=3, config=pass_options(target)):
        library = tvm.tirx.build(tvm.IRModule(kernels), target=target)
    rng = np.random.default_rng(0)
    inside = inside_times(scheduled, given)
    found = []
    for variable, function in kernels.items():
        name = variable.name_hint
        symbol = str(function.attrs["global_symbol"])
        shapes = [(tuple(int(d) for d in p.shape), str(p.dtype)) for p in function.params]
        arguments = [tvm.runtime.tensor(random_values(rng, *shape)) for shape in shapes]
        library.time_evaluator(symbol, tvm.cpu(), number=3)(*arguments)
        timer = library.time_evaluator(symbol, tvm.cpu(), number=1, repeat=12, min_repeat_ms=1)
        each_s = float(min(timer(*arguments).results))
        operands = tuple(shape for shape, _ in shapes)
        found.append(
            Kernel(
                name, calls[name], each_s, inside.get(name, 0.0), executed_macs(function), operands[-1], operands[:-1]
            )
        )
    # What noting the time takes itself is at most what it adds to the kernel that it delays least.
    extra_s = max(0.0, min(k.inside_s - k.each_s for k in found if k.calls))
    return [replace(k, inside_s=k.inside_s - extra_s) for k in found]


def inside_times(module: Any, given: np.ndarray, runs: int = 15) -> dict[str, float]:
    """Seconds of a call of each kernel within the network: the median over runs of the mean over its calls."""
    import tvm

    machine = executable(module, host_target())
    started = 0.0
    took: dict[str, list[float]] = defaultdict(list)

    def note(_function: object, name: str, before: bool, _result: object, *_arguments: object) -> None:
        nonlocal started
        if before:
            started = time.perf_counter()
        else:
            took[name].append(time.perf_counter() - started)

    argument = tvm.runtime.tensor(given)
    machine["main"](argument)
    machine.set_instrument(note)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(runs):
        took.clear()
        machine["main"](argument)
        for name, times in took.items():
            found[name].append(sum(times) / len(times))
    return {name: median(times) for name, times in found.items()}


def executed_macs(function: Any) -> int:
    """Multiply-adds of a scheduled PrimFunc: the trips of every store that adds a product to what it holds."""
    import tvm

    total = 0

    def walk(statement: Any, trips: int) -> None:
        nonlocal total
        kind = type(statement).__name__
        if kind == "For":
            walk(statement.body, trips * int(statement.extent))
        elif kind == "BufferStore":
            value = statement.value
            if isinstance(value, tvm.tirx.Add) and any(isinstance(_bare(x), tvm.tirx.Mul) for x in (value.a, value.b)):
                held = [x.source for x in (value.a, value.b) if type(x).__name__ == "TensorLoad"]
                if any(x.same_as(statement.buffer) for x in held):
                    total += trips
        elif kind == "SeqStmt":
            for part in statement.seq:
                walk(part, trips)
        else:
            for name in ("block", "body", "then_case", "else_case"):
                if (part := getattr(statement, name, None)) is not None:
                    walk(part, trips)

    walk(function.body, 1)
    return total


def _bare(expression: Any) -> Any:
    return expression.value if type(expression).__name__ == "Cast" else expression


def random_values(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.uniform(0.1, 1, shape).astype(kind)
    if kind.kind == "b":
        return np.zeros(shape, kind)
    return rng.integers(0, 2, shape).astype(kind)


def reference_nodes(graph: onnx.ModelProto, given: np.ndarray, runs: int = 60) -> list[Node]:
    """The operators that onnxruntime runs, with the mean of their times without the slowest quarter."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        settings = ort.SessionOptions()
        settings.intra_op_num_threads, settings.inter_op_num_threads, settings.log_severity_level = 1, 1, 3
        settings.enable_profiling, settings.profile_file_prefix = True, str(Path(folder) / "profile")
        session = ort.InferenceSession(graph.SerializeToString(), settings, providers=["CPUExecutionProvider"])
        for _ in range(runs):
            session.run(None, {session.get_inputs()[0].name: given})
        events = json.loads(Path(session.end_profiling()).read_text())
    took: dict[str, list[float]] = defaultdict(list)
    nodes: dict[str, Node] = {}
    for event in events:
        name = event.get("name", "")
        if event.get("cat") != "Node" or not name.endswith("_kernel_time"):
            continue
        took[name].append(event["dur"] * 1e-6)
        if name not in nodes:
            said = event["args"]
            operands = [tuple(next(iter(shape.values()))) for shape in said["input_type_shape"] if shape]
            results = [tuple(next(iter(shape.values()))) for shape in said["output_type_shape"] if shape]
            result = results[0] if results else ()
            nodes[name] = Node(
                name.removesuffix("_kernel_time"),
                said["op_name"],
                0.0,
                _macs(said["op_name"], operands, result),
                result,
                operands,
            )
    for name, node in nodes.items():
        values = sorted(took[name])
        node.each_s = sum(values[: len(values) * 3 // 4]) / (len(values) * 3 // 4)
    return list(nodes.values())


def _macs(op: str, operands: list[tuple[int, ...]], result: tuple[int, ...]) -> int:
    if "Conv" in op:
        weights = next((o for o in operands[1:] if len(o) == 4), (1,))
        return math.prod(result) * math.prod(weights[1:])
    if "MatMul" in op or "Gemm" in op:
        return math.prod(result) * operands[0][-1]
    return 0


def matched(kernels: list[Kernel], nodes: list[Node]) -> tuple[dict[str, list[Node]], list[Node]]:
    """onnxruntime's products by the kernel of ours that computes the same, and all nodes that remain."""
    free = [n for n in nodes if n.macs]
    pairs: dict[str, list[Node]] = {}
    for kernel in sorted(kernels, key=lambda k: -k.macs):
        if not kernel.macs:
            continue
        for _ in range(kernel.calls):
            fitting = [n for n in free if 0.9 <= kernel.macs / n.macs <= 16 and _distance(kernel, n) < 3]
            if not fitting:
                break
            best = min(fitting, key=lambda n: _distance(kernel, n))
            free.remove(best)
            pairs.setdefault(kernel.name, []).append(best)
    return pairs, free + [n for n in nodes if not n.macs]


def _distance(kernel: Kernel, node: Node) -> float:
    """How far two results and their multiply-adds are apart; blocked channels may be padded to a multiple."""
    same = _dimensions(kernel.result) == _dimensions(node.result)
    numel = abs(math.log(max(1, math.prod(kernel.result)) / max(1, math.prod(node.result))))
    return (0 if same else 0.5) + numel + abs(math.log(kernel.macs / node.macs))


def _dimensions(shape: tuple[int, ...]) -> list[int]:
    return sorted(d for d in shape if d > 1)


def table(kernels: list[Kernel], nodes: list[Node]) -> None:
    pairs, others = matched(kernels, nodes)
    total_s = sum(k.calls * k.each_s for k in kernels)
    head = f"{'us':>8} {'share':>6} {'calls':>5} {'us each':>8} {'inside':>8} {'MMAC':>7} {'GFLOP/s':>7} {'peak':>5} {'ort us':>8} {'ratio':>6}"
    print(f"{head}  kernel: operands -> result")
    for k in sorted(kernels, key=lambda k: -k.calls * k.each_s):
        if not k.calls:
            continue
        flops = 2 * k.macs / k.each_s if k.macs else 0.0
        found = pairs.get(k.name, [])
        theirs_s = sum(n.each_s for n in found) * k.calls / max(1, len(found))
        ratio = f"{k.calls * k.inside_s / theirs_s:6.2f}" if theirs_s else f"{'-':>6}"
        said = " ".join("x".join(map(str, o)) or "scalar" for o in k.operands)
        print(
            f"{k.calls * k.each_s * 1e6:8.1f} {k.calls * k.each_s / total_s:6.1%} {k.calls:5d} {k.each_s * 1e6:8.2f} {k.inside_s * 1e6:8.2f} "
            f"{k.macs / 1e6:7.2f} {flops / 1e9:7.1f} {flops / peak_flops():5.0%} {theirs_s * 1e6:8.1f} {ratio}  "
            f"{k.name[:70]}: {said} -> {'x'.join(map(str, k.result))}"
        )
    print(
        f"{total_s * 1e6:8.1f} us in all kernels of ours, {sum(n.each_s for n in nodes) * 1e6:.1f} us in onnxruntime's operators"
    )
    left: dict[str, list[float]] = defaultdict(list)
    for node in others:
        left[node.op].append(node.each_s)
    listed = [
        f"{op} {sum(took) * 1e6:.1f} us ({len(took)})" for op, took in sorted(left.items(), key=lambda i: -sum(i[1]))
    ]
    print(f"onnxruntime's others: {', '.join(listed) or 'none'}")


if __name__ == "__main__":
    main()
