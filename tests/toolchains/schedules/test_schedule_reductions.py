"""Reductions over any axes, with and without the reduced ones kept, of values that a chain of operators makes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toolchains.schedules.operators import assert_same, computed, network, node, normal

few = settings(max_examples=20, deadline=None, derandomize=True)
KINDS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2", "ReduceSumSquare")


@few
@given(
    shape=st.lists(st.integers(1, 37), min_size=1, max_size=4).filter(lambda shape: np.prod(shape) < 20_000),
    chosen=st.integers(1, 15),
    kind=st.sampled_from(KINDS),
    keep=st.booleans(),
)
def test_reductions_over_any_axes(shape: list[int], chosen: int, kind: str, keep: bool) -> None:
    axes = [axis for axis in range(len(shape)) if chosen >> axis & 1] or [len(shape) - 1]
    x = normal(*shape)
    if kind in ("ReduceProd", "ReduceSum", "ReduceMean"):
        x = (1 + 0.01 * x).astype(np.float32)  # no sum near zero, no product beyond the range
    made = network([node(kind, "x a", "y", keepdims=int(keep))], {"x": shape}, ["y"], {"a": np.array(axes)})
    assert_same(made, x)


@pytest.mark.parametrize(("axes", "shape"), [((2, 3), (1, 40, 7, 7)), ((2,), (2, 33, 19)), ((0, 1, 2), (3, 5, 40))])
def test_what_follows_and_what_goes_before_is_fused(axes: tuple[int, ...], shape: tuple[int, ...]) -> None:
    nodes = [node("Mul", "x x", "q"), node("ReduceMean", "q a", "m", keepdims=0), node("Sqrt", "m", "y")]
    outcome = computed(network(nodes, {"x": shape}, ["y"], {"a": np.array(axes)}), [normal(*shape)])
    assert outcome.uncovered == ()
    assert outcome.error <= 1e-5
    assert len(outcome.kernels) <= 2


@pytest.mark.parametrize("kind", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("shape", [(3, 7), (2, 50), (4, 5)])
def test_extremes_of_infinities(kind: str, shape: tuple[int, ...]) -> None:
    x = np.full(shape, -np.inf if kind == "ReduceMax" else np.inf, np.float32)
    x[0, 2] = 1.0
    made = network([node(kind, "x a", "y", keepdims=0)], {"x": shape}, ["y"], {"a": np.array([1])})
    outcome = computed(made, [x])
    assert np.array_equal(outcome.ours[0], outcome.reference[0])


@pytest.mark.parametrize("operator", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("shape", [(1, 40, 7, 7), (2, 3, 30, 31), (1, 5, 1, 9)])
@pytest.mark.parametrize("cpu", [None, "haswell"])
def test_global_pools(operator: str, shape: tuple[int, ...], cpu: str | None) -> None:
    assert_same(network([node(operator, "x", "y")], {"x": shape}, ["y"]), normal(*shape), cpu=cpu)


def test_the_place_of_the_largest() -> None:
    made = network([node("ArgMax", "x", "i", axis=1, keepdims=0), node("Cast", "i", "y", to=1)], {"x": (6, 50)}, ["y"])
    assert_same(made, normal(6, 50))
