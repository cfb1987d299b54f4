"""Softmaxes and normalisations over the last axis and over others, in rows of any length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toolchains.schedules.operators import assert_same, computed, network, node, normal

few = settings(max_examples=12, deadline=None, derandomize=True)
shapes = st.lists(st.integers(1, 9), min_size=0, max_size=2)


@few
@given(outer=shapes, depth=st.integers(1, 150), inner=st.sampled_from([1, 1, 1, 5]), log=st.booleans())
def test_softmax_over_any_axis(outer: list[int], depth: int, inner: int, log: bool) -> None:
    shape = (*outer, depth, inner) if inner > 1 else (*outer, depth)
    operator = node("LogSoftmax" if log else "Softmax", "x", "y", axis=len(outer))
    assert_same(network([operator], {"x": shape}, ["y"]), 3 * normal(*shape))


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_softmax_of_large_and_of_masked_values(operator: str) -> None:
    x = np.array([[1000.0, 999.0, -1000.0], [-np.inf, 0.0, 1.0], [-3e38, 3e38, 0.0]], np.float32)
    outcome = computed(network([node(operator, "x", "y", axis=-1)], {"x": x.shape}, ["y"]), [x])
    np.testing.assert_allclose(outcome.ours[0], outcome.reference[0], rtol=1e-5)


@few
@given(outer=shapes, inner=st.lists(st.integers(1, 70), min_size=1, max_size=2))
def test_layer_norm_over_the_last_axes(outer: list[int], inner: list[int]) -> None:
    shape = (*outer, *inner)
    constants = {"g": normal(*inner, seed=1), "b": normal(*inner, seed=2)}
    operator = node("LayerNormalization", "x g b", "y", axis=len(outer), epsilon=1e-5)
    x = 2 + normal(*shape)
    if int(np.prod(inner)) == 1:  # x minus itself: the result is the shift
        x = np.round(x)
    assert_same(network([operator], {"x": shape}, ["y"], constants), x, limit=2e-5)


@pytest.mark.parametrize("cpu", [None, "haswell"])
@pytest.mark.parametrize(("channels", "groups", "pixels"), [(12, 3, 49), (8, 8, 30), (6, 1, 5)])
def test_group_and_instance_norm(channels: int, groups: int, pixels: int, cpu: str | None) -> None:
    constants = {"g": normal(channels, seed=1), "b": normal(channels, seed=2)}
    x = normal(2, channels, pixels, 3)
    group = node("GroupNormalization", "x g b", "y", num_groups=groups)
    assert_same(network([group], {"x": x.shape}, ["y"], constants, opset=21), x, cpu=cpu)
    instance = node("InstanceNormalization", "x g b", "y")
    assert_same(network([instance], {"x": x.shape}, ["y"], constants), x, cpu=cpu)


def test_a_layer_norm_in_pieces_and_a_masked_softmax() -> None:
    nodes = [
        node("ReduceMean", "x a", "m", keepdims=1),
        node("Sub", "x m", "d"),
        node("Pow", "d two", "q"),
        node("ReduceMean", "q a", "v", keepdims=1),
        node("Add", "v e", "w"),
        node("Sqrt", "w", "s"),
        node("Div", "d s", "n"),
        node("Add", "n mask", "z"),
        node("Softmax", "z", "y", axis=-1),
    ]
    constants = {"a": np.array([-1]), "two": np.float32(2), "e": np.float32(1e-5)}
    made = network(nodes, {"x": (1, 19, 50), "mask": (1, 1, 50)}, ["y"], constants)
    assert_same(made, normal(1, 19, 50), normal(1, 1, 50, seed=3))


def test_two_threads_compute_the_same() -> None:
    made = network([node("Softmax", "x", "y", axis=-1)], {"x": (4, 90, 200)}, ["y"])
    assert_same(made, normal(4, 90, 200), threads=2)
