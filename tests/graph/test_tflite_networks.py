"""Whole networks as TFLite: what LiteRT computes with them, kernel by kernel and from end to end."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from hwnas.accuracy.datasets.dataset import load_dataset
from hwnas.accuracy.training import TrainingPlan, train
from hwnas.graph.export import export
from hwnas.graph.quantize import quantize
from hwnas.graph.scales import ScaleRule
from hwnas.registry import spaces
from tests.graph.lite import agreement, kernel_agreements
from tests.graph.qdq import Qdq, Step, Stored

MICRO = "s16k5d4R|16d1R:k5e2+,k3e1q|32d2R:k3e4|48d2R:k5e4q,k5e2q+|128R"
"""A candidate with everything its space has: a stride of 4, squeeze-excite, sums, both kernels."""
IMAGES = 200


@cache
def trained() -> ModelProto:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    space, data = spaces.load("mbconv-micro")(), load_dataset("mnist-5k")
    network = space.decode(space.parse(MICRO))
    train(network, data, TrainingPlan(epochs=1), seed=0)
    return export(network.eval(), data.input_shape)


def quantised(network: ModelProto, rule: ScaleRule, images: np.ndarray) -> ModelProto:
    return quantize(network, list(images[:64, None]), rule)


@pytest.mark.parametrize("rule", ["free", "power-of-two"])
def test_every_kernel_of_a_trained_network_is_within_a_step(rule: ScaleRule) -> None:
    data = load_dataset("mnist-5k")
    network = quantised(trained(), rule, data.train.inputs)
    images = [[x[None]] for x in data.test.inputs[:IMAGES]]
    exact: dict[str, list[float]] = {}
    for result, (operators, found) in kernel_agreements(network, images, max_stride=3).items():
        assert found.most < 1.01, f"{operators} {result}"
        exact.setdefault(operators, []).append(found.within(0))
    assert {"Conv+Clip", "Conv", "ReduceMean", "HardSigmoid", "Mul", "Add", "Reshape"} <= set(exact)
    # sums of powers of two lie half way between two integers, which ONNX rounds to even and TFLite up
    ties = {"Add", "HardSigmoid"} if rule == "power-of-two" else set()
    for operators, shares in exact.items():
        assert operators in ties or min(shares) > 0.9999, f"{operators}: {min(shares)}"


def test_a_trained_network_is_as_accurate_in_litert() -> None:
    data = load_dataset("mnist-5k")
    labels = data.test.labels[:IMAGES]
    images = [[x[None]] for x in data.test.inputs[:IMAGES]]
    for rule, near, most in (("free", 0.99, 2), ("power-of-two", 0.8, 8)):
        found = agreement(quantised(trained(), rule, data.train.inputs), images, max_stride=3)  # type: ignore[arg-type]
        ours, theirs = ((run.argmax(1) == labels).mean() for run in (found.ours, found.theirs))
        assert theirs > 0.6 and abs(ours - theirs) <= 0.01
        assert found.within(1) > near and found.most < most + 0.01


@pytest.mark.parametrize("rule", ["free", "power-of-two"])
def test_a_network_without_ties_is_the_same_to_a_step(
    rule: ScaleRule, digits: tuple[ModelProto, np.ndarray, np.ndarray]
) -> None:
    network, images, labels = digits
    held = images[1200 : 1200 + IMAGES]
    found = agreement(quantize(network, list(images[:64]), rule), [[x] for x in held])
    assert found.most < 1.01 and found.within(0) > 0.99
    ours, theirs = ((run.argmax(1) == labels[1200 : 1200 + IMAGES]).mean() for run in (found.ours, found.theirs))
    assert theirs > 0.9 and ours == theirs


@pytest.mark.parametrize(
    ("space", "settings_"),
    [("mbconv-mobile", {"resolution": 32}), ("cell", {"channels": 4, "cells": 1, "resolution": 16})],
)
def test_networks_of_other_spaces(space: str, settings_: dict[str, int]) -> None:
    rng = np.random.default_rng(3)
    torch.manual_seed(3)
    chosen = spaces.load(space)(**settings_)
    candidate = next(c for _ in range(50) if getattr(chosen, "connected", lambda _: True)(c := chosen.sample(rng)))
    network = chosen.decode(candidate).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as if it had seen data
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    shape = chosen.input_shape
    images = rng.normal(0, 1, (16, *shape[1:])).astype(np.float32)
    whole = quantised(export(network, shape), "free", images)
    for result, (operators, found) in kernel_agreements(whole, [[x[None]] for x in images[:4]]).items():
        assert found.most < 1.01, f"{operators} {result}"


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Qdq, Stored]:
    """A few operators, each on tensors made before, so that they branch and join."""
    rng, net = np.random.default_rng(draw(st.integers(0, 2**20))), Qdq()
    c = draw(st.integers(1, 6))
    dtype = draw(st.sampled_from(["uint8", "int8"]))
    step = Step(0.021, 120 if dtype == "uint8" else -8, dtype)
    made = [net.input(rng.normal(0, 1, (8, 1, c, 6, 5)), step, stored=draw(st.booleans()))]
    for _ in range(draw(st.integers(1, 6))):
        x, y = draw(st.sampled_from(made)), draw(st.sampled_from(made))
        kind = draw(st.sampled_from(["conv", "depthwise", "add", "mul", "gate", "max", "relu", "concat", "squeeze"]))
        shape = x.shape
        if kind in ("conv", "depthwise"):
            groups = x.shape[1] if kind == "depthwise" else 1
            outputs = x.shape[1] if kind == "depthwise" else c
            values = rng.integers(-127, 128, (outputs, x.shape[1] // groups, 3, 3)).astype(np.int8)
            weights = net.weights(values, np.full(outputs, 0.01 / np.sqrt(x.shape[1] / groups), np.float32))
            shape = (1, outputs, *x.shape[2:])
            real = net.operator("Conv", [net.real(x), weights], shape, group=groups, kernel_shape=[3, 3], pads=[1] * 4)
        elif kind in ("add", "mul") and x.shape == y.shape:
            real = net.operator(kind.capitalize(), [net.real(x), net.real(y)], shape)
        elif kind == "max":
            real = net.operator("MaxPool", [net.real(x)], shape, kernel_shape=[3, 3], pads=[1] * 4)
        elif kind == "concat" and x.shape[1] + y.shape[1] < 20:
            shape = (1, x.shape[1] + y.shape[1], *x.shape[2:])
            real = net.operator("Concat", [net.real(x), net.real(y)], shape, axis=1)
        elif kind == "squeeze":
            mean = net.operator("ReduceMean", [net.real(x), net.constant([2, 3], np.int64)], (*shape[:2], 1, 1))
            gate = net.covered(mean, (*shape[:2], 1, 1))
            real = net.operator("Mul", [net.real(x), net.real(gate)], shape)
        else:
            real = net.operator("HardSwish" if kind == "gate" else "Relu", [net.real(x)], shape)
        made.append(net.covered(real, shape, draw(st.sampled_from(["uint8", "int8"])), draw(st.booleans())))
    return net, made[-1]


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_random_graphs(graph: tuple[Qdq, Stored]) -> None:
    net, result = graph
    network, images = net.give(result), list(zip(*net.images))
    for kernel, (operators, found) in kernel_agreements(network, images).items():
        assert found.most < 1.01, f"{operators} {kernel}"
    # a step here and there grows from operator to operator; a wrong tensor would be wrong throughout
    assert agreement(network, images).within(3) > 0.9
