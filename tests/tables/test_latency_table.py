"""Latency tables: append, survive, merge; nothing that is not what its id says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.core.measurement import Context, Failure, Fidelity, Measurement, Samples
from hwnas.core.workload import Network, Workload
from hwnas.errors import DataError, TableConflict
from hwnas.tables.lines import Check, Recipe
from hwnas.tables.table import LatencyTable, TableFile, merge

CONTEXT = Context(
    device="board", device_digest="0", machine="m", fidelity=Fidelity.HARDWARE, toolchain="ort", toolchain_version="1",
    options={"threads": 1}, schedule="s", runner="fake", threads=1, protocol={}, started="2026-01-01", hwnas="0",
)  # fmt: skip
WORKLOADS = [Workload(bytes([i]) * 4, f"Op{i}") for i in range(4)]


def row(subject: str, value: float, context: Context = CONTEXT, taken: str = "t") -> Measurement:
    return Measurement(subject, context.id, Samples(latency_s=(value, value * 1.1, value * 0.9)), taken)


def table_of(*items: object) -> LatencyTable:
    table = LatencyTable(Recipe.of(CONTEXT))
    for item in (CONTEXT, *WORKLOADS, *items):
        table.add(item)  # type: ignore[arg-type]
    return table


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    network = Network("n", "d", {WORKLOADS[0].id: 2}, "space")
    items = [
        CONTEXT,
        WORKLOADS[0],
        network,
        row(WORKLOADS[0].id, 1e-3),
        row(network.id, 2e-3),
        Measurement(WORKLOADS[0].id, CONTEXT.id, Failure("run", "DeviceTimeout", "no answer"), "t2"),
        Check(CONTEXT.id, 0.01, True),
    ]
    path = tmp_path / "t.jsonl"
    with TableFile(path, Recipe.of(CONTEXT)) as file:
        for item in items:
            file.append(item)
            file.append(item)  # a second time changes nothing
    table = LatencyTable.read(path)
    assert table.values() == {WORKLOADS[0].id: 1e-3, network.id: 2e-3}
    assert len(path.read_text().splitlines()) == 1 + len(items)
    assert list(LatencyTable.read(path).lines()) == list(table.lines())


def test_a_failure_is_a_row_and_never_a_number() -> None:
    failure = Measurement(WORKLOADS[1].id, CONTEXT.id, Failure("build", "BuildError", "no"), "t")
    table = table_of(failure)
    assert table.values() == {}
    assert table.failures() == {WORKLOADS[1].id: failure.result}
    table.add(row(WORKLOADS[1].id, 1e-3))
    assert table.failures() == {}


def test_a_drifting_session_turns_its_rows_into_failures() -> None:
    table = table_of(row(WORKLOADS[0].id, 1e-3), Check(CONTEXT.id, 0.5, False))
    assert table.values() == {}
    assert table.failures()[WORKLOADS[0].id].stage == "check"
    later = replace(CONTEXT, started="2026-01-02")
    table.add(later)
    table.add(row(WORKLOADS[0].id, 2e-3, later))
    assert table.values() == {WORKLOADS[0].id: 2e-3}


rows = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([1e-3, 2e-3, 5e-4]), st.sampled_from(["a", "b", "c"])), max_size=6
)


@settings(max_examples=60)
@given(rows, rows, rows)
def test_merging_is_set_union(a: list, b: list, c: list) -> None:  # type: ignore[type-arg]
    one, two, three = (table_of(*(row(WORKLOADS[i].id, v, taken=t) for i, v, t in part)) for part in (a, b, c))

    def lines(table: LatencyTable) -> list[dict]:  # type: ignore[type-arg]
        return list(table.lines())

    assert lines(merge(one, two)) == lines(merge(two, one))
    assert lines(merge(merge(one, two), three)) == lines(merge(one, merge(two, three)))
    assert lines(merge(one, one)) == lines(one)
    assert set(merge(one, two).measurements) == set(one.measurements) | set(two.measurements)


def test_one_bad_verdict_survives_a_merge() -> None:
    good, bad = table_of(Check(CONTEXT.id, 0.0, True)), table_of(Check(CONTEXT.id, 0.9, False))
    for merged in (merge(good, bad), merge(bad, good)):
        assert not merged.checks[CONTEXT.id].passed


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("device", "other"),
        ("fidelity", Fidelity.MODEL),
        ("toolchain_version", "2"),
        ("schedule", "tuned"),
        ("machine", "another"),
    ],
)
def test_recipes_do_not_mix(tmp_path: Path, field: str, value: object) -> None:
    other = replace(CONTEXT, **{field: value})
    with pytest.raises(TableConflict, match=field.replace("_", " ")):
        table_of().add(other)
    with pytest.raises(TableConflict, match="do not mix"):
        merge(table_of(), LatencyTable(Recipe.of(other)))
    path = tmp_path / "t.jsonl"
    TableFile(path, Recipe.of(CONTEXT)).close()
    with pytest.raises(TableConflict, match="name another with --table"):
        TableFile(path, Recipe.of(other))


def test_a_torn_tail_keeps_every_whole_row(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    table_of(row(WORKLOADS[0].id, 1e-3)).write(path)
    with path.open("ab") as file:
        file.write(b'{"kind":"measurement","id":"12')
    table = LatencyTable.read(path)
    assert table.torn
    assert table.values() == {WORKLOADS[0].id: 1e-3}
    with TableFile(path, Recipe.of(CONTEXT)) as again:
        again.append(row(WORKLOADS[1].id, 3e-3))
    assert LatencyTable.read(path).values() == {WORKLOADS[0].id: 1e-3, WORKLOADS[1].id: 3e-3}


def edited(tmp_path: Path, change: object) -> Path:
    path = tmp_path / "t.jsonl"
    table_of(row(WORKLOADS[0].id, 1e-3)).write(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)  # type: ignore[operator]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda rows: rows[-1]["samples"].update(latency_s=[9.0]), DataError, "hashes to"),
        (lambda rows: rows[-1].update(id="0" * 20), DataError, "its id is 0000"),
        (lambda rows: rows[2].update(onnx="AAAA"), DataError, "hashes to"),
        (lambda rows: rows[2].update(onnx="%%%"), DataError, "not a valid table line"),
        (lambda rows: rows[-1]["samples"].update(latency_s=[]), DataError, "positive numbers"),
        (lambda rows: rows[-1]["samples"].update(latency_s=[-1.0]), DataError, "positive numbers"),
        (lambda rows: rows[-1].update(kind="joke"), DataError, "unknown kind 'joke'"),
        (lambda rows: rows[0].update(schema=9), DataError, "another version of hwnas"),
        (lambda rows: rows.pop(0), DataError, "a table line has to stand here"),
        (lambda rows: rows.pop(1), TableConflict, "a context .* that the table does not know"),
        (lambda rows: [rows.pop(2) for _ in WORKLOADS], TableConflict, "which the table does not know"),
        (lambda rows: rows.clear(), DataError, "is empty"),
    ],
)
def test_what_is_not_what_it_says_is_refused(tmp_path: Path, change: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        LatencyTable.read(edited(tmp_path, change))
