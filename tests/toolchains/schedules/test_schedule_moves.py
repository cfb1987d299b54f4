"""Data movement: transposes, concatenations, slices, gathers, resizes, pads, shuffles, and views of them."""

from __future__ import annotations

from itertools import permutations
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.toolchains.schedules.transposes import as_matrices
from tests.toolchains.schedules.operators import assert_same, computed, network, node, normal

few = settings(max_examples=12, deadline=None, derandomize=True)
shapes = st.lists(st.integers(1, 21), min_size=1, max_size=4).filter(lambda shape: prod(shape) < 30_000)


@few
@given(shape=st.tuples(*[st.integers(1, 19)] * 4), order=st.sampled_from(list(permutations(range(4)))))
def test_transposes(shape: tuple[int, ...], order: tuple[int, ...]) -> None:
    nodes = [node("Transpose", "x", "t", perm=order), node("Relu", "t", "y")]
    assert_same(network(nodes, {"x": shape}, ["y"]), normal(*shape), limit=0.0)


@pytest.mark.parametrize(
    ("shape", "order"),
    [
        ((1, 33, 35, 18), (0, 3, 1, 2)),
        ((2, 18, 9, 11), (0, 2, 3, 1)),
        ((70, 67), (1, 0)),
        ((3, 5, 4, 50, 8), (0, 1, 4, 2, 3)),
        ((1, 90, 5, 7), (0, 2, 3, 1)),
    ],
)
@pytest.mark.parametrize("cpu", [None, "haswell"])
@pytest.mark.parametrize("threads", [1, 2])
def test_matrices_are_transposed_in_registers(
    shape: tuple[int, ...], order: tuple[int, ...], cpu: str | None, threads: int
) -> None:
    made = network([node("Transpose", "x", "y", perm=order)], {"x": shape}, ["y"])
    assert_same(made, normal(*shape), cpu=cpu, threads=threads, limit=0.0)


def test_which_permutations_transpose_matrices() -> None:
    assert as_matrices((1, 8, 5, 6), (0, 2, 3, 1)) == (1, 8, 30)
    assert as_matrices((2, 5, 6, 8), (0, 3, 1, 2)) == (2, 30, 8)
    assert as_matrices((4, 6), (1, 0)) == (1, 4, 6)
    assert as_matrices((2, 3, 4, 5), (0, 2, 1, 3)) is None  # the innermost axis stays: rows are copied whole
    assert as_matrices((2, 3, 4), (2, 1, 0)) is None
    assert as_matrices((2, 1, 4), (0, 1, 2)) is None


@few
@given(shape=shapes, axis=st.integers(0, 3), parts=st.lists(st.integers(1, 40), min_size=2, max_size=4))
def test_concatenations_and_splits(shape: list[int], axis: int, parts: list[int]) -> None:
    axis %= len(shape)
    shape = [min(size, 12) for size in shape]
    made = [[*shape[:axis], part, *shape[axis + 1 :]] for part in parts]
    names = [f"x{n}" for n in range(len(parts))]
    nodes = [
        node("Concat", " ".join(names), "c", axis=axis),
        node("Relu", "c", "r"),
        node("Split", "r sizes", "y z", axis=axis),
    ]
    sizes = np.array([parts[0], sum(parts[1:])])
    graph = network(nodes, dict(zip(names, made)), ["y", "z"], {"sizes": sizes})
    assert_same(graph, *(normal(*one, seed=n) for n, one in enumerate(made)), limit=0.0)


@few
@given(shape=shapes, seed=st.integers(0, 99))
def test_slices_and_pads(shape: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    begin = np.array([int(rng.integers(0, size)) for size in shape])
    end = np.array([int(rng.integers(first + 1, size + 1)) for first, size in zip(begin, shape)])
    step = rng.integers(1, 3, len(shape))
    around = rng.integers(0, 4, 2 * len(shape))
    constants = {"b": begin, "e": end, "a": np.arange(len(shape)), "s": step, "p": around, "v": np.float32(0.5)}
    nodes = [node("Slice", "x b e a s", "t"), node("Pad", "t p v", "y")]
    assert_same(network(nodes, {"x": shape}, ["y"], constants), normal(*shape), limit=0.0)


@pytest.mark.parametrize("index", [np.array(2), np.array(-1), np.array([3, 0, 3]), np.array([[1], [2]])])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gathers(index: np.ndarray, axis: int) -> None:
    made = network([node("Gather", "x i", "y", axis=axis)], {"x": (5, 6, 7)}, ["y"], {"i": index})
    assert_same(made, normal(5, 6, 7), limit=0.0)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("size", [(14, 18), (5, 6)])
def test_resizes(mode: str, size: tuple[int, int]) -> None:
    place = "asymmetric" if mode == "nearest" else "half_pixel"
    rounding = {"nearest_mode": "floor"} if mode == "nearest" else {}
    operator = node("Resize", "x  s", "y", mode=mode, coordinate_transformation_mode=place, **rounding)
    operator.input[:] = ["x", "", "", "s"]
    made = network([operator], {"x": (1, 6, 7, 9)}, ["y"], {"s": np.array([1, 6, *size])})
    assert_same(made, normal(1, 6, 7, 9))


@pytest.mark.parametrize("operator", ["DepthToSpace", "SpaceToDepth"])
def test_depth_and_space(operator: str) -> None:
    made = network([node(operator, "x", "y", blocksize=2)], {"x": (1, 12, 6, 8)}, ["y"])
    assert_same(made, normal(1, 12, 6, 8), limit=0.0)


@pytest.mark.parametrize("cpu", [None, "haswell"])
def test_a_channel_shuffle_between_convolutions(cpu: str | None) -> None:
    nodes = [
        node("Conv", "x w", "c"),
        node("Reshape", "c to", "r"),
        node("Transpose", "r", "t", perm=[0, 2, 1, 3, 4]),
        node("Reshape", "t back", "s"),
        node("Conv", "s v", "y"),
    ]
    constants = {
        "w": normal(12, 5, 1, 1, seed=1),
        "v": normal(8, 12, 1, 1, seed=2),
        "to": np.array([1, 3, 4, 7, 7]),
        "back": np.array([1, 12, 7, 7]),
    }
    assert_same(network(nodes, {"x": (1, 5, 7, 7)}, ["y"], constants), normal(1, 5, 7, 7), cpu=cpu)


def test_expand_tile_where_and_comparison() -> None:
    nodes = [
        node("Expand", "x s", "e"),
        node("Tile", "e n", "t"),
        node("Greater", "t zero", "g"),
        node("Where", "g t zero", "y"),
    ]
    constants = {"s": np.array([3, 5, 9]), "n": np.array([1, 2, 1]), "zero": np.float32(0)}
    assert_same(network(nodes, {"x": (1, 5, 1)}, ["y"], constants), normal(1, 5, 1), limit=0.0)


def test_a_reshape_runs_no_kernel_of_its_own_and_reads_right() -> None:
    nodes = [node("Reshape", "x s", "r"), node("Softmax", "r", "y", axis=-1)]
    outcome = computed(network(nodes, {"x": (2, 6, 10)}, ["y"], {"s": np.array([4, 30])}), [normal(2, 6, 10)])
    assert outcome.uncovered == ()
    assert outcome.error <= 1e-5
