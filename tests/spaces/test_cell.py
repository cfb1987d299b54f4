"""The cell space against the published benchmark: sizes of all rows, text forms, isomorphism, connectivity."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from hwnas.core.workload import Candidate
from hwnas.errors import CandidateError, ConfigError
from hwnas.graph.analysis import analyse
from hwnas.spaces import cell_genes
from hwnas.spaces.cell import CellSpace

BEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"


@pytest.fixture(scope="module")
def published() -> CellSpace:
    return CellSpace()


def test_sizes_equal_the_published_table_in_every_row(published, shared_data):
    table = pd.read_csv(shared_data / "nb201_zero_cost_proxies_cifar10.csv")
    candidates = [published.parse(text) for text in table.net]
    genotypes = np.array([c.genotype for c in candidates])
    assert len(table) == 9445
    assert np.abs(published.params(genotypes) / 1e6 - table.params).max() < 1e-6
    assert np.abs(published.benchmark_flops(genotypes) / 1e6 - table.flops).max() < 1e-6
    # the second text column names the same cells in the string form
    assert [published.encode(c) for c in candidates] == list(table.net_str)


def test_decoded_networks_have_the_published_number_of_parameters(published, shared_data):
    table = pd.read_csv(shared_data / "nb201_zero_cost_proxies_cifar10.csv")
    for _, row in table.iloc[[0, 17, 4000, 9444]].iterrows():
        network = published.decode(published.parse(row.net))
        assert sum(p.numel() for p in network.parameters()) == round(row.params * 1e6)


def test_all_candidates_are_there_once(published):
    everything = list(published.enumerate())
    assert len(published) == len(everything) == len(set(everything)) == 15_625
    texts = {published.encode(c) for c in everything}
    assert len(texts) == 15_625
    assert all(published.parse(published.encode(c)) == c for c in everything)


def test_string_groups_edges_by_the_node_they_lead_to(published):
    candidate = published.parse(BEST)
    # genes are edges (1,2) (1,3) (1,4) (2,3) (2,4) (3,4)
    assert candidate.genotype == (2, 2, 0, 4, 2, 3)
    assert published.encode(candidate) == BEST
    assert published.parse("(2, 2, 0, 4, 2, 3)") == candidate
    assert published.parse(" (2,2,0,4,2,3) ") == candidate


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a cell; write it like"),
        ("(1, 2, 3)", "is not a cell"),
        ("(0, 0, 0, 0, 0, 5)", "is not a cell"),
        ("s16k3d2R|24d1R:k5e4|0", "is not a cell"),
        (BEST.replace("|+|", "|"), "is not a cell"),
        (BEST.replace("nor_conv_1x1~2", "nor_conv_1x1~1"), "should come from node 2"),
        (BEST.replace("|nor_conv_1x1~2|", "|"), "node 3 has 2 edges instead of 3"),
        (BEST.replace("skip_connect", "skip_conect"), "did you mean skip_connect"),
        ("(" * 2000, "is not a cell"),
    ],
)
def test_wrong_texts_say_what_is_wrong(published, text, message):
    with pytest.raises(CandidateError, match=message):
        published.parse(text)


def test_canonical_cells_are_the_6466_of_the_benchmark(published):
    canonical = {published.canonical(c) for c in published.enumerate()}
    assert len(canonical) == 6466
    assert all(published.canonical(c) == c for c in canonical)


def test_pruned_cells_are_the_rows_of_the_published_table(shared_data):
    table = pd.read_csv(shared_data / "nb201_zero_cost_proxies_cifar10.csv")
    pruned = cell_genes.pruned(cell_genes.all_cells())
    assert len(np.unique(cell_genes.cell_index(pruned))) == len(table)


def test_isomorphic_cells_compute_the_same():
    space = CellSpace(resolution=8, channels=4, cells=1)
    rng = np.random.default_rng(0)
    x = torch.randn(2, 3, 8, 8)
    compared = 0
    while compared < 10:
        # without convolutions in cells, equal seeds give equal weights
        candidate = Candidate(space.id, tuple(rng.choice([0, 1, 4], 6).tolist()))
        twin = space.canonical(candidate)
        if twin == candidate:
            continue
        outputs = []
        for c in (candidate, twin):
            torch.manual_seed(0)
            outputs.append(space.decode(c).eval()(x))
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
        compared += 1


def test_341_cells_have_no_live_path_and_ignore_their_input(published):
    assert sum(not published.connected(c) for c in published.enumerate()) == 341
    space = CellSpace(resolution=8, channels=4, cells=1)
    dead, live = space.parse("(2, 1, 1, 1, 1, 2)"), space.parse("(2, 1, 1, 2, 1, 0)")
    assert not space.connected(dead) and space.connected(live)
    x = torch.randn(2, 3, 8, 8)
    for candidate, equal in ((dead, True), (live, False)):
        a, b = space.decode(candidate).eval()(x)
        assert torch.allclose(a, b) is equal


def test_dead_edges_cost_parameters_and_nothing_that_runs(published):
    bare, dead = published.parse("(0, 1, 0, 1, 1, 1)"), published.parse("(2, 1, 0, 1, 1, 2)")
    genotypes = np.array([bare.genotype, dead.genotype])
    assert published.params(genotypes)[1] > published.params(genotypes)[0]
    assert published.macs(genotypes)[1] == published.macs(genotypes)[0]
    assert published.blocks(bare) == published.blocks(dead)


def test_peak_memory_is_the_largest_of_the_blocks():
    space = CellSpace(resolution=8, channels=4, cells=2)
    rng = np.random.default_rng(2)
    known: dict[str, int] = {}
    for _ in range(80):
        candidate = space.sample(rng)
        whole = analyse(space.graph(candidate))
        for block in space.blocks(candidate):
            if block.key not in known:
                known[block.key] = analyse(block.build()).peak_activation_bytes
        assert max(known[b.key] for b in space.blocks(candidate)) == whole.peak_activation_bytes
        assert whole.macs == space.macs(np.array([candidate.genotype]))[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cell": 3}, r"unknown key \(did you mean cells or channels\?\)"),
        ({"resolution": 30}, "resolution: .*multiple of 4"),
        ({"cells": 0}, "cells: .*greater than or equal to 1"),
        ({"channels": "16"}, "channels: .*valid integer"),
    ],
)
def test_wrong_settings_name_the_key(settings, message):
    with pytest.raises(ConfigError, match=message):
        CellSpace(**settings)
