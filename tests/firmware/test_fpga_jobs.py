"""Jobs of the systolic core without a simulator: what is refused, what integers mean, and the law's figures."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.errors import ConfigError, DataError
from hwnas.firmware.fpga.array import Array
from hwnas.firmware.fpga.job import Job, Requantisation, Shape
from hwnas.firmware.fpga.law import buffer_bytes, cycles, misfit, traffic, utilisation
from hwnas.firmware.fpga.reference import compute
from hwnas.firmware.fpga.words import activation_words, parameter_words, results, weight_words
from hwnas.toolchains.cgen.kernels.reference import rescaled
from tests.firmware.fpga_jobs import random_job

JOB = Job(
    np.ones((3, 4), np.uint8), np.ones((4, 5), np.int8), np.zeros(5, np.int32), Requantisation.by_shift(2), zero=7
)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"activations": np.ones((3, 4), np.int16)}, "activations must be an m x k or groups x m x k array of 8 bit"),
        ({"activations": np.ones(4, np.int8)}, "activations must be"),
        ({"activations": np.ones((0, 4), np.int8)}, "activations must be"),
        ({"weights": np.ones((4, 5), np.uint8)}, "weights must be int8, 4 x n, not uint8"),
        ({"weights": np.ones((3, 5), np.int8)}, "weights must be int8, 4 x n"),
        ({"weights": np.ones((2, 4, 5), np.int8)}, "weights must be int8"),
        ({"bias": np.zeros(5, np.int64)}, "bias must be int32, 5, not int64"),
        ({"bias": np.zeros(4, np.int32)}, "bias must be int32, 5"),
        ({"requantisation": Requantisation.by_shift(np.ones(4, int))}, "requantisation of 4 channels does not match 5"),
        ({"dtype": "int16"}, "results are int8 or uint8, not 'int16'"),
        ({"zero": -1}, "zero must be an integer from 0 to 255, not -1"),
        ({"zero": 1.0}, "zero must be an integer"),
        ({"result_zero": 128}, "result_zero must be an integer from -128 to 127"),
        ({"high": 128}, "high must be"),
        ({"low": 5, "high": 4}, "low must be an integer from -128 to 4, not 5"),
    ],
)
def test_what_is_no_job_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        dataclasses.replace(JOB, **changed)


def test_groups_must_match() -> None:
    with pytest.raises(DataError, match="2 groups of activations do not match 3 groups of weights"):
        Job(np.ones((2, 3, 4), np.int8), np.ones((3, 4, 5), np.int8), np.zeros((3, 5), np.int32), JOB.requantisation)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Requantisation.by_shift(0), "shifts must be from 1 to 32, not 0 to 0"),
        (lambda: Requantisation.by_shift([1, 33]), "shifts must be from 1 to 32, not 1 to 33"),
        (lambda: Requantisation.by_shift(3, 31), "lift must be an integer from 0 to 30, not 31"),
        (lambda: Requantisation.by_multiplier(2**31), "multipliers must be from 0 to 2147483647"),
        (lambda: Requantisation.by_multiplier(-1), "multipliers must be"),
        (lambda: Requantisation.by_multiplier(5, 32), "lift must be"),
        (lambda: Requantisation.by_shift(np.ones((2, 2), int)), "shifts must be a vector|multipliers must be a vector"),
        (lambda: Requantisation(np.ones(2, np.int64), np.ones(3, np.int64), True), "2 multipliers do not match 3"),
    ],
)
def test_what_is_no_requantisation_is_refused(make: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"rows": 1}, "rows: must be an integer from 2 to 64, not 1"),
        ({"columns": 65}, "columns: must be"),
        ({"columns": "8"}, "columns: must be an integer"),
        ({"steps": 100}, "steps: must be a power of two from 16 to 16384, not 100"),
        ({"words": 2**17}, "words: must be a power of two"),
        ({"tiles": 1}, "tiles: must be a power of two from 2"),
    ],
)
def test_what_is_no_array_is_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Array(**sizes)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (Shape(4, 8, 9, 2), "a group of 9 channels is more than 8 columns"),
        (Shape(4, 1025, 1), "sums of 1025 products are longer than 1024 steps"),
        (Shape(4, 2, 513), "65 tiles of 8 channels are more than 64"),
        (Shape(4, 1024, 33), "5120 words of weights are more than 4096"),
        (Shape(2**24, 2, 2), "16777216 rows are more than 16777215"),
    ],
)
def test_a_misfit_says_why(shape: Shape, message: str) -> None:
    assert misfit(shape, Array()) == message


@given(
    sums=st.lists(st.integers(-(2**27), 2**27), min_size=1, max_size=8),
    entry=st.integers(1, 30), multiplier=st.integers(0, 2**31 - 1), lift=st.integers(0, 3),
    zero=st.integers(0, 255), bounds=st.tuples(st.integers(0, 255), st.integers(0, 255)), shifted=st.booleans(),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_requantisation_is_that_of_generated_c(
    sums: list[int], entry: int, multiplier: int, lift: int, zero: int, bounds: tuple[int, int], shifted: bool
) -> None:
    kind, value = ("shift", entry) if shifted else ("multiply", multiplier)
    rule = (Requantisation.by_shift if shifted else Requantisation.by_multiplier)(value, lift)
    low, high = sorted(bounds)
    bias = np.array(sums, np.int32)
    job = Job(np.zeros((1, 1), np.uint8), np.zeros((1, len(sums)), np.int8), bias, rule, 0, zero, low, high, "uint8")
    expected = rescaled(bias, kind, value, lift, zero, low, high)
    np.testing.assert_array_equal(compute(job)[0], expected)


def test_sums_start_at_the_bias_and_leave_out_the_zero_point() -> None:
    job = dataclasses.replace(JOB, bias=np.array([0, 8, 16, 30, -60], np.int32))  # each sum of products is -24
    assert compute(job).tolist() == [[-6, -4, -2, 2, -21]] * 3  # 6/4 and -84/4: halves to even


@given(seed=st.integers(0, 2**32), rows=st.integers(2, 9), columns=st.integers(2, 9), groups=st.integers(1, 4),
       m=st.integers(1, 20), k=st.integers(1, 10), n=st.integers(1, 9))  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_words_are_as_many_as_the_law_says(
    seed: int, rows: int, columns: int, groups: int, m: int, k: int, n: int
) -> None:
    array = Array(rows, columns)
    job = random_job(Shape(m, k, min(n, columns) if groups > 1 else n, groups), np.random.default_rng(seed))
    moved = traffic(job.shape, array)
    assert activation_words(job, array).size == moved["activations"]
    assert weight_words(job, array).size == moved["weights"]
    assert parameter_words(job, array).size == moved["parameters"]
    words = np.arange(moved["results"]).astype(np.uint8).reshape(-1, columns)
    assert results(job, array, words).shape == compute(job).shape


def test_figures_of_the_law() -> None:
    array = Array(16, 16)
    job = Shape(784, 144, 32)  # a 3x3 convolution of 16 to 32 channels on 28 x 28
    assert cycles(job, array) == 1 + 2 * 49 * 144 + 16 + 16 + 19 + 16
    assert utilisation(job, array) == pytest.approx(0.995, abs=0.001)
    assert cycles(Shape(1, 9, 1), Array(4, 4)) == 1 + 9 + 4 + 4 + 19 + 1
    # sums shorter than the array is high: the next tile's would meet them
    assert cycles(Shape(160, 4, 16), array) - cycles(Shape(144, 4, 16), array) == 16
    # channels' parameters come one a cycle: a wide array waits for them in the first panel
    assert cycles(Shape(2, 4, 48), Array(2, 16)) - cycles(Shape(2, 4, 32), Array(2, 16)) == 16
    assert traffic(Shape(20, 9, 20), array) == {
        "activations": 2 * 9 * 16, "weights": 2 * 9 * 16, "parameters": 32 * 9, "results": 20 * 32,
    }  # fmt: skip
    assert buffer_bytes(Shape(20, 9, 20), array) == 2 * 9 * 16 + 2 * 9 * 16 + 32 * 9
    assert buffer_bytes(Shape(2, 9, 2), array) == 9 * 16 + 9 * 16 + 16 * 9
