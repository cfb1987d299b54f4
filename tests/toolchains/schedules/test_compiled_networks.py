"""Whole networks through our schedules: every kernel is covered, and the outputs are those of onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.bench.compiled.engines import onnxruntime, ours, relative_error
from tests.bench.compiled.networks import NETWORKS, SPACES, network, random_input

SMALL = [name for name, fixed in NETWORKS.items() if fixed.small]
DRAWN = [f"{space}/0" for space in SPACES]


@pytest.mark.parametrize("name", [*SMALL, *DRAWN])
def test_a_network_computes_what_onnxruntime_computes_and_no_kernel_is_left_to_chance(name: str) -> None:
    graph = network(name)
    given = random_input(graph, seed=7)
    engine = ours(graph, given)
    assert engine.uncovered == ()
    assert relative_error(engine.outputs(), onnxruntime(graph, given).outputs()) <= 1e-5


def test_kernels_that_were_compiled_once_are_not_compiled_again(tmp_path: Path) -> None:
    graph = network("mbconv-micro/0")
    given = random_input(graph)
    first, second = ours(graph, given, objects=tmp_path), ours(graph, given, objects=tmp_path)
    assert first.compiled == first.kernels > 5
    assert second.compiled == 0
    assert np.array_equal(first.outputs(), second.outputs())


def test_a_network_takes_kernels_from_another_one_of_its_space(tmp_path: Path) -> None:
    first, second = network("mbconv-micro/0"), network("mbconv-micro/1")
    ours(first, random_input(first), objects=tmp_path)
    engine = ours(second, random_input(second), objects=tmp_path)
    assert engine.compiled < engine.kernels
