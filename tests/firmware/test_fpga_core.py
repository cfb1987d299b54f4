"""The systolic core under Verilator: the same bits as numpy, the cycles of the law, whatever the streams' pace."""

from __future__ import annotations

import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import BuildError, DataError, DeviceCrashed, DeviceTimeout
from hwnas.firmware.fpga import build
from hwnas.firmware.fpga.array import Array
from hwnas.firmware.fpga.job import Job, Requantisation, Shape
from hwnas.firmware.fpga.law import cycles
from hwnas.firmware.fpga.reference import compute
from hwnas.firmware.fpga.simulation import MAGIC, Pauses, Simulation
from tests.firmware.fpga_jobs import random_job, random_shape

SQUARE = Array(8, 8)
WIDE = Array(2, 6, steps=16, words=64, tiles=4)
"""Wider than high, so that parameters come later than sums; buffers so small that every limit is met."""
HIGH = Array(5, 3, steps=32, words=128, tiles=8)


@pytest.fixture(scope="module")
def square() -> Iterator[Simulation]:
    with Simulation(SQUARE) as simulation:
        yield simulation


@pytest.fixture(scope="module")
def wide() -> Iterator[Simulation]:
    with Simulation(WIDE) as simulation:
        yield simulation


def agree(simulation: Simulation, jobs: list[Job], pauses: Pauses | None = None) -> list[int]:
    """Simulate jobs, demand the reference's bits, and return the cycles."""
    found = simulation.run(jobs, timeout_s=100.0, pauses=pauses)
    for job, result in zip(jobs, found, strict=True):
        expected = compute(job)
        assert result.values.dtype == expected.dtype
        np.testing.assert_array_equal(result.values, expected, err_msg=str(job.shape))
    return [result.cycles for result in found]


def test_random_shapes_are_exact_to_the_bit_and_to_the_cycle(square: Simulation) -> None:
    rng = np.random.default_rng(5)
    jobs = [random_job(random_shape(SQUARE, rng), rng) for _ in range(220)]
    counted = agree(square, jobs)
    assert counted == [cycles(job.shape, SQUARE) for job in jobs]
    assert len({job.shape for job in jobs}) > 200
    values = np.concatenate([compute(job).ravel() for job in jobs])
    assert len(np.unique(values)) > 300  # results that were all clipped would prove little


def test_an_array_that_is_wider_than_high(wide: Simulation) -> None:
    rng = np.random.default_rng(6)
    jobs = [random_job(random_shape(WIDE, rng, longest=16), rng) for _ in range(120)]
    assert agree(wide, jobs) == [cycles(job.shape, WIDE) for job in jobs]


def test_an_array_that_is_higher_than_wide_and_of_odd_sizes() -> None:
    rng = np.random.default_rng(7)
    jobs = [random_job(random_shape(HIGH, rng, longest=32), rng) for _ in range(80)]
    with Simulation(HIGH) as simulation:
        assert agree(simulation, jobs) == [cycles(job.shape, HIGH) for job in jobs]


@pytest.mark.parametrize(
    "shape",
    [
        Shape(1, 1, 1),
        Shape(200, 16, 24),  # the longest sums, every word and every tile
        Shape(200, 16, 3),  # one tile: every panel is used once, and the next must have arrived
        Shape(200, 16, 6, 4),  # the same, grouped
        Shape(2, 16, 6, 4),
        Shape(7, 1, 24),
    ],
)
def test_the_limits_of_the_buffers(wide: Simulation, shape: Shape) -> None:
    rng = np.random.default_rng(8)
    assert agree(wide, [random_job(shape, rng)] * 2) == [cycles(shape, WIDE)] * 2


def test_pauses_of_any_stream_change_no_result(square: Simulation, wide: Simulation) -> None:
    rng = np.random.default_rng(9)
    for i in range(60):
        simulation, array = ((square, SQUARE), (wide, WIDE))[i % 2]
        job = random_job(random_shape(array, rng, longest=16), rng)
        shares = rng.integers(0, 241, 4) * (rng.random(4) < 0.7)
        [counted] = agree(simulation, [job], Pauses(*shares.tolist(), seed=i))
        assert counted >= cycles(job.shape, array)
    job = random_job(Shape(30, 12, 20), rng)
    slow = Pauses(200, 100, 50, 220, seed=3)
    assert agree(square, [job, job], slow) == agree(square, [job, job], slow)  # the same seed, the same pauses
    assert agree(square, [job])[0] == cycles(job.shape, SQUARE)  # nothing of the pauses is left over


def test_rounding_of_every_half(square: Simulation) -> None:
    """Sums around every tie of every shift, through the bias; halves go to even, or up."""
    sums = np.concatenate([np.arange(-40, 40), [2**31 - 1, -(2**31), 2**30, -(2**30)]])
    bias = np.concatenate([sums, np.zeros(-len(sums) % 8, np.int64)]).astype(np.int32)
    for rule in (
        *(Requantisation.by_shift(shift, lift) for shift in (1, 2, 3, 8, 9, 17, 30, 32) for lift in (0, 2)),
        *(Requantisation.by_multiplier(m, lift) for m in (0, 1, 2**30, 2**31 - 1) for lift in (0, 3, 30, 31)),
    ):
        job = Job(np.zeros((3, 2), np.int8), np.ones((2, len(bias)), np.int8), bias, rule, result_zero=1)
        agree(square, [job])


def test_a_core_that_waits_for_ever_passes_its_limit_of_cycles_and_the_next_job_runs(square: Simulation) -> None:
    job = random_job(Shape(9, 9, 9), np.random.default_rng(1))
    for starved in (Pauses(activations=255), Pauses(weights=255), Pauses(parameters=255), Pauses(results=255)):
        with pytest.raises(DeviceTimeout, match="the 8x8 core is stuck: a job passed its limit of cycles"):
            square.run([job], cycles_limit=3000, pauses=starved)
        agree(square, [job])


def test_a_simulation_that_takes_too_long_is_ended(square: Simulation) -> None:
    job = random_job(Shape(3000, 500, 64), np.random.default_rng(1))
    began = time.monotonic()
    with pytest.raises(DeviceTimeout, match="did not answer by its deadline"):
        square.run([job], timeout_s=0.3)
    assert time.monotonic() - began < 10
    agree(square, [random_job(Shape(3, 3, 3), np.random.default_rng(1))])


def test_a_job_that_does_not_fit_says_why(square: Simulation) -> None:
    job = random_job(Shape(3, 1025, 3), np.random.default_rng(1))
    with pytest.raises(DataError, match="does not fit the 8x8 array: sums of 1025 products are longer than 1024"):
        square.run([job])


def _fed(data: bytes) -> tuple[int, str]:
    done = subprocess.run([str(build.simulator(SQUARE))], input=data, capture_output=True, timeout=30)
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "ends too early"),
        (b"nonsense that is longer than a head", "magic"),
        (struct.pack("<III", MAGIC, 8, 16), "another array"),
        (struct.pack("<III", MAGIC, 8, 8) + b"short", "ends too early"),
        (
            struct.pack("<III10I3i3I4B", MAGIC, 8, 8, 4, 1, 8, 2**32 - 1, 4, 8, 8, *[0] * 6, 9, 9, 9, *[0] * 4),
            "256 MiB",
        ),
        (struct.pack("<III10I3i3I4B", MAGIC, 8, 8, 4, 1, 8, 0, 0, 0, 0, *[0] * 6, 9, 9, 9, *[0] * 4), "no number"),
        (struct.pack("<III10I3i3I4B", MAGIC, 8, 8, 4, 1, 8, 4, 4, 8, 8, *[0] * 6, 9, 9, 9, *[0] * 4), "too early"),
    ],
)
def test_the_program_checks_what_it_reads(data: bytes, said: str) -> None:
    status, text = _fed(data)
    assert status == 2 and said in text


def test_waiting_for_more_results_than_there_are_ends_at_the_limit() -> None:
    """Eight rows are announced, and nine results awaited."""
    head = struct.pack("<III10I3i3I4B", MAGIC, 8, 8, 4, 1, 8, 4, 4, 8, 9, *[0] * 6, 30, 900, 9, *[0] * 4)
    status, text = _fed(head + bytes(4 * 8 + 4 * 8 + 8 * 9))
    assert status == 3 and "limit of cycles" in text


def test_pauses_are_of_256_cycles() -> None:
    with pytest.raises(DataError, match="pauses are of 256 cycles, 0 to 255, not"):
        Pauses(weights=256)


def test_a_simulation_that_dies_is_told_with_its_status(square: Simulation) -> None:
    agree(square, [random_job(Shape(3, 3, 3), np.random.default_rng(1))])
    assert square._process is not None
    square._process.kill()
    with pytest.raises(DeviceCrashed, match="8x8 array ended with status -9"):
        square.run([random_job(Shape(3, 3, 3), np.random.default_rng(1))])


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    build.verilator_version.cache_clear()
    with pytest.raises(BuildError, match=r"not installed: apt-get install verilator g\+\+ make") as caught:
        build.simulator(SQUARE)
    assert caught.value.exit_code == 4


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "file"))
    with pytest.raises(BuildError, match="name another folder in HWNAS_CACHE"):
        build.simulator(SQUARE)


@pytest.mark.parametrize("array", [Array(4, 4), Array(16, 16), WIDE, HIGH], ids=str)
def test_the_verilog_is_free_of_warnings(array: Array) -> None:
    parameters = [f"-G{name}={value}" for name, value in array.parameters.items()]
    build.run_tool(
        "lint",
        [
            "verilator",
            "--lint-only",
            "-Wall",
            *parameters,
            "--top-module",
            build.TOP,
            *map(str, build.verilog_sources()),
        ],
        build.PACKAGES,
        60.0,
    )
