from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.errors import BuildError
from hwnas.graph.scales import (
    SUM_LIMIT,
    IntegerWeights,
    ScaleRule,
    Step,
    activation_step,
    exponent_of,
    integer_weights,
    symmetric_scale,
)

finite = st.floats(-1e4, 1e4, allow_nan=False, width=32)


@settings(max_examples=300, deadline=None)
@given(values=st.lists(finite, min_size=1, max_size=40), clip=st.booleans())
def test_steps_are_even_powers_of_two_and_hold_zero(values: list[float], clip: bool) -> None:
    array = np.array(values)
    low, high = array.min(), array.max()
    step = activation_step(array, low, high, "power-of-two", clip)
    assert step.scale == 2.0 ** exponent_of(step.scale)
    assert 0 <= step.zero_point <= 254 and step.zero_point % 2 == 0
    assert step.rounded(np.zeros(1)).tolist() == [0.0]
    if not clip:
        assert np.abs(step.rounded(array) - array).max() <= step.scale / 2


@settings(max_examples=200, deadline=None)
@given(values=st.lists(finite, min_size=1, max_size=40))
def test_least_squares_never_loses_to_covering(values: list[float]) -> None:
    array = np.array(values)

    def error(clip: bool) -> float:
        step = activation_step(array, array.min(), array.max(), "power-of-two", clip)
        return float(np.square(step.rounded(array) - array).sum())

    assert error(True) <= error(False)


def test_a_rare_outlier_is_clipped_and_a_tail_is_not() -> None:
    rng = np.random.default_rng(0)
    usual = np.abs(rng.normal(size=100_000))
    alone = activation_step(usual, 0.0, 40.0, "power-of-two")
    assert alone == Step(2.0**-6, 0)
    half = np.concatenate([usual[:100], np.full(100, 40.0)])
    assert activation_step(half, 0.0, 40.0, "power-of-two") == Step(2.0**-2, 0)


def test_a_range_to_one_takes_all_levels_but_none_beyond() -> None:
    gate = np.linspace(0, 1, 1000)
    assert activation_step(gate, 0.0, 1.0, "power-of-two") == Step(2.0**-8, 0)
    assert activation_step(gate, 0.0, 1.0, "power-of-two", clip=False) == Step(2.0**-7, 0)
    assert activation_step(gate, 0.0, 1.0, "free") == Step(float(np.float32(1 / 255)), 0)
    assert activation_step(np.zeros(3), 0.0, 0.0, "power-of-two").zero_point == 0


def test_the_least_exponent_is_kept() -> None:
    assert activation_step(np.ones(4), 0.0, 1.0, "power-of-two", least=-3) == Step(2.0**-3, 0)


def bound(stored: IntegerWeights, step: Step) -> int:
    """The largest sum that an adversary can make of uint8 inputs, in integers."""
    rows = stored.values.astype(np.int64).reshape(len(stored.scales), -1)
    low, high = 0 - step.zero_point, 255 - step.zero_point
    most = np.maximum(rows * low, rows * high).sum(1)
    least = np.minimum(rows * low, rows * high).sum(1)
    bias = 0 if stored.bias is None else stored.bias.astype(np.int64)
    return int(np.maximum(np.abs(most + bias), np.abs(least + bias)).max())


@settings(max_examples=150, deadline=None)
@given(
    channels=st.integers(1, 5), inputs=st.integers(1, 3000), spread=st.floats(1e-6, 1e3), shift=st.floats(-1e6, 1e6),
    zero=st.integers(0, 127), exponent=st.integers(-20, 10), seed=st.integers(0, 99), constant=st.booleans(), fit=st.booleans(),
)  # fmt: skip
def test_no_sum_of_a_power_of_two_product_leaves_float32(
    channels: int,
    inputs: int,
    spread: float,
    shift: float,
    zero: int,
    exponent: int,
    seed: int,
    constant: bool,
    fit: bool,
) -> None:
    rng = np.random.default_rng(seed)
    weights = np.full((channels, inputs), spread) if constant else rng.normal(size=(channels, inputs)) * spread
    step = Step(2.0**exponent, 2 * zero)
    stored = integer_weights(weights, np.full(channels, shift), 0, step, "power-of-two", fit)
    assert bound(stored, step) < SUM_LIMIT
    assert (2.0 ** np.rint(np.log2(stored.scales)) == stored.scales).all()
    assert (stored.bias_scales == stored.scales * np.float32(step.scale)).all()
    assert stored.values.dtype == np.int8 and stored.values.min() >= -127
    assert stored.bias is not None and stored.bias.dtype == np.int32


def test_a_bit_of_precision_is_split_off_only_where_sums_need_it() -> None:
    weights = np.stack([np.full(2000, 1.0), np.eye(1, 2000)[0]])
    stored = integer_weights(weights, np.zeros(2), 0, Step(2.0**-5, 0), "power-of-two")
    # 2000 equal weights of 64 would sum to 2000 x 64 x 255; of 32 they stay below the limit
    assert stored.values[0].tolist() == [32] * 2000
    assert stored.values[1, 0] == 64
    assert bound(stored, Step(2.0**-5, 0)) == 2000 * 32 * 255


@pytest.mark.parametrize("rule", ["power-of-two", "free"])
@pytest.mark.parametrize("axis", [0, 1])
def test_integer_weights_are_close_on_either_axis(rule: ScaleRule, axis: int) -> None:
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(6, 40)) * np.geomspace(1e-3, 10, 6)[:, None]
    bias = rng.normal(size=6)
    given = weights if axis == 0 else weights.T
    stored = integer_weights(given, bias, axis, Step(2.0**-5, 128), rule)
    assert stored.values.shape == given.shape
    rows = stored.values if axis == 0 else stored.values.T
    back = rows * stored.scales[:, None].astype(np.float64)
    largest = np.abs(weights).max(1, keepdims=True)
    assert (np.abs(back - weights) <= largest / (127 if rule == "free" else 60)).all()
    assert stored.bias is not None
    assert (
        np.abs(stored.bias * stored.bias_scales.astype(np.float64) - bias).max() <= stored.bias_scales.max() / 2 * 1.01
    )


@pytest.mark.parametrize("rule", ["power-of-two", "free"])
def test_a_bias_far_above_its_weights_stays_within_its_type(rule: ScaleRule) -> None:
    stored = integer_weights(np.full((1, 4), 1e-12), np.array([3.0]), 0, Step(2.0**-5, 0), rule)
    assert stored.bias is not None
    assert stored.bias[0] * float(stored.bias_scales[0]) == pytest.approx(3.0, rel=1e-6)


def test_dead_channels_have_a_scale() -> None:
    stored = integer_weights(np.zeros((2, 3)), np.array([0.5, 0.0]), 0, Step(2.0**-5, 0), "power-of-two")
    assert stored.values.tolist() == [[0] * 3] * 2
    assert stored.bias is not None and stored.bias[0] * stored.bias_scales[0] == 0.5


def test_what_no_power_of_two_covers_is_refused() -> None:
    with pytest.raises(BuildError, match="activations of 0 to 1e[+]30 are too large for int8"):
        activation_step(np.array([1e30]), 0.0, 1e30, "power-of-two")
    with pytest.raises(BuildError, match="weights up to 1e[+]30 are too large for int8"):
        integer_weights(np.full((1, 1), 1e30), None, 0, Step(1.0, 0), "power-of-two")


def test_constant_operands_have_one_scale() -> None:
    assert symmetric_scale(np.array([-127.0, 3.0]), "power-of-two") == 1.0
    assert symmetric_scale(np.array([127.5]), "power-of-two") == 2.0
    assert symmetric_scale(np.array([63.5]), "free") == 0.5
    assert symmetric_scale(np.zeros(2), "power-of-two") > 0
