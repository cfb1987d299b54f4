"""Tables for people and for other tools."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas
import pytest

from hwnas.core.measurement import Context, Failure, Fidelity, Measurement, Samples
from hwnas.core.workload import Network, Workload
from hwnas.errors import DataError
from hwnas.tables import exchange
from hwnas.tables.lines import Check, Recipe
from hwnas.tables.table import LatencyTable

CONTEXT = Context(
    device="board", device_digest="0", machine="m", fidelity=Fidelity.HARDWARE, toolchain="ort", toolchain_version="1",
    options={"threads": 1}, schedule="s", runner="fake", threads=1, protocol={}, started="2026-01-01", hwnas="0",
)  # fmt: skip
CONV, POOL, LOST = Workload(b"1", "Conv"), Workload(b"2", "Pool"), Workload(b"3", "Lost")
NETWORK = Network("net", "d", {CONV.id: 2, POOL.id: 1})


def table(scale: float = 1.0, context: Context = CONTEXT) -> LatencyTable:
    found = LatencyTable(Recipe.of(context))
    for item in (context, CONV, POOL, LOST, NETWORK):
        found.add(item)
    for subject, value in ((CONV.id, 1e-3), (POOL.id, 2e-3), (NETWORK.id, 3e-3)):
        value *= scale if subject == CONV.id else 1
        readings = tuple(value * (1 + 0.01 * i) for i in range(-10, 11))
        found.add(Measurement(subject, context.id, Samples(latency_s=readings), "t"))
    found.add(Measurement(LOST.id, context.id, Failure("run", "DeviceTimeout", "late"), "t"))
    return found


def test_a_table_is_counted_and_summed_up_slowest_first() -> None:
    assert exchange.counts(table()) == {
        "workloads": 3, "networks": 1, "valid rows": 3, "failed rows": 1, "sessions": 1,
        "uncovered kernels": 0,
    }  # fmt: skip
    rows = exchange.summary_rows(table())
    assert [r["what"] for r in rows] == ["network net", "Pool", "Conv"]
    assert rows[-1]["value"] == pytest.approx(1e-3)
    assert rows[-1]["half_width"] == pytest.approx(0.09)
    assert rows[-1]["readings"] == 21
    assert exchange.recipe_json(table())["fidelity"] == "hardware"


def test_kernels_without_a_rule_are_counted_by_the_subjects_that_have_them() -> None:
    found = table()
    slow = Samples(latency_s=(1e-3,), uncovered=("lrn: no rule", "scan: no rule"))
    for subject, result in ((CONV.id, slow), (POOL.id, replace(slow, uncovered=("lrn: no rule",)))):
        found.add(Measurement(subject, CONTEXT.id, result, "u"))
    assert exchange.uncovered(found) == {"lrn: no rule": 2, "scan: no rule": 1}
    assert exchange.counts(found)["uncovered kernels"] == 2
    again = LatencyTable.from_records(list(found.lines()), Path("t"))
    assert exchange.uncovered(again) == exchange.uncovered(found)
    found.add(Check(CONTEXT.id, 0.5, False))
    assert exchange.uncovered(found) == {}


def test_the_code_that_a_row_ran_is_summed_up() -> None:
    found = table()
    chosen = Samples(latency_s=(1e-3,), code=("depthwise/dsp/NHWC",))
    found.add(Measurement(CONV.id, CONTEXT.id, chosen, "u"))
    rows = {r["what"]: r["code"] for r in exchange.summary_rows(found)}
    assert rows == {"Conv": ["depthwise/dsp/NHWC"], "Pool": [], "network net": []}
    again = LatencyTable.from_records(list(found.lines()), Path("t"))
    assert exchange.summary_rows(again) == exchange.summary_rows(found)


def test_rows_of_a_drifting_session_do_not_count() -> None:
    found = table()
    found.add(Check(CONTEXT.id, 0.5, False))
    assert exchange.counts(found)["failed rows"] == 4
    assert exchange.summary_rows(found) == []


def test_tables_are_compared_by_ratio_even_of_two_recipes() -> None:
    other = table(2.0, replace(CONTEXT, toolchain="tvm"))
    other.add(Workload(b"4", "New"))
    found = exchange.compare(table(), other)
    assert (found["both"], found["only_a"], found["only_b"]) == (3, 0, 0)
    assert found["rows"][0]["what"] == "Conv"
    assert found["rows"][0]["ratio"] == pytest.approx(2.0)
    assert found["recipe"] == ["toolchain: ort and tvm"]
    assert found["ratio_quantiles"]["0.5"] == pytest.approx(1.0)


def test_tables_with_nothing_in_common_have_no_ratio() -> None:
    found = exchange.compare(table(), LatencyTable(Recipe.of(CONTEXT)))
    assert (found["both"], found["only_a"], found["ratio_quantiles"]) == (0, 3, {})


def test_parquet_holds_every_row_with_its_provenance(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    assert exchange.write_parquet(table(), path) == 4
    frame = pandas.read_parquet(path).set_index("what")
    assert frame.loc["Conv", "value"] == pytest.approx(1e-3)
    assert len(frame.loc["Conv", "readings"]) == 21
    assert frame.loc["network net", "is_network"]
    assert not frame.loc["Lost", "valid"]
    assert "late" in frame.loc["Lost", "failure"]
    assert pandas.isna(frame.loc["Lost", "value"])
    assert set(frame["fidelity"]) == {"hardware"}
    assert exchange.write_parquet(LatencyTable(Recipe.of(CONTEXT)), path) == 0
    with pytest.raises(DataError, match="cannot be written"):
        exchange.write_parquet(table(), tmp_path / "no" / "such" / "folder.parquet")


def test_parquet_holds_where_a_run_of_an_accelerator_goes(tmp_path: Path) -> None:
    device_table = LatencyTable.read(Path(__file__).parents[2] / "latency_tables/ethos-u55-128/cycle-sim-vela.jsonl")
    exchange.write_parquet(device_table, tmp_path / "t.parquet")
    for _, row in pandas.read_parquet(tmp_path / "t.parquet").set_index("measurement").iterrows():
        known = device_table.measurements[str(row.name)].result
        assert isinstance(known, Samples)
        assert json.loads(row["parts"]) == known.parts and json.loads(row["traffic"]) == known.traffic
        assert json.loads(row["memory"]) == known.memory and row["macs"] == known.macs
