"""The arena: what lives together never overlaps, and little is lost."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.graph.precision import cast, cast_blocks
from hwnas.spaces.mbconv import mbconv_micro
from hwnas.toolchains.cgen import arena_bytes, constant_bytes
from hwnas.toolchains.cgen.memory import ALIGNMENT, Lifetime, place

LIVES = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 20), st.integers(0, 8)).map(lambda t: (t[0], t[1], t[1] + t[2])),
    max_size=25,
)


@given(LIVES)
def test_what_lives_together_never_overlaps(drawn: list[tuple[int, int, int]]) -> None:
    lives = [Lifetime(str(k), *life) for k, life in enumerate(drawn)]
    layout = place(lives)
    for k, a in enumerate(lives):
        begin = layout.offsets[a.name]
        assert begin % ALIGNMENT == 0
        assert begin + a.size <= layout.bytes
        for b in lives[k + 1 :]:
            if a.meets(b) and a.size and b.size:
                other = layout.offsets[b.name]
                assert begin + a.size <= other or other + b.size <= begin


@given(LIVES)
def test_the_arena_is_no_smaller_than_what_lives_at_once_nor_larger_than_all(drawn: list[tuple[int, int, int]]) -> None:
    lives = [Lifetime(str(k), *life) for k, life in enumerate(drawn)]
    padded = {life.name: max(ALIGNMENT, -(-life.size // ALIGNMENT) * ALIGNMENT) for life in lives}
    steps = {life.first for life in lives}
    least = max((sum(padded[x.name] for x in lives if x.first <= s <= x.last) for s in steps), default=0)
    assert least <= place(lives).bytes <= sum(padded.values())


def test_a_chain_takes_its_two_largest_neighbours() -> None:
    sizes = [64, 256, 1024, 512, 32]
    lives = [Lifetime(str(k), size, k, k + 1) for k, size in enumerate(sizes)]
    assert place(lives).bytes == 1024 + 512


def test_an_empty_network_takes_nothing() -> None:
    assert place([]).bytes == 0


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_blocks_add_up_to_the_constants_of_their_network(precision: str) -> None:
    space = mbconv_micro()
    candidate = space.sample(np.random.default_rng(5))
    blocks = cast_blocks(space.blocks(candidate), precision, space.input_shape, space.classes)  # type: ignore[arg-type]
    whole = constant_bytes(cast(space.graph(candidate), precision))  # type: ignore[arg-type]
    assert sum(constant_bytes(block.build()) for block in blocks) == whole


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_arena_of_a_network_is_at_least_that_of_its_largest_block(precision: str) -> None:
    space = mbconv_micro()
    candidate = space.sample(np.random.default_rng(6))
    blocks = cast_blocks(space.blocks(candidate), precision, space.input_shape, space.classes)  # type: ignore[arg-type]
    largest = max(arena_bytes(block.build()) for block in blocks)
    assert largest <= arena_bytes(cast(space.graph(candidate), precision)) <= 1.5 * largest  # type: ignore[arg-type]


@pytest.mark.timing
def test_sizes_are_known_in_milliseconds() -> None:
    space = mbconv_micro()
    network = cast(space.graph(space.sample(np.random.default_rng(5))), "int8")
    arena_bytes(network)
    begin = time.perf_counter()
    arena_bytes(network)
    constant_bytes(network)
    assert time.perf_counter() - begin < 0.5
