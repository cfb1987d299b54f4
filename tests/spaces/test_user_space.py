"""The README's example of a user's own space keeps every promise of SearchSpace."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from hwnas.core.interfaces import SearchSpace
from hwnas.core.workload import Candidate
from hwnas.errors import CandidateError
from hwnas.graph.export import export
from hwnas.graph.fusion import split


def load():
    path = Path(__file__).with_name("user_space.py")
    spec = importlib.util.spec_from_file_location("user_space", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.StackSpace


def test_is_a_search_space_and_round_trips():
    space = load()(resolution=12)
    assert isinstance(space, SearchSpace)
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = space.sample(rng), space.sample(rng)
        child = space.mutate(space.crossover(a, b, rng), rng)
        assert space.parse(space.encode(child)) == child
    assert space.sample(np.random.default_rng(5)) == space.sample(np.random.default_rng(5))
    network = space.decode(child)
    assert network(torch.zeros(2, 1, 12, 12)).shape == (2, 10)


def test_blocks_hold_the_workloads_of_the_exported_network():
    space = load()(resolution=12)
    candidate = space.parse("8k3-16k5-8k3")
    network = export(space.decode(candidate), space.input_shape)
    for rules in ("ort", "tvm"):
        parts: Counter[str] = Counter()
        for block in space.blocks(candidate):
            parts.update(split(block.build(), rules).parts)
        assert parts == Counter(split(network, rules).parts)


def test_foreign_candidates_and_texts_are_refused():
    space = load()()
    with pytest.raises(CandidateError, match="belongs to space 'other'"):
        space.encode(Candidate("other", (0, 0, 0)))
    with pytest.raises(CandidateError, match="8k3"):
        space.parse("8k3-16k4-8k3")
