"""The run record: what was written is read again, and what is not a record is refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_record import HOSTILE, bare_record, full_record

from hwnas.core.estimate import Budget
from hwnas.errors import DataError
from hwnas.report.record import MAX_DEPTH, MAX_RECORD_BYTES, Finalist, RunRecord


@pytest.mark.parametrize(
    "record", [full_record(), bare_record(), full_record(text=HOSTILE)], ids=["full", "bare", "hostile"]
)
def test_what_was_written_is_read_again(record: RunRecord, tmp_path: Path) -> None:
    path = record.write(tmp_path / "record.json")
    assert RunRecord.read(path) == record
    assert path.read_bytes() == RunRecord.read(path).write(tmp_path / "again.json").read_bytes()


def test_infinite_violation_is_not_measured() -> None:
    over = Budget(latency="1 ms").violations({})
    finalist = Finalist.model_validate({"encoded": "a", "meets_budget": False, "violations": over})
    assert finalist.violations == {"latency": None}


def _document(**change: Any) -> dict[str, Any]:
    return {**bare_record().model_dump(mode="json", by_alias=True), **change}


TRIAL = {"number": 0, "encoded": "a", "feasible": True}
FINALIST = {"encoded": "a", "meets_budget": True}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"titel": "x"}, "did you mean title"),
        ({"schema": 2}, "schema"),
        ({"fidelity": "guess"}, "fidelity"),
        ({"created": "yesterday"}, "created"),
        ({"budget": {"speed": 1.0}}, "budget.speed"),
        ({"front": [7]}, "front names trial 7"),
        ({"trials": [TRIAL, TRIAL]}, "same number"),
        ({"trials": [{**TRIAL, "accuracy": 95.8}]}, "trials.0.accuracy"),
        ({"trials": [{**TRIAL, "estimates": {"latency": [2.0, 1.0]}}]}, "below the mean"),
        ({"trials": [{**TRIAL, "measured": {"latency": -1}}]}, "trials.0.measured.latency"),
        ({"finalists": [{**FINALIST, "readings": {"latency": [1.0] * 4}}]}, "at least 5"),
        ({"finalists": [{**FINALIST, "winner": True}, {**FINALIST, "winner": True}]}, "more than one"),
        ({"finalists": [{**FINALIST, "test_accuracy": 0.9}]}, "needs test_samples"),
        ({"finalists": [{**FINALIST, "violations": {"latency": 0.1}}]}, "contradicts"),
    ],
)
def test_what_is_no_record_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(_document(**change)))
    with pytest.raises(DataError, match=said) as raised:
        RunRecord.read(path)
    assert "record.json" in str(raised.value)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"seed": NaN}', b"[" * 100_000], ids=lambda c: str(c[:8])
)
def test_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not a run record"):
        RunRecord.read(path)


def test_missing_and_huge_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        RunRecord.read(tmp_path / "none.json")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(MAX_RECORD_BYTES + 1)
    with pytest.raises(DataError, match="larger than"):
        RunRecord.read(tmp_path / "huge.json")


def test_lone_surrogate_is_refused_in_text(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(_document(title="\ud800")))
    with pytest.raises(DataError, match="title"):
        RunRecord.read(path)


def test_deep_settings_are_refused(tmp_path: Path) -> None:
    deep: object = 1
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    path = tmp_path / "record.json"
    path.write_text(json.dumps(_document(settings={"a": deep})))
    with pytest.raises(DataError, match="settings: nested deeper"):
        RunRecord.read(path)


def test_values_prefer_what_was_measured() -> None:
    record = full_record()
    winner = record.winner
    assert winner is not None
    assert winner.value("latency") == sorted(winner.readings["latency"])[2]
    assert winner.value("energy") is None
    measured = next(t for t in record.trials if t.measured)
    assert measured.value("latency") == measured.measured["latency"]
    xs = [t.value("latency") or 0.0 for t in record.front_trials]
    assert xs == sorted(xs) and len(xs) > 3
