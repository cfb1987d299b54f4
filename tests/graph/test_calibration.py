from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, helper

from hwnas.errors import BuildError
from hwnas.graph.calibration import SAMPLED, observe, spread
from hwnas.graph.quantize import quantize
from hwnas.graph.view import view
from tests.graph.networks import graph, ones

make = helper.make_node


@given(size=st.integers(1, 5000), kept=st.integers(1, 600))
def test_a_sample_takes_different_places(size: int, kept: int) -> None:
    places = spread(size, kept)
    assert len(places) == len(set(places.tolist())) == min(size, kept)
    assert places.max() < size


def test_a_sample_does_not_keep_to_the_borders_of_images() -> None:
    columns = spread(16 * 28 * 28, 128) % 28
    assert np.bincount(columns, minlength=28).min() > 0


def test_ranges_are_over_all_inputs_and_samples_bounded() -> None:
    network = graph([make("Neg", ["x"], ["a"], name="n"), make("Relu", ["a"], ["y"])], {"x": (1, 1000)})
    data = [np.full((1, 1000), k, np.float32) for k in range(-50, 50)]
    seen = observe(network, view(network), ["x", "a"], data)
    assert (seen["x"].low, seen["x"].high, seen["a"].low, seen["a"].high) == (-50, 49, -49, 50)
    assert len(seen["a"].values) <= SAMPLED + len(data)
    assert set(seen["a"].values.tolist()) == set(range(-49, 51))
    both = seen["x"].merged(seen["a"])
    assert (both.low, both.high) == (-50, 50) and len(both.values) == 2 * len(seen["a"].values)


def broken() -> dict[str, tuple[ModelProto, str]]:
    image, weights = {"x": (1, 3, 4, 4)}, {"w": ones(2, 3, 1, 1), "i": np.array([0, 1, 99])}
    outside = graph([make("Gather", ["x", "i"], ["a"], axis=1), make("Conv", ["a", "w"], ["y"])], image, weights)
    narrow = graph([make("Conv", ["x", "w"], ["y"])], image, {"w": ones(2, 3, 1)})
    narrow.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (1, 2, 4, 4)))
    large = graph([make("Mul", ["x", "x"], ["a"], name="m1"), make("Neg", ["a"], ["y"])], image)
    return {
        "onnxruntime cannot run the network": (outside, "indices element out of data bounds"),
        "onnxruntime cannot open the network": (narrow, ""),
        "Mul 'm1' gives values that are not finite on the calibration data": (large, ""),
    }


@pytest.mark.parametrize("reason", sorted(broken()))
def test_what_cannot_be_calibrated_is_a_build_error(reason: str) -> None:
    network, detail = broken()[reason]
    with pytest.raises(BuildError, match=f"build failed in quantize: {reason}.*{detail}"):
        quantize(network, [np.full((1, 3, 4, 4), 1e30, np.float32)])
