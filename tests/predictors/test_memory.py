"""Flash of images from their kernels, against the images that committed tables hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwnas.core.measurement import SHARED_CODE, Samples
from hwnas.errors import DataError
from hwnas.predictors.memory import MemoryPredictor
from hwnas.tables.table import LatencyTable

TABLES = Path(__file__).parents[2] / "latency_tables"


def table_of(device: str) -> LatencyTable:
    return LatencyTable.read(TABLES / device / "instruction-sim-cgen.jsonl")


def estimates(predictor: MemoryPredictor, table: LatencyTable) -> dict[str, float]:
    """network id -> flash in bytes, kernel by kernel as the formula says."""
    found = {}
    for network in table.networks.values():
        rows = {k: predictor.row(table.workloads[k]) for k in network.parts}
        needs, sizes = predictor.shared(list(network.parts))
        bytes_of_kernels = sum(rows[k][0] + count * rows[k][1] for k, count in network.parts.items())
        own = predictor.own_flash @ [1, sum(network.parts.values()), len(network.parts)]
        found[network.id] = bytes_of_kernels + float(needs.any(axis=0) @ sizes) + own
    return found


@pytest.mark.parametrize("device", ["cortex-m4-qemu", "cortex-m7-qemu"])
def test_flash_of_networks_that_were_not_fitted(device: str) -> None:
    table = table_of(device)
    measured = table.values("flash")
    known = sorted(table.networks)[::2]
    half = table_of(device)
    for id in [k for k in half.networks if k not in known]:
        del half.networks[id]
    predictor = MemoryPredictor.of(half)
    assert predictor is not None
    found = estimates(predictor, table)
    errors = [abs(found[k] / measured[k] - 1) for k in table.networks if k not in known]
    assert len(errors) == 20
    assert max(errors) < 0.01


def test_what_kernels_share_counts_once() -> None:
    table = table_of("cortex-m7-qemu")
    predictor = MemoryPredictor.of(table)
    assert predictor is not None
    shared = {
        row.subject
        for row in table.measurements.values()
        if isinstance(row.result, Samples) and any(use.startswith(SHARED_CODE) for use in row.result.memory or ())
    }
    kernels = sorted(shared & table.workloads.keys())
    needs, sizes = predictor.shared(kernels)
    assert needs.shape == (len(kernels), len(sizes)) and needs.any(axis=1).all() and (sizes > 0).all()
    assert needs.sum() > len(sizes), "no function is shared"
    assert needs.max(axis=0) @ sizes < needs.sum(axis=0) @ sizes


def test_a_table_that_does_not_tell_is_read_as_before() -> None:
    table = table_of("cortex-m7-qemu")
    for id, row in table.measurements.items():
        assert isinstance(row.result, Samples) and row.result.memory
        memory = {use: size for use, size in row.result.memory.items() if not use.startswith(SHARED_CODE)}
        table.measurements[id] = replace(row, result=replace(row.result, memory=memory))
    predictor = MemoryPredictor.of(table)
    assert predictor is not None and predictor.shared(sorted(table.workloads))[1].size == 0
    assert 0.01 < predictor.flash_error < 0.1


def test_saved_and_read_again() -> None:
    table = table_of("cortex-m4-qemu")
    predictor = MemoryPredictor.of(table)
    assert predictor is not None
    again = MemoryPredictor.from_json(predictor.to_json())
    assert np.allclose(list(estimates(again, table).values()), list(estimates(predictor, table).values()))
    with pytest.raises(DataError, match="not a saved memory predictor"):
        MemoryPredictor.from_json({**predictor.to_json(), "shared": {"unknown": {"f": 1}}})
