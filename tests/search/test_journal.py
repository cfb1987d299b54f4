"""The journal: what is recorded is read back, a torn tail is set aside, anything else that is wrong is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.core.trial import Trial
from hwnas.core.workload import Candidate
from hwnas.errors import DataError, HwnasError
from hwnas.search.journal import Journal, Reading, trial_json

MANIFEST = {"seed": 0, "space": "cell-1", "budget": {"latency": "0.006 s"}}
TRIAL = Trial(0, Candidate("cell-1", (1, 2)), "1,2", accuracy=0.5, violations={"latency": float("inf")})


def recorded(path: Path) -> Journal:
    journal = Journal(path, MANIFEST)
    journal.add_reading("1,2", Reading({"latency": 1e-3}))
    journal.add_reading("2,2", Reading(failure="DeviceCrashed: gone"))
    journal.add_accuracy("1,2", 0.5)
    journal.add_accuracy("2,2", None)
    journal.add_trial(TRIAL)
    journal.close()
    return journal


def test_what_was_recorded_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "j.jsonl"
    first = recorded(path)
    again = Journal(path, MANIFEST)
    assert again.recorded == 4
    assert (again.accuracies, again.readings) == (first.accuracies, first.readings)
    before = path.read_bytes()
    again.add_trial(TRIAL)
    assert path.read_bytes() == before, "a trial that is recorded is checked, not written again"
    again.close()


def test_without_a_path_it_remembers_only() -> None:
    journal = Journal(None, MANIFEST)
    journal.add_accuracy("1,2", 0.25)
    assert journal.accuracies == {"1,2": 0.25}
    journal.close()


def test_a_torn_tail_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    recorded(path)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"candidate": "3,')
    journal = Journal(path, MANIFEST)
    assert journal.recorded == 4
    journal.close()
    assert path.read_bytes() == whole
    assert (tmp_path / "j.jsonl.torn").read_bytes() == b'{"candidate": "3,\n'


def test_an_empty_file_is_a_new_journal(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.touch()
    Journal(path, MANIFEST).close()
    assert json.loads(path.read_text())["manifest"] == MANIFEST


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl", MANIFEST)
    with pytest.raises(HwnasError, match="in use by another process"):
        Journal(tmp_path / "j.jsonl", MANIFEST)
    journal.close()
    Journal(tmp_path / "j.jsonl", MANIFEST).close()


def test_another_search_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    recorded(path)
    with pytest.raises(DataError, match=r"another search \(seed: 0 there, 1 here\); name a new journal"):
        Journal(path, {**MANIFEST, "seed": 1})
    other = {"seed": 1, "space": "x", "budget": {}, "more": 2}
    with pytest.raises(DataError, match="and 1 more"):
        Journal(path, other)
    Journal(path, MANIFEST).close()  # the refused ones let go of the file


@pytest.mark.parametrize("head", [{}, {"kind": "latency-table", "schema": 1}, {"kind": "search-journal", "schema": 2}])
def test_another_kind_of_file_is_refused(head: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text(json.dumps(head) + "\n")
    with pytest.raises(DataError, match="is not a search-journal of schema 1"):
        Journal(path, MANIFEST)


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"trial": 3},
        {"candidate": "1,2"},
        {"candidate": 3, "accuracy": 0.5},
        {"candidate": "1,2", "accuracy": "high"},
        {"candidate": "1,2", "accuracy": True},
        {"candidate": "1,2", "accuracy": 91.0},
        {"candidate": "1,2", "accuracy": -0.1},
        {"candidate": "1,2", "measured": {}},
        {"candidate": "1,2", "measured": {"latency": None}},
        {"candidate": "1,2", "measured": {"latency": -1.0}},
        {"candidate": "1,2", "failure": None},
    ],
    ids=str,
)
def test_a_line_that_is_no_record_is_refused(line: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    recorded(path)
    before = path.read_bytes() + json.dumps(line).encode() + b"\n"
    path.write_bytes(before)
    with pytest.raises(DataError, match="line 7 is not a record of a search"):
        Journal(path, MANIFEST)
    assert path.read_bytes() == before


def test_another_trial_at_the_same_place_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    recorded(path)
    journal = Journal(path, MANIFEST)
    with pytest.raises(DataError, match="trial 0 is not the one recorded there"):
        journal.add_trial(Trial(0, TRIAL.candidate, TRIAL.encoded, accuracy=0.6))
    journal.close()


@given(st.floats(allow_nan=False, min_value=0, max_value=1), st.floats(allow_nan=True))
def test_every_trial_is_json(accuracy: float, value: float) -> None:
    trial = Trial(1, TRIAL.candidate, "1,2", accuracy, estimates={"ram": (1.0, value)}, violations={"ram": value})
    written = json.loads(json.dumps(trial_json(trial), allow_nan=False))
    assert written["accuracy"] == accuracy
