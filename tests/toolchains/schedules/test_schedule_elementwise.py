"""Elementwise operators: their polynomials against the C library, chains of them, broadcasts, special values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.toolchains.schedules.elementwise import power
from tests.toolchains.schedules.operators import Array, assert_same, computed, network, node, normal

few = settings(max_examples=12, deadline=None, derandomize=True)


def exact_erf(x: Array) -> Array:
    from scipy.special import erf

    return np.asarray(erf(x))


EXACT: dict[str, tuple[Callable[[Array], Array], float, float]] = {
    "Exp": (np.exp, -86.0, 88.7),
    "Sigmoid": (lambda x: 1 / (1 + np.exp(-x)), -86.0, 88.0),
    "Tanh": (np.tanh, -20.0, 20.0),
    "Erf": (exact_erf, -6.0, 6.0),
    "Log": (np.log, 1e-37, 1e5),
}


@pytest.mark.parametrize("operator", EXACT)
@pytest.mark.parametrize("cpu", [None, "haswell"])
def test_polynomials_are_within_a_millionth_of_the_function(operator: str, cpu: str | None) -> None:
    function, low, high = EXACT[operator]
    rng = np.random.default_rng(0)
    parts = [rng.uniform(low, high, 4000), rng.uniform(max(low, -1), 1, 4000), 1e-3 * rng.standard_normal(4000)]
    if operator == "Log":
        parts = [np.exp(rng.uniform(-85, 88, 6000)), rng.uniform(0.5, 2, 6000)]
    x = np.concatenate(parts).astype(np.float32)
    outcome = computed(network([node(operator, "x", "y")], {"x": x.shape}, ["y"]), [x], cpu)
    exact = function(x.astype(np.float64))
    assert np.max(np.abs(outcome.ours[0] - exact) / np.abs(exact)) <= 1e-6


@pytest.mark.parametrize("operator", EXACT)
def test_special_values(operator: str) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 89.0, -104.0, 1e30, -1e30, 3e-39], np.float32)
    if operator == "Log":
        x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0, 1.0, 3e38], np.float32)
    outcome = computed(network([node(operator, "x", "y")], {"x": x.shape}, ["y"]), [x])
    with np.errstate(all="ignore"):
        exact = EXACT[operator][0](x.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(outcome.ours[0], exact, rtol=1e-6, atol=3e-38)


def test_a_result_too_small_for_a_normal_number_is_zero() -> None:
    x = np.array([-86.5, -87.0, -90.0, -200.0], np.float32)
    outcome = computed(network([node("Exp", "x", "y")], {"x": x.shape}, ["y"]), [x])
    assert outcome.ours[0][0] > 2.3e-38
    assert not outcome.ours[0][1:].any()


@few
@given(
    shape=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    wide=st.integers(0, 15),
    operator=st.sampled_from(["Add", "Mul", "Sub", "Div", "Max"]),
)
def test_broadcasts_of_any_axes(shape: list[int], wide: int, operator: str) -> None:
    other = [size if wide >> axis & 1 else 1 for axis, size in enumerate(shape)]
    nodes = [node(operator, "x z", "t"), node("Sigmoid", "t", "y")]
    made = network(nodes, {"x": shape, "z": other}, ["y"])
    assert_same(made, normal(*shape), (2 + np.abs(normal(*other, seed=1))).astype(np.float32))


@pytest.mark.parametrize(
    "operator", ["HardSwish", "Gelu", "Mish", "Softplus", "Elu", "Selu", "HardSigmoid", "LeakyRelu"]
)
def test_activations(operator: str) -> None:
    made = network([node(operator, "x", "y")], {"x": (1, 7, 11, 13)}, ["y"], opset=20)
    assert_same(made, 4 * normal(1, 7, 11, 13))


@pytest.mark.parametrize("exponent", [0.5, -0.5, 1.0, 2.0, 3.0, 4.0, -1.0, -2.0, 2.7])
def test_powers(exponent: float) -> None:
    made = network([node("Pow", "x e", "y")], {"x": (5, 33)}, ["y"], {"e": np.float32(exponent)})
    assert_same(made, (0.5 + np.abs(normal(5, 33))).astype(np.float32))
    assert (power(exponent) is None) == (exponent == 2.7)


def test_a_long_chain_stays_small() -> None:
    nodes: list[Any] = []
    value = "x"
    for step in range(12):  # each step reads its value twice: inlined without measure, this is 2**12 terms
        nodes += [node("Sigmoid", value, f"s{step}"), node("Mul", f"{value} s{step}", f"v{step}")]
        value = f"v{step}"
    nodes.append(node("Identity", value, "y"))
    assert_same(network(nodes, {"x": (1, 8, 9)}, ["y"]), normal(1, 8, 9))


def test_two_threads_compute_the_same() -> None:
    made = network([node("Sigmoid", "x", "y")], {"x": (1, 64, 40, 40)}, ["y"])
    assert_same(made, normal(1, 64, 40, 40), threads=2)
