"""Pools: windows, strides, padding, rounding up, channels of any number, what follows them."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hwnas.toolchains.schedules.geometry import Window
from hwnas.toolchains.schedules.pooling import channel_chunk, rounded_up
from tests.toolchains.schedules.operators import assert_same, network, node, normal

few = settings(max_examples=16, deadline=None, derandomize=True)
size = st.integers(1, 17)


@few
@given(
    channels=st.integers(1, 40),
    height=size,
    width=size,
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
    kind=st.sampled_from(["MaxPool", "AveragePool", "counted"]),
    ceil=st.booleans(),
)
def test_pools_of_any_geometry(
    channels: int,
    height: int,
    width: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    kind: str,
    ceil: bool,
) -> None:
    assume(all(k > p for k, p in zip(kernel * 2, padding)))
    assume(height + padding[0] + padding[2] >= kernel[0] and width + padding[1] + padding[3] >= kernel[1])
    assume(not (ceil and kind == "counted"))  # onnxruntime and the standard differ on what then counts
    attributes = {"kernel_shape": kernel, "strides": stride, "pads": padding, "ceil_mode": int(ceil)}
    if kind == "counted":
        attributes["count_include_pad"] = 1
    operator = node("MaxPool" if kind == "MaxPool" else "AveragePool", "x", "y", **attributes)
    assert_same(network([operator], {"x": (1, channels, height, width)}, ["y"]), normal(1, channels, height, width))


@pytest.mark.parametrize("channels", [16, 20, 100])
@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("cpu", [None, "haswell"])
def test_pools_between_a_convolution_and_an_activation(channels: int, operator: str, cpu: str | None) -> None:
    nodes = [
        node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
        node(operator, "c", "p", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 1]),
        node("Relu", "p", "y"),
    ]
    made = network(nodes, {"x": (1, 3, 12, 13)}, ["y"], {"w": normal(channels, 3, 3, 3, seed=1)})
    assert_same(made, normal(1, 3, 12, 13), cpu=cpu)


def test_pools_with_dilation_and_of_one_axis() -> None:
    dilated = node("MaxPool", "x", "y", kernel_shape=[3, 2], dilations=[2, 3])
    assert_same(network([dilated], {"x": (1, 9, 12, 11)}, ["y"]), normal(1, 9, 12, 11))
    line = node("AveragePool", "x", "y", kernel_shape=[3], strides=[2], pads=[1, 1])
    assert_same(network([line], {"x": (2, 8, 21)}, ["y"]), normal(2, 8, 21))


def test_two_threads_compute_the_same() -> None:
    operator = node("MaxPool", "x", "y", kernel_shape=[3, 3])
    assert_same(network([operator], {"x": (1, 32, 40, 40)}, ["y"]), normal(1, 32, 40, 40), threads=2)


def test_rounding_up_adds_a_window_that_begins_inside_the_image() -> None:
    window = Window(1, 6, 7, 8, (3, 3), (2, 2), (0, 0, 0, 0), (1, 1))
    assert window.output == (2, 3)
    assert rounded_up(window).output == (3, 3)
    tight = Window(1, 5, 5, 8, (1, 1), (3, 3), (0, 0, 1, 1), (1, 1))
    assert rounded_up(tight).output == (2, 2)  # a third window would begin behind the image


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_chunks_of_channels_divide_them(lanes: int) -> None:
    for channels in range(1, 600):
        chunk = channel_chunk(channels, lanes)
        assert channels % chunk == 0
        assert chunk <= 16 * lanes
    assert channel_chunk(10 * lanes, lanes) == lanes
