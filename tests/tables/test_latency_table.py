"""Latency tables: append, survive, merge; nothing that is not what its id says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.core.measurement import Context, EnergyWindow, Failure, Fidelity, Measurement, Samples
from hwnas.core.workload import Network, Workload
from hwnas.digest import content_id
from hwnas.errors import DataError, MeasurementInvalid, TableConflict
from hwnas.tables.lines import SUSTAINED, Check, Item, Recipe, line_of, protocol_name
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
        ("schedule", "hwnas-cpu-2"),
        ("schedule", "hwnas-cpu-1+tuned"),
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


def measured(**samples: Any) -> Measurement:
    return Measurement(WORKLOADS[0].id, CONTEXT.id, Samples(**{"latency_s": (1e-3,), **samples}), "t")


def window(**changed: Any) -> EnergyWindow:
    return replace(EnergyWindow(1.0, 0.5, 10.0, 100, 1000, 0, ("vdd",)), **changed)


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"latency_s": ()}, "positive numbers, and at least one"),
    ({"latency_s": (0.0,)}, "positive numbers"),
    ({"latency_s": (True,)}, "positive numbers"),
    ({"latency_s": (10**400,)}, "positive numbers"),
    ({"latency_s": ("1",)}, "positive numbers"),
    ({"latency_s": "", "cycles": (1,)}, "positive numbers"),
    ({"instructions": (1, -1)}, "positive numbers"),
    ({"inner": 0}, "averages 0 runs"),
    ({"inner": True}, "averages True runs"),
    ({"inner": 1.5}, "averages 1.5 runs"),
    ({"memory": {"code": True}}, "bytes of memory"),
    ({"memory": {"code": -1}}, "bytes of memory"),
    ({"memory": {"code": 10**400}}, "bytes of memory"),
    ({"memory": [1]}, "bytes by use"),
    ({"memory": ""}, "bytes by use"),
    ({"energy": (window(idle_w="1"),)}, "idle_w of an energy window must be a finite number"),
    ({"energy": (window(gross_j=True),)}, "gross_j of an energy window must be a finite number"),
    ({"energy": (window(gross_j=10**400),)}, "gross_j of an energy window must be a finite number"),
    ({"energy": (window(window_s=0.0),)}, "positive duration"),
    ({"energy": (window(runs=0),)}, "runs of an energy window"),
    ({"energy": (window(runs=1.5),)}, "runs of an energy window"),
    ({"energy": (window(samples=-1),)}, "samples of an energy window"),
    ({"energy": (window(lost=-1),)}, "lost of an energy window"),
    ({"energy": (window(lost=False),)}, "lost of an energy window"),
    ({"energy": (window(rails=(1,)),)}, "rails of an energy window"),
    ({"energy": (window(rails="vdd"),)}, "rails of an energy window"),
    ({"energy": 1}, "windows of a meter"),
    ({"uncovered": "conv"}, "uncovered kernels must be a list"),
    ({"uncovered": ("k",) * 10_001}, "uncovered kernels must be a list of at most 10000"),
    ({"uncovered": (1,)}, "printable names"),
    ({"code": "conv"}, "code must be a list"),
    ({"code": ("\n",)}, "code must be printable names"),
    ({"uncovered": ("\x1b[2J",)}, "printable names"),
]


def sealed(line: dict[str, Any]) -> dict[str, Any]:
    """A line of hostile content whose id is right."""
    if line["kind"] == "measurement":
        result = line.get("samples", line.get("failure"))
        return {**line, "id": content_id([line["subject"], line["context"], result, line["taken"]])}
    return {**line, "id": content_id({k: v for k, v in line.items() if k not in ("id", "kind")})}


@pytest.mark.parametrize(("samples", "message"), BROKEN, ids=lambda v: str(v)[:50])
def test_what_the_reader_refuses_the_writer_refuses(tmp_path: Path, samples: dict[str, Any], message: str) -> None:
    path = tmp_path / "t.jsonl"
    with TableFile(path, Recipe.of(CONTEXT)) as file:
        for item in (CONTEXT, WORKLOADS[0]):
            file.append(item)
        before = path.read_bytes()
        row = measured(**samples)
        with pytest.raises(MeasurementInvalid, match=message):
            file.append(row)
        assert not file.table.measurements
    assert path.read_bytes() == before
    body = {"subject": row.subject, "context": row.context, "taken": row.taken}
    line = {"kind": "measurement", "id": row.id, **body, "samples": json.loads(json.dumps(plain(row)))}
    path.write_bytes(before + json.dumps(line).encode() + b"\n" + before.splitlines(keepends=True)[-1])
    with pytest.raises(DataError, match=message):
        LatencyTable.read(path)


def plain(row: Measurement) -> dict[str, Any]:
    assert isinstance(row.result, Samples)
    return row.result.as_json()


numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**20), 10**20)


@settings(max_examples=60)
@given(numbers, numbers, st.floats(1e-9, 1e9), st.integers(1, 10**9), st.integers(0, 9), st.integers(0, 9))
def test_whatever_is_appended_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    gross: float,
    idle: float,
    window_s: float,
    runs: int,
    lost: int,
    used: int,
) -> None:
    path = tmp_path_factory.mktemp("t") / "t.jsonl"
    row = measured(energy=(window(gross_j=gross, idle_w=idle, window_s=window_s, runs=runs, lost=lost),),
                   memory={"code": used})  # fmt: skip
    with TableFile(path, Recipe.of(CONTEXT)) as file:
        for item in (CONTEXT, WORKLOADS[0], row):
            file.append(item)
    assert LatencyTable.read(path).measurements == {row.id: row}


@pytest.mark.parametrize(
    "item",
    [
        replace(CONTEXT, started=1),
        replace(CONTEXT, options=[]),
        replace(CONTEXT, protocol=[["statistic", "p95"]]),
        replace(CONTEXT, clock_hz=True),
        replace(CONTEXT, protocol={"statistic": "p95", "heat": "soon"}),
        Network("n", "d", {WORKLOADS[0].id: 0}),
        Network("n", "d", {WORKLOADS[0].id: True}),
        Network("n", "d", {}, 3),  # type: ignore[arg-type]
        Check(CONTEXT.id, "no", True),  # type: ignore[arg-type]
        Check(CONTEXT.id, 0.0, 1),  # type: ignore[arg-type]
        Check(CONTEXT.id, float("nan"), True),
        Measurement([1], CONTEXT.id, Samples((1.0,)), "t"),  # type: ignore[arg-type]
        Measurement(WORKLOADS[0].id, CONTEXT.id, Failure("lunch", "E", "m"), "t"),  # type: ignore[arg-type]
        Measurement(WORKLOADS[0].id, CONTEXT.id, Failure("run", "E", 1), "t"),  # type: ignore[arg-type]
    ],
    ids=lambda item: str(item)[:60],
)
def test_values_of_wrong_types_are_refused(item: Item) -> None:
    with pytest.raises(MeasurementInvalid, match="a table cannot hold this"):
        line_of(item)


@pytest.mark.parametrize(
    ("index", "change"),
    [
        (0, lambda line: line.update(device=[1])),
        (0, lambda line: line.update(options=None)),
        (1, lambda line: line.update(protocol=[1])),
        (1, lambda line: line.update(started=None)),
        (1, lambda line: line.update(protocol={"statistic": "p95", "heat": {}})),
        (-1, lambda line: line.update(subject=[1])),
        (-1, lambda line: line.update(context={})),
        (-1, lambda line: line["samples"].update(energy="ab")),
        (-1, lambda line: line["samples"].update(energy=[[1]])),
        (-1, lambda line: line["samples"].update(energy=[{}])),
        (-1, lambda line: line["samples"].update(nonsense=1)),
    ],
)
def test_hostile_lines_with_a_right_id_are_data_errors(
    tmp_path: Path, index: int, change: Callable[[dict[str, Any]], None]
) -> None:
    def sealed_change(lines: list[dict[str, Any]]) -> None:
        change(lines[index])
        lines[index] = sealed(lines[index])

    with pytest.raises(DataError, match="is not a valid table line"):
        LatencyTable.read(edited(tmp_path, sealed_change))


@pytest.mark.parametrize(
    ("fidelity", "samples", "message"),
    [
        (Fidelity.INSTRUCTION_SIM, Samples((1e-3,)), "instruction-sim table needs readings of instructions"),
        (Fidelity.HARDWARE, Samples(instructions=(100.0,)), "hardware table needs readings of latency"),
        (Fidelity.CYCLE_SIM, Samples((1e-3,)), "cycle-sim table needs readings of cycles"),
        (Fidelity.HARDWARE, Samples((1e-3,), energy=(window(samples=0),)), "needs samples of a meter"),
    ],
)
def test_samples_are_of_the_fidelity_of_their_table(fidelity: Fidelity, samples: Samples, message: str) -> None:
    context = replace(CONTEXT, fidelity=fidelity)
    table = LatencyTable(Recipe.of(context))
    for item in (context, WORKLOADS[0]):
        table.add(item)
    with pytest.raises(TableConflict, match=message):
        table.add(Measurement(WORKLOADS[0].id, context.id, samples, "t"))
    assert not table.measurements


def test_a_modelled_window_has_no_samples() -> None:
    context = replace(CONTEXT, fidelity=Fidelity.MODEL)
    table = LatencyTable(Recipe.of(context))
    row = Measurement(WORKLOADS[0].id, context.id, Samples((1e-3,), energy=(window(samples=0),)), "t")
    for item in (context, WORKLOADS[0], row):
        table.add(item)
        line_of(item)
    assert table.values("energy")


def test_how_long_a_board_was_heated_is_part_of_the_recipe() -> None:
    def named(**protocol: Any) -> str | None:
        return protocol_name({"statistic": "p95", **protocol})

    assert [named(heat=h) for h in ("600.0 s", "10 min", 600, 600.0)] == [f"{SUSTAINED}-600s"] * 4
    assert (named(heat="0.5 s"), named(heat="1000000.0 s"), named()) == (
        "sustained-0.5s", "sustained-1000000s", "sustained-0s",
    )  # fmt: skip
    assert protocol_name({"heat": "600.0 s"}) is protocol_name({"statistic": "median"}) is None
    for wrong in ("soon", "3 J", "-1 s", "1e999 s", "1 s**9**9", "600.0", -1.0, None, [], True, 10**400):
        with pytest.raises(ValueError, match="heat"):
            named(heat=wrong)
    short, long = (replace(CONTEXT, protocol={"statistic": "p95", "heat": heat}) for heat in ("1.0 s", "600.0 s"))
    with pytest.raises(TableConflict, match="protocol sustained-1s and sustained-600s"):
        LatencyTable(Recipe.of(short)).add(long)


def test_a_sustained_table_answers_with_95th_percentiles() -> None:
    context = replace(CONTEXT, protocol={"statistic": "p95", "heat": "60.0 s"})
    table = LatencyTable(Recipe.of(context))
    readings = tuple(float(i) for i in range(1, 41))
    for item in (context, WORKLOADS[0], Measurement(WORKLOADS[0].id, context.id, Samples(readings), "t")):
        table.add(item)
    assert table.values() == {WORKLOADS[0].id: 38.0}
