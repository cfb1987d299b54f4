from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, helper
from torch import nn

from hwnas.errors import BuildError, DataError
from hwnas.graph.analysis import analyse, analyse_workload
from hwnas.graph.export import export
from hwnas.graph.fusion import RULE_SETS, split
from hwnas.graph.quantize import quantize
from hwnas.graph.workloads import materialize, parse_workload
from tests.graph.networks import exported, feeds, graph, session


def random_inputs(n: int, shape: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for _ in range(n)]


@pytest.fixture(scope="module")
def digits() -> tuple[ModelProto, np.ndarray, np.ndarray]:
    """A small convolutional network trained on scikit-learn's digits, with its held-out images and labels."""
    from sklearn.datasets import load_digits

    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images.reshape(-1, 1, 8, 8) / 8 - 1, dtype=torch.float32)
    y = torch.tensor(labels)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1, groups=16), nn.ReLU6(),
        nn.Conv2d(16, 32, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(30):
        for start in range(0, 1200, 100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[start : start + 100]), y[start : start + 100]).backward()
            optimiser.step()
    return export(net, (1, 1, 8, 8)), x.numpy()[:, None], y.numpy()


def accuracy(network: ModelProto, images: np.ndarray, labels: np.ndarray) -> float:
    running = session(network)
    return float(np.mean([running.run(None, {"input": i})[0].argmax() == k for i, k in zip(images, labels)]))


def test_int8_is_nearly_as_accurate_on_real_data(digits: tuple[ModelProto, np.ndarray, np.ndarray]) -> None:
    network, images, labels = digits
    int8 = quantize(network, list(images[:100]))
    full, small = accuracy(network, images[1200:], labels[1200:]), accuracy(int8, images[1200:], labels[1200:])
    assert full > 0.85
    assert small > full - 0.02
    assert len(onnx.ModelProto.SerializeToString(int8)) < len(network.SerializeToString()) + 20_000


def test_every_convolution_and_product_is_quantised() -> None:
    int8 = quantize(exported("residual"), random_inputs(4, (1, 3, 32, 32)))
    producer = {name: node for node in int8.graph.node for name in node.output}
    weights = {tensor.name: tensor for tensor in int8.graph.initializer}
    seen = 0
    for node in int8.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert all(producer[name].op_type == "DequantizeLinear" for name in node.input[:2])
            assert weights[producer[node.input[1]].input[0]].data_type == onnx.TensorProto.INT8
            scale = weights[producer[node.input[1]].input[1]]
            assert list(scale.dims) == [weights[producer[node.input[1]].input[0]].dims[0]]
            seen += 1
    assert seen == 7


def test_quantising_is_deterministic_and_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    data = random_inputs(3, (1, 3, 32, 32))
    first, second = (quantize(exported("depthwise"), data).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    printed = capfd.readouterr()
    assert printed.out == "" and printed.err == ""


@pytest.mark.parametrize("rules", RULE_SETS)
@pytest.mark.parametrize("family", ["residual", "depthwise", "excite", "transformer"])
def test_quantised_workloads_are_one_kernel_each_and_run(family: str, rules: str) -> None:
    shape = (1, 3, 16, 16) if family == "transformer" else (1, 3, 32, 32)
    full = exported(family)
    int8 = quantize(full, random_inputs(4, shape))
    found = split(int8, rules)
    convolutions = sum(node.op_type == "Conv" for node in full.graph.node)
    assert sum(count for i, count in found.parts.items() if found.workloads[i].op.startswith("Conv")) == convolutions
    assert (
        sum(analyse_workload(found.workloads[i]).macs for i in found.order) == analyse(full).macs == analyse(int8).macs
    )
    for workload in found.workloads.values():
        network = materialize(workload)
        onnx.checker.check_model(network, full_check=True)
        running = session(network, optimise=False)
        for out in running.run(None, feeds(running)):
            assert np.isfinite(out.astype(np.float64)).all()
        assert parse_workload(workload.onnx, workload.op) == workload


def test_int8_weights_take_one_byte() -> None:
    full = exported("residual")
    int8 = quantize(full, random_inputs(4, (1, 3, 32, 32)))
    facts, before = analyse(int8), analyse(full)
    bias_elements = sum(t.dims[0] for t in full.graph.initializer if t.data_type == 1 and len(t.dims) == 1)
    assert facts.params == before.params
    assert facts.weight_bytes == before.params + 3 * bias_elements
    assert facts.peak_activation_bytes < before.peak_activation_bytes


def test_calibration_does_not_change_ids() -> None:
    full = exported("depthwise")
    first = quantize(full, random_inputs(4, (1, 3, 32, 32)))
    second = quantize(full, [5 * array + 1 for array in random_inputs(2, (1, 3, 32, 32))])
    for rules in RULE_SETS:
        assert split(first, rules).order == split(second, rules).order


def test_calibration_data_that_does_not_fit_is_refused() -> None:
    network = exported("residual")
    with pytest.raises(DataError, match="calibration needs at least one input"):
        quantize(network, [])
    with pytest.raises(DataError, match=r"calibration input 0 of shape \(3, 32, 32\); .* of shape \(1, 3, 32, 32\)"):
        quantize(network, [np.zeros((3, 32, 32), np.float32)])
    with pytest.raises(DataError, match="calibration input 0 with values that are not finite"):
        quantize(network, [np.full((1, 3, 32, 32), np.nan, np.float32)])
    two = graph([helper.make_node("Add", ["x", "z"], ["y"])], {"x": (1, 4), "z": (1, 4)})
    with pytest.raises(DataError, match="a network of one input, this one has 2"):
        quantize(two, [np.zeros((1, 4), np.float32)])


def test_what_onnxruntime_cannot_quantise_is_a_build_error(monkeypatch: pytest.MonkeyPatch) -> None:
    network = graph([helper.make_node("Relu", ["x"], ["y"])], {"x": (1, 4)})
    network.graph.node[0].op_type = "Rleu"
    network.graph.output[0].type.tensor_type.shape.dim.add(dim_value=1)
    network.graph.output[0].type.tensor_type.shape.dim.add(dim_value=4)
    with pytest.raises(BuildError, match="build failed in quantize"):
        quantize(network, [np.zeros((1, 4), np.float32)])
