"""Graph features: a space's own where it has them, else the sums of what its blocks hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from faulty_space import FaultySpace

from hwnas import registry
from hwnas.accuracy.graph_features import SUMS, GraphFeatures, block_facts


@pytest.mark.parametrize("name", ["mbconv-micro", "cell"])
def test_a_space_is_asked_for_its_own(name):
    space = registry.spaces.load(name)()
    rng = np.random.default_rng(0)
    candidates = [space.sample(rng) for _ in range(5)]
    found = GraphFeatures(space)(candidates)
    assert found.shape[0] == 5 and found.dtype == np.float64
    assert (found == space.features(np.array([c.genotype for c in candidates]))).all()


def test_blocks_are_summed_where_a_space_has_none():
    space = FaultySpace()
    features = GraphFeatures(space)
    found = features([space.candidate(2), space.candidate(9)])
    columns = dict(zip(SUMS, found.T))
    assert columns["params"] == pytest.approx([math.log1p(18), math.log1p(81)])
    assert columns["macs"] == pytest.approx([math.log1p(9 * 2 * 16), math.log1p(9 * 9 * 16)])
    assert columns["elements"] == pytest.approx([math.log1p(2 * 2 * 16), math.log1p(2 * 9 * 16)])
    assert columns["kernel 3"].tolist() == [1, 1] and columns["strided"].tolist() == [1, 1]
    assert columns["op Relu"].tolist() == [1, 1] and columns["op Add"].tolist() == [0, 0]
    assert (features([space.candidate(9)])[0] == found[1]).all()
    assert features([]).shape[0] == 0


def test_the_sums_agree_with_the_networks_of_a_real_space():
    space = registry.spaces.load("mbconv-micro")()
    candidate = space.sample(np.random.default_rng(3))
    facts = [block_facts(block) for block in space.blocks(candidate)]
    weights = [p for p in space.decode(candidate).parameters() if p.dim() > 1]
    assert sum(f["params"] for f in facts) == sum(w.numel() for w in weights)
    assert sum(f["op Conv"] + f["op Gemm"] + f["op MatMul"] for f in facts) == len(weights)
    assert sum(f["depthwise"] for f in facts) == sum(w.dim() == 4 and w.shape[1] == 1 < w.shape[0] for w in weights[1:])
