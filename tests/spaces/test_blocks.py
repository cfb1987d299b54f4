"""Proof of blocks: the workloads of a candidate's blocks are those of its exported network, kernel for kernel."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from small_spaces import SPACES

from hwnas.graph.export import export
from hwnas.graph.fusion import split
from hwnas.spaces import cell_genes
from hwnas.spaces.cell import CellSpace
from hwnas.spaces.cell_program import program, short_program
from hwnas.spaces.cell_regions import regions

RULES = ("ort", "tvm")
SINGULAR_CELLS = (
    "(1, 1, 1, 1, 1, 1)",  # no live edge
    "(0, 1, 0, 1, 0, 1)",  # additions of one tensor to itself, chained through the cells
    "(1, 1, 0, 1, 1, 1)",  # the cell is its input
    "(4, 4, 4, 0, 4, 0)",  # equal pools
    "(1, 1, 2, 1, 1, 1)",  # the last batch norm follows a convolution
)


def assert_blocks_hold_the_network(space, candidate):
    network = export(space.decode(candidate), space.input_shape)
    for rules in RULES:
        whole = split(network, rules)
        parts: Counter[str] = Counter()
        names = {k: w.op for k, w in whole.workloads.items()}
        for block in space.blocks(candidate):
            part = split(block.build(), rules)
            parts.update(part.parts)
            names.update({k: w.op for k, w in part.workloads.items()})
        missing, extra = Counter(whole.parts) - parts, parts - Counter(whole.parts)
        assert not missing and not extra, (
            f"{space.encode(candidate)} under {rules}: only in the network {[names[k] for k in missing.elements()]}, "
            f"only in blocks {[names[k] for k in extra.elements()]}"
        )


@pytest.mark.parametrize("name", ["micro", "mobile", "watch"])
def test_exported_mbconv_networks_are_their_blocks(name):
    space = SPACES[name]()
    rng = np.random.default_rng(11)
    for _ in range(4):
        assert_blocks_hold_the_network(space, space.sample(rng))


def test_exported_cell_networks_are_their_blocks():
    space = CellSpace(resolution=8, channels=16, cells=1)
    rng = np.random.default_rng(12)
    for candidate in [space.sample(rng) for _ in range(12)]:
        assert_blocks_hold_the_network(space, candidate)


@pytest.mark.parametrize("text", SINGULAR_CELLS)
def test_exported_singular_cells_are_their_blocks(text):
    space = CellSpace(resolution=8, channels=16, cells=1)
    assert_blocks_hold_the_network(space, space.parse(text))


def test_equal_cells_of_a_stage_need_not_be_looked_at_one_by_one():
    space = CellSpace(resolution=8, channels=2, cells=6)
    for cell in cell_genes.pruned(space.sample_batch(300, np.random.default_rng(14))).tolist():
        skeleton, cell = space.skeleton, tuple(cell)
        every = regions(program(skeleton, cell, skeleton.cells), space.input_shape)
        assert regions(short_program(skeleton, cell), space.input_shape) == every


@pytest.mark.parametrize("rules", RULES)
def test_cell_blocks_hold_the_network_for_many_cells(rules):
    space = CellSpace(resolution=8, channels=16, cells=3)
    known: dict[str, dict[str, int]] = {}
    for genotype in space.sample_batch(150, np.random.default_rng(13)).tolist():
        candidate = space.parse(str(tuple(genotype)))
        parts: Counter[str] = Counter()
        for block in space.blocks(candidate):
            if block.key not in known:
                known[block.key] = dict(split(block.build(), rules).parts)
            parts.update(known[block.key])
        assert parts == Counter(split(space.graph(candidate), rules).parts), space.encode(candidate)


def test_blocks_are_the_same_bytes_every_time_and_valid():
    import onnx
    import onnxruntime

    space = SPACES["mobile"]()
    rng = np.random.default_rng(0)
    for block in [
        *space.blocks(space.sample(rng)),
        *CellSpace(resolution=8, channels=4).blocks(CellSpace(resolution=8, channels=4).parse("(2, 3, 4, 0, 3, 2)")),
    ]:
        network = block.build()
        assert network.SerializeToString(deterministic=True) == block.build().SerializeToString(deterministic=True)
        onnx.checker.check_model(network, full_check=True)
        session = onnxruntime.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
        feeds = {i.name: rng.standard_normal(i.shape).astype(np.float32) for i in session.get_inputs()}
        for output in session.run(None, feeds):
            assert np.isfinite(output).all() and np.abs(output).max() < 1e4
