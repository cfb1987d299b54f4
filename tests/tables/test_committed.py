"""Every latency table in the repository is whole, small enough, and what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwnas.config import data_folder
from hwnas.graph.workloads import parse_workload
from hwnas.tables.exchange import uncovered
from hwnas.tables.table import LatencyTable

TABLES = sorted(data_folder("latency_tables").rglob("*.jsonl"))
MAX_BYTES = 5 * 2**20


def test_there_is_a_sample() -> None:
    assert data_folder("latency_tables") / "sample" / "hardware-ort.jsonl" in TABLES


@pytest.mark.parametrize("path", TABLES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_it_is_sound(path: Path) -> None:
    assert path.stat().st_size <= MAX_BYTES
    table = LatencyTable.read(path)
    assert not table.torn
    assert table.values()
    for workload in table.workloads.values():
        parse_workload(workload.onnx, workload.op)
    assert uncovered(table) == {}, "kernels of our spaces without a schedule rule"
    assert path.name == f"{table.recipe.fidelity}-{table.recipe.toolchain}.jsonl"
