"""What holds for every search space in the package, whichever it is."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.core.interfaces import BatchSpace
from hwnas.core.workload import Candidate
from hwnas.errors import CandidateError, ConfigError
from hwnas.graph.analysis import analyse
from hwnas.registry import spaces

seeds = st.integers(0, 2**32 - 1)


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def genotypes_of(*candidates: Candidate) -> np.ndarray:
    return np.array([c.genotype for c in candidates])


def test_keeps_the_protocol(space):
    assert isinstance(space, BatchSpace)
    assert space.id.startswith(space.name + "-")
    assert space.input_shape[0] == 1 and len(space.input_shape) == 4


@pytest.mark.parametrize("name", ["cell", "mbconv", "mbconv-micro", "mbconv-mobile"])
def test_registered_constructors_make_spaces_of_that_name(name):
    space = spaces.load(name)(classes=7)
    assert space.name == name
    assert space.classes == 7
    assert spaces.load(name)(classes=7).id == space.id
    assert spaces.load(name)(classes=8).id != space.id
    with pytest.raises(ConfigError, match="did you mean classes"):
        spaces.load(name)(clases=7)


@settings(max_examples=60, deadline=None)
@given(seed=seeds)
def test_text_round_trips(space, seed):
    candidate = space.sample(rng_of(seed))
    text = space.encode(candidate)
    assert space.parse(text) == candidate
    assert space.encode(space.parse(text)) == text
    assert text.isascii() and text.isprintable() and " " not in text


@settings(max_examples=60, deadline=None)
@given(seed=seeds)
def test_children_are_candidates_and_differ_from_their_parents(space, seed):
    rng = rng_of(seed)
    a, b = space.sample(rng), space.sample(rng)
    child, cross = space.mutate(a, rng), space.crossover(a, b, rng)
    assert child != a
    for candidate in (child, cross):
        assert space.parse(space.encode(candidate)) == candidate
    assert space.crossover(a, a, rng) == a


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_same_seed_gives_the_same_draws(space, seed):
    def draws():
        rng = rng_of(seed)
        a, b = space.sample(rng), space.sample(rng)
        batch = space.sample_batch(5, rng)
        return a, space.mutate(a, rng), space.crossover(a, b, rng), batch.tolist()

    np.random.seed(seed % 1000)  # the global state must not matter
    first = draws()
    torch.manual_seed(seed)
    assert draws() == first


@settings(max_examples=25, deadline=None)
@given(seed=seeds, n=st.integers(0, 12))
def test_block_counts_are_the_sums_of_blocks(space, seed, n):
    rng = rng_of(seed)
    genotypes = space.sample_batch(n, rng)
    counted = space.block_counts(genotypes)
    assert counted.counts.shape == (n, len(counted.blocks))
    assert len({b.key for b in counted.blocks}) == len(counted.blocks)
    assert (counted.counts.sum(0) > 0).all()
    for row, genotype in zip(counted.counts.toarray(), genotypes.tolist()):
        expected = Counter(b.key for b in space.blocks(Candidate(space.id, tuple(genotype))))
        assert {b.key: k for b, k in zip(counted.blocks, row) if k} == expected


def test_counts_do_not_depend_on_what_was_counted_before(space):
    genotypes = space.sample_batch(20, rng_of(3))
    first = space.block_counts(genotypes)
    space.block_counts(space.sample_batch(50, rng_of(4)))
    again = space.block_counts(genotypes)
    assert again.blocks == first.blocks
    assert (again.counts != first.counts).nnz == 0


@settings(max_examples=12, deadline=None)
@given(seed=seeds)
def test_params_and_shapes_are_those_of_the_decoded_network(space, seed):
    candidate = space.sample(rng_of(seed))
    network = space.decode(candidate)
    assert sum(p.numel() for p in network.parameters()) == space.params(genotypes_of(candidate))[0]
    assert network(torch.zeros(2, *space.input_shape[1:])).shape == (2, space.classes)


def convolved(network, x) -> int:
    """Multiply-accumulates by hooks on the running torch network."""
    total = 0

    def count(module, _, output):
        nonlocal total
        total += output[0].numel() * module.weight[0].numel()

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        network.eval()(x)
    return total


@settings(max_examples=12, deadline=None)
@given(seed=seeds)
def test_macs_are_those_of_the_running_network_and_of_its_blocks(space, seed):
    candidate = space.sample(rng_of(seed))
    macs = space.macs(genotypes_of(candidate))[0]
    assert convolved(space.decode(candidate), torch.zeros(space.input_shape)) == macs
    assert sum(analyse(b.build()).macs for b in space.blocks(candidate)) == macs


def test_decoding_is_pure_given_torchs_seed(space):
    candidate = space.sample(rng_of(0))
    weights = []
    for _ in range(2):
        torch.manual_seed(7)
        weights.append(torch.cat([p.flatten() for p in space.decode(candidate).parameters()]))
    assert torch.equal(*weights)


def test_features_are_finite_named_and_tell_candidates_apart(space):
    genotypes = np.unique(space.sample_batch(200, rng_of(1)), axis=0)
    features = space.features(genotypes)
    assert features.shape == (len(genotypes), len(space.feature_names))
    assert len(set(space.feature_names)) == len(space.feature_names)
    assert np.isfinite(features).all() and features.dtype == float
    assert len(np.unique(features, axis=0)) > 0.9 * len(genotypes)
    assert space.features(genotypes[:0]).shape == (0, features.shape[1])


def test_foreign_candidates_are_refused(space):
    good = space.sample(rng_of(0))
    bad = {
        "belongs to space 'other-1'": Candidate("other-1", good.genotype),
        "integers, got": Candidate(space.id, good.genotype[:-1]),
        "got 99": Candidate(space.id, (99, *good.genotype[1:])),
        "got -1": Candidate(space.id, (-1, *good.genotype[1:])),
    }
    for message, candidate in bad.items():
        for use in (space.encode, space.decode, space.blocks, lambda c: space.mutate(c, rng_of(0))):
            with pytest.raises(CandidateError, match=message):
                use(candidate)
    for wrong in (np.zeros((2, 3), int), np.zeros(len(good.genotype), int), np.zeros((1, len(good.genotype)))):
        with pytest.raises(CandidateError, match="integers, got an array"):
            space.block_counts(wrong)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40))
def test_any_text_is_a_candidate_or_an_error(space, text):
    try:
        candidate = space.parse(text)
    except CandidateError:
        return
    assert space.parse(space.encode(candidate)) == candidate
