"""Products with constant weights: rows and columns of any number, biases, activations, views of what was transposed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.toolchains.schedules.isa import isa_named
from hwnas.toolchains.schedules.products import register_block
from tests.toolchains.schedules.operators import Array, assert_same, computed, network, node, normal

few = settings(max_examples=12, deadline=None, derandomize=True)


def product(shape: tuple[int, ...], columns: int, bias: bool = True) -> tuple[Array, Array, Array]:
    return normal(*shape), normal(shape[-1], columns, seed=1), normal(columns, seed=2)


@few
@given(
    rows=st.lists(st.integers(1, 23), min_size=1, max_size=3),
    depth=st.integers(1, 70),
    columns=st.integers(1, 100),
)
def test_products_of_any_shape_with_bias_and_activation(rows: list[int], depth: int, columns: int) -> None:
    x, weights, bias = product((*rows, depth), columns)
    nodes = [node("MatMul", "x w", "p"), node("Add", "p b", "s"), node("Relu", "s", "y")]
    assert_same(network(nodes, {"x": x.shape}, ["y"], {"w": weights, "b": bias}), x)


@pytest.mark.parametrize(("rows", "depth", "columns"), [(1, 640, 100), (1, 512, 1000), (197, 192, 64), (7, 13, 5)])
@pytest.mark.parametrize("cpu", [None, "haswell"])
def test_gemm_of_one_row_and_of_a_prime_number_of_rows(rows: int, depth: int, columns: int, cpu: str | None) -> None:
    x, weights, bias = product((rows, depth), columns)
    made = network([node("Gemm", "x w b", "y", transB=1)], {"x": x.shape}, ["y"], {"w": weights.T.copy(), "b": bias})
    assert_same(made, x, cpu=cpu)


def test_residual_and_gelu_are_fused_into_one_kernel() -> None:
    x, weights, bias = product((1, 24, 32), 48)
    nodes = [node("MatMul", "x w", "p"), node("Add", "p b", "s"), node("Gelu", "s", "g"), node("Add", "g r", "y")]
    made = network(nodes, {"x": x.shape, "r": (1, 24, 48)}, ["y"], {"w": weights, "b": bias}, opset=20)
    outcome = computed(made, [x, normal(1, 24, 48, seed=3)])
    assert len(outcome.kernels) == 1
    assert outcome.uncovered == ()
    assert outcome.error <= 1e-5


def test_heads_are_read_where_they_lie_without_a_transpose() -> None:
    weights = normal(24, 20, seed=1)
    nodes = [
        node("Transpose", "x", "t", perm=[0, 2, 1, 3]),
        node("Reshape", "t s", "r"),
        node("MatMul", "r w", "y"),
    ]
    constants = {"w": weights, "s": np.array([1, 15, 24])}
    outcome = computed(network(nodes, {"x": (1, 3, 15, 8)}, ["y"], constants), [normal(1, 3, 15, 8)])
    assert [name for name in outcome.kernels if "transpose" in name] == []
    assert outcome.error <= 1e-5


def test_two_threads_compute_the_same() -> None:
    x, weights, bias = product((1, 60, 64), 96)
    made = network(
        [node("MatMul", "x w", "p"), node("Add", "p b", "y")], {"x": x.shape}, ["y"], {"w": weights, "b": bias}
    )
    assert_same(made, x, threads=2)


@pytest.mark.parametrize("core", ["x86-avx2", "x86-avx512", "cortex-a53", "cortex-a72", "cortex-a76"])
@pytest.mark.parametrize(("rows", "columns", "depth"), [(1, 10, 64), (1, 1000, 512), (197, 768, 192), (64, 128, 512)])
def test_register_blocks_fit_the_core(core: str, rows: int, columns: int, depth: int) -> None:
    isa = isa_named(core)
    block = register_block(isa, rows, columns, depth, rows)
    assert block.rows * block.vectors * block.chunks < isa.registers
    assert depth % block.chunks == 0
    if rows == 1:  # one row alone has to hide the latency of its additions
        assert block.vectors * block.chunks >= min(isa.fma * isa.latency, columns / isa.lanes) / 2
