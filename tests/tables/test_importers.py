"""Measurements of others, from CSV: units from the column's name, and the first wrong thing named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.errors import DataError
from hwnas.tables import importers
from hwnas.tables.importers import read_measurements


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "m.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_values_become_si_and_empty_is_not_measurable(tmp_path: Path) -> None:
    text = '\ufeffcandidate,latency_ms,energy_uJ,flash_KiB,cycles,note\na|b,1.5,2,3,40,x\n"c,""d""",,0.5,1,7,y\n\n'
    found = read_measurements(written(tmp_path, text))
    assert found.candidates == ["a|b", 'c,"d"']
    assert found.metrics["latency"] == [pytest.approx(1.5e-3), None]
    assert found.metrics["energy"] == [pytest.approx(2e-6), pytest.approx(5e-7)]
    assert found.metrics["flash"] == [3072.0, 1024.0]
    assert found.metrics["cycles"] == [40.0, 7.0]
    assert "note" not in found.metrics


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("net,latency_ms\na,1\n", "needs a column 'candidate'"),
        ("", "needs a column 'candidate'"),
        ("candidate,note\na,1\n", "needs a column such as latency_ms"),
        ("candidate,latency\na,1\n", "column 'latency' has no unit; name it like latency_ms"),
        ("candidate,latency_mj\na,1\n", "'mj' is no unit of latency; name it like latency_ms"),
        ("candidate,energy_parsec\na,1\n", "'parsec' is no unit of energy"),
        ("candidate,latency_ms,latency_us\na,1,2\n", "more than one column of latency"),
        ("candidate,latency_ms\n", "holds no candidates"),
        ("candidate,latency_ms\na,1,2\n", "line 2 has 3 values, the header 2"),
        ("candidate,latency_ms\na,1\na,2\n", "line 3: candidate 'a' stands twice"),
        ("candidate,latency_ms\na,fast\n", "line 2, latency_ms: 'fast' is not a positive number"),
        ("candidate,latency_ms\na,-1\n", "not a positive number"),
        ("candidate,latency_ms\na,0\n", "not a positive number"),
        ("candidate,latency_ms\na,nan\n", "not a positive number"),
        ("candidate,latency_ms\na,inf\n", "not a positive number"),
        ('candidate,latency_ms\n"a,1\n', "is not CSV"),
        ("candidate,latency_ms\n" + "a" * 200_000 + ",1\n", "is not CSV"),
        (b"candidate,latency_ms\n\xff,1\n", "is not UTF-8"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_the_first_wrong_thing_is_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_measurements(written(tmp_path, text))
    assert "m.csv" in str(caught.value)


def test_a_file_that_is_missing_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_measurements(tmp_path / "none.csv")
    monkeypatch.setattr(importers, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="larger than 10 bytes"):
        read_measurements(written(tmp_path, "candidate,latency_ms\na,1\n"))


@settings(max_examples=80)
@given(st.binary(max_size=200))
def test_no_bytes_escape_as_another_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = written(tmp_path_factory.getbasetemp(), b"candidate,latency_ms\n" + data)
    try:
        found = read_measurements(path)
    except DataError:
        return
    assert all(v is None or v > 0 for v in found.metrics["latency"])
