"""Products of two activations: broadcast batches, transposed operands, the whole of an attention."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.toolchains.schedules.batched import broadcast
from tests.toolchains.schedules.operators import assert_same, computed, network, node, normal

few = settings(max_examples=12, deadline=None, derandomize=True)
size = st.integers(1, 40)


@few
@given(batch=st.integers(1, 3), rows=size, depth=size, columns=size, flipped=st.sampled_from(["", "left", "right"]))
def test_products_of_any_shape_with_a_transposed_operand(
    batch: int, rows: int, depth: int, columns: int, flipped: str
) -> None:
    left, right = normal(batch, rows, depth), normal(batch, depth, columns, seed=1)
    nodes = [node("MatMul", "a b", "y")]
    if flipped == "left":
        left, nodes = left.swapaxes(1, 2).copy(), [node("Transpose", "l", "a", perm=[0, 2, 1]), *nodes]
    if flipped == "right":
        right, nodes = right.swapaxes(1, 2).copy(), [node("Transpose", "r", "b", perm=[0, 2, 1]), *nodes]
    names = ("l" if flipped == "left" else "a", "r" if flipped == "right" else "b")
    made = network(nodes, dict(zip(names, (left.shape, right.shape))), ["y"])
    outcome = computed(made, [left, right])
    assert outcome.uncovered == ()
    assert outcome.error <= 1e-5
    moves = [name for name in outcome.kernels if name.startswith(("transpose", "reshape"))]
    assert len(outcome.kernels) - len(moves) == 1
    assert not moves or flipped == "right"  # a large operand is transposed in registers, nothing else is copied


@pytest.mark.parametrize(
    ("left", "right"),
    [((2, 1, 5, 6), (3, 6, 4)), ((1, 5, 6), (4, 6, 16)), ((5, 6), (2, 6, 33)), ((4, 1, 1, 7), (1, 3, 7, 16))],
)
def test_batches_broadcast_as_in_numpy(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    made = network([node("MatMul", "a b", "y")], {"a": left, "b": right}, ["y"])
    assert_same(made, normal(*left), normal(*right, seed=1))
    assert broadcast(left[:-2], right[:-2]) == np.broadcast_shapes(left[:-2], right[:-2])


@pytest.mark.parametrize(("tokens", "heads", "width"), [(16, 2, 16), (29, 3, 8)])
@pytest.mark.parametrize("cpu", [None, "haswell"])
def test_an_attention_leaves_no_transpose(tokens: int, heads: int, width: int, cpu: str | None) -> None:
    whole = heads * width
    constants = {
        "qkv": normal(whole, 3 * whole, seed=1) / np.float32(whole**0.5),
        "out": normal(whole, whole, seed=2),
        "split": np.array([1, tokens, 3, heads, width]),
        "join": np.array([1, tokens, whole]),
        **{f"i{n}": np.array(n) for n in range(3)},
    }
    nodes = [
        node("MatMul", "x qkv", "p"),
        node("Reshape", "p split", "h"),
        node("Transpose", "h", "t", perm=[2, 0, 3, 1, 4]),
        *(node("Gather", f"t i{n}", name, axis=0) for n, name in enumerate(("q", "k", "v"))),
        node("Transpose", "k", "kt", perm=[0, 1, 3, 2]),
        node("MatMul", "q kt", "s"),
        node("Softmax", "s", "a", axis=-1),
        node("MatMul", "a v", "o"),
        node("Transpose", "o", "ot", perm=[0, 2, 1, 3]),
        node("Reshape", "ot join", "j"),
        node("MatMul", "j out", "y"),
    ]
    outcome = computed(network(nodes, {"x": (1, tokens, whole)}, ["y"], constants), [normal(1, tokens, whole)], cpu)
    assert outcome.uncovered == ()
    assert outcome.error <= 1e-5
    assert [name for name in outcome.kernels if "transpose" in name or "take" in name] == []
