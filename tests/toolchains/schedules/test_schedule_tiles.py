"""Tile sizes: they keep the registers, divide what they must divide, and cover the output."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hwnas.toolchains.schedules.convolution import input_block
from hwnas.toolchains.schedules.isa import Isa, isa_named, records
from hwnas.toolchains.schedules.tiles import VECTORS, blocks, divisors, flat_tile, step_cycles, window_tile

cores = st.sampled_from([isa for _, _, isa in records().values()])
sizes = st.integers(1, 60)
channels = st.integers(1, 600)


@given(cores, sizes, sizes, channels)
def test_a_flat_tile_is_part_of_a_row_or_whole_rows(isa: Isa, width: int, height: int, count: int) -> None:
    tile = flat_tile(isa, width, height, count)
    assert step_cycles(isa, tile.pixels, tile.vectors) is not None
    assert width % tile.pixels == 0 or (tile.pixels % width == 0 and height % (tile.pixels // width) == 0)
    assert 1 <= tile.vectors <= min(VECTORS, blocks(count, isa.lanes))


@given(cores, sizes, sizes, channels)
def test_a_window_tile_fits_the_registers_and_its_rows_divide(isa: Isa, height: int, width: int, count: int) -> None:
    tile = window_tile(isa, height, width, count)
    assert step_cycles(isa, tile.pixels, tile.vectors) is not None
    assert height % tile.rows == 0 and tile.columns <= width


@given(cores, sizes, sizes, st.integers(1, 64))
def test_an_exact_tile_holds_all_channels_or_divides_them(isa: Isa, height: int, width: int, count: int) -> None:
    try:
        tile = window_tile(isa, height, width, count, exact=True)
    except ValueError:  # one pixel of all channels is more than the registers, and no vectors divide them
        assert 2 * blocks(count, isa.lanes) >= isa.registers - 1 and count % isa.lanes
        return
    block = tile.vectors * isa.lanes
    assert block >= count or count % block == 0


@given(cores, st.integers(1, 40), st.integers(1, 12))
def test_a_block_that_needs_more_registers_than_there_are_has_no_time(isa: Isa, pixels: int, vectors: int) -> None:
    if pixels * vectors > isa.registers:
        assert step_cycles(isa, pixels, vectors) is None


@given(cores, st.integers(1, 2048), st.integers(1, 49), st.integers(1, 6))
def test_blocks_of_inputs_divide_and_fit_the_second_cache(isa: Isa, inputs: int, taps: int, vectors: int) -> None:
    part = input_block(isa, inputs, taps, vectors * isa.lanes)
    assert inputs % part == 0
    assert part == 1 or 4 * part * taps * vectors * isa.lanes <= isa.l2_bytes


def test_the_wide_core_fills_its_registers() -> None:
    tile = window_tile(isa_named("x86-avx512"), 56, 56, 64)
    assert tile.pixels * tile.vectors >= 24


def test_divisors() -> None:
    assert divisors(12) == (1, 2, 3, 4, 6, 12)
    assert divisors(1) == (1,)
