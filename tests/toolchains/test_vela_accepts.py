"""What we write as TFLite, Vela puts onto the NPU: whole networks, every kernel of a space, every operator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto

from hwnas import api
from hwnas.core.workload import Workload
from hwnas.graph.builder import SIXTH, GraphBuilder, Value
from hwnas.graph.fusion import split
from hwnas.graph.precision import cast
from hwnas.graph.quantize import quantize
from hwnas.graph.tflite import tflite_bytes
from hwnas.graph.workloads import materialize
from hwnas.profiling.subjects import untrained
from hwnas.toolchains.vela.compiler import Compiled, compile_tflite
from hwnas.toolchains.vela.settings import settings_of
from hwnas.toolchains.vela.toolchain import MOST_STRIDE

SMALL = "ethos-u55-128"


def compiled(network: ModelProto, device: str = SMALL) -> Compiled:
    return compile_tflite(tflite_bytes(network, MOST_STRIDE), settings_of(api.load_device(device)))


def test_forty_networks_of_mbconv_micro_run_on_the_npu_alone() -> None:
    space, rng = api.load_space("mbconv-micro"), np.random.default_rng(0)
    for _ in range(40):
        candidate = space.sample(rng)
        found = compiled(untrained(space, candidate, "int8"))
        assert found.cpu_operators == 0 and found.cycles > 1000, space.encode(candidate)


@pytest.mark.parametrize("name", ["mbconv-mobile", "cell"])
@pytest.mark.parametrize("device", ["ethos-u65-256", "ethos-u85-256"])
def test_networks_of_other_spaces_run_on_the_npu_alone(name: str, device: str) -> None:
    space, rng = api.load_space(name), np.random.default_rng(1)
    for _ in range(2):
        found = compiled(untrained(space, space.sample(rng), "int8"), device)
        assert found.cpu_operators == 0 and found.cycles > 1000


@pytest.mark.parametrize("name", ["mbconv-micro", "cell"])
def test_every_kernel_runs_on_the_npu_alone(name: str) -> None:
    space, rng = api.load_space(name), np.random.default_rng(2)
    workloads: dict[str, Workload] = {}
    for _ in range(8):
        workloads |= split(untrained(space, space.sample(rng), "int8"), "cgen").workloads
    assert len(workloads) > 30
    for workload in workloads.values():
        if workload.op not in ("QuantizeLinear", "DequantizeLinear"):  # the ends of a network, which the CPU runs
            found = compiled(materialize(workload))
            assert found.cpu_operators == 0 and found.cycles > 0, workload.op


def resized(graph: GraphBuilder, x: Value, mode: str) -> Value:
    n, c, h, w = x.shape
    sizes = graph.constant(np.array([1, 1, 2, 2], np.float32))
    larger = graph.operator(
        "Resize", (graph.conv(x, c, (1, 1)).name, "", sizes), (n, c, 2 * h, 2 * w), mode=mode,
        coordinate_transformation_mode="half_pixel",
    )  # fmt: skip
    return graph.conv(larger, 4, (1, 1))


def pooled(graph: GraphBuilder, x: Value) -> Value:
    shape = (*x.shape[:2], x.shape[2] // 2, x.shape[3] // 2)
    return graph.operator("MaxPool", (x.name,), shape, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])


def unary(op: str, **attributes: float) -> Callable[[GraphBuilder, Value], Value]:
    return lambda graph, x: graph.operator(op, (x.name,), x.shape, **attributes)


OPERATORS: dict[str, Callable[[GraphBuilder, Value], Value]] = {
    "a padded convolution of stride 4": lambda g, x: g.relu6(g.conv(x, 12, (5, 5), (4, 4))),
    "a depthwise convolution of stride 5": lambda g, x: g.conv(x, 8, (5, 5), (5, 5), groups=8),
    "a grouped convolution": lambda g, x: g.conv(x, 16, (3, 3), groups=2),
    "a dense product of a flattened image": lambda g, x: g.linear(g.flatten(x), 10),
    "a padded maximum": pooled,
    "a mean that leaves pads out": lambda g, x: g.average_pool(x, 3, 2, 1, False),
    "a mean that counts pads": lambda g, x: g.average_pool(x, 3, 2, 1, True),
    "a squeeze and excite": lambda g, x: g.mul(x, g.hardsigmoid(g.conv(g.spatial_mean(x), 8, (1, 1)))),
    "a sum": lambda g, x: g.relu(g.add(x, g.conv(x, 8, (3, 3)))),
    "a concatenation": lambda g, x: g.operator("Concat", (x.name, g.conv(x, 4, (1, 1)).name), (1, 12, 20, 20), axis=1),
    "a clamp": lambda g, x: g.operator("Clip", (g.conv(x, 8, (1, 1)).name, *(g.constant(np.float32(v)) for v in (-0.5, 0.7))), x.shape),
    "a transposition": lambda g, x: g.operator("Transpose", (x.name,), x.shape, perm=[0, 1, 3, 2]),
    "nearest pixels": lambda g, x: resized(g, x, "nearest"),
    "bilinear pixels": lambda g, x: resized(g, x, "linear"),
    "HardSwish": unary("HardSwish"),
    "HardSigmoid": unary("HardSigmoid", alpha=SIXTH),
    "Sigmoid": unary("Sigmoid"),
    "Tanh": unary("Tanh"),
    "LeakyRelu": unary("LeakyRelu", alpha=0.1),
    "Softmax": lambda g, x: g.operator("Softmax", (g.linear(g.flatten(x), 10).name,), (1, 10), axis=1),
}  # fmt: skip


@pytest.mark.parametrize("device", [SMALL, "ethos-u65-256", "ethos-u85-256"])
@pytest.mark.parametrize("what", OPERATORS)
def test_every_operator_that_is_written_runs_on_the_npu(what: str, device: str) -> None:
    graph = GraphBuilder(what)
    x = graph.input((1, 8, 20, 20))
    network = graph.build(OPERATORS[what](graph, x))
    rng = np.random.default_rng(0)
    images = [rng.normal(0, 1, (1, 8, 20, 20)).astype(np.float32) for _ in range(4)]
    found = compiled(quantize(network, images, "free"), device)
    assert found.cpu_operators == 0 and found.cycles > 0


def test_calibration_does_not_change_what_a_network_costs() -> None:
    """Nominal scales price a candidate; the trained one may only differ in how well its weights compress."""
    space, rng = api.load_space("mbconv-micro"), np.random.default_rng(4)
    images = [rng.random(space.input_shape, np.float32) for _ in range(8)]
    for _ in range(4):
        candidate = space.sample(rng)
        network = untrained(space, candidate)
        nominal, calibrated = (compiled(n).cycles for n in (cast(network, "int8"), quantize(network, images, "free")))
        assert calibrated == pytest.approx(nominal, rel=0.01)
