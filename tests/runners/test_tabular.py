"""Devices that answer from a CSV: SI values, rows that cannot be measured, and files that are not what they should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hwnas.core.device import TabularSource
from hwnas.errors import ConfigError, DataError, NotMeasurable
from hwnas.registry import runners
from hwnas.runners import tabular
from hwnas.runners.tabular import TabularDevice, load_tabular
from hwnas.spaces.cell import CellSpace

SPACE = CellSpace()
A, B = "(0, 0, 0, 0, 0, 0)", "(0, 0, 0, 0, 0, 3)"


def loaded(folder: Path, text: str | bytes, **changes: Any) -> TabularDevice:
    (folder / "device.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    usual: dict[str, Any] = {
        "file": "device.csv",
        "candidate": "net",
        "metrics": {"latency": "ms"},
        "unit": {"latency": "ms"},
    }
    return load_tabular(TabularSource(**{**usual, **changes}), SPACE.parse, name="board", folder=folder)


def test_values_are_si(tmp_path: Path) -> None:
    device = loaded(
        tmp_path,
        f'other,net,ms,mJ,kB\nx,"{A}", 2.5 ,7,1\n\nx,"{B}",1,2,3\n',
        metrics={"latency": "ms", "energy": "mJ", "ram": "kB"},
        unit={"latency": "ms", "energy": "mJ", "ram": "kB"},
    )
    assert device(SPACE.parse(A)) == pytest.approx({"latency": 2.5e-3, "energy": 7e-3, "ram": 1000.0})
    assert len(device) == 2
    assert device.candidates == (SPACE.parse(A), SPACE.parse(B))
    assert device.metrics == ("latency", "energy", "ram")


def test_a_byte_order_mark_and_a_repeated_row_are_fine(tmp_path: Path) -> None:
    text = f'net,ms\r\n"{A}",2\r\n"{A}",2\r\n'
    assert len(loaded(tmp_path, b"\xef\xbb\xbf" + text.encode())) == 1


def test_not_measurable_is_an_answer_and_never_a_number(tmp_path: Path) -> None:
    text = f'net,ms,mJ\n"{A}",-1,\n"{B}",3,-1\n'
    metrics = {"latency": "ms", "energy": "mJ"}
    device = loaded(tmp_path, text, metrics=metrics, unit=metrics, invalid_below=0)
    with pytest.raises(NotMeasurable, match=r"board cannot run candidate \[0, 0, 0, 0, 0, 0\]"):
        device(SPACE.parse(A))
    assert device(SPACE.parse(B)) == {"latency": pytest.approx(3e-3)}
    with pytest.raises(NotMeasurable, match="board has no measurement of candidate"):
        device(SPACE.parse("(1, 1, 1, 1, 1, 3)"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'net' is not a column"),
        ("net,ms\n", "has no rows"),
        ("net,s\n", "'ms' is not a column"),
        ("net,ms,ms\n", "'ms' stands twice"),
        (f'net,ms\n"{A}"\n', "line 2 has 1 fields, not 2"),
        (f'net,ms\n"{A}",1,2\n', "line 2 has 3 fields, not 2"),
        (f'net,ms\n"{A}",fast\n', "line 2: 'fast' is not a number; leave the field empty"),
        (f'net,ms\n"{A}",inf\n', "'inf' is not a number"),
        (f'net,ms\n"{A}",nan\n', "'nan' is not a number"),
        (f'net,ms\n"{A}",-1\n', "line 2: -1 cannot be a measurement; .* tabular.invalid_below"),
        (f'net,ms\n"{A}",1\n"{A}",2\n', "line 3: .* stands twice with different values"),
        ("net,ms\nno network,1\n", "no network"),
        ("net,ms\n=cmd|'/c calc'!A0,1\n", "calc"),
        (f'net,ms\n"{A}"x,1\n', "is not CSV"),
        (f'net,ms\n"{A},1\n', "is not CSV"),
        (b"net,ms\n\xff\xfe,1\n", "is not CSV"),
        (b"\x00\x01\x02" * 100, "is not"),
        ("net,ms\n" + "9" * 200_000 + ",1\n", "is not CSV: field larger"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else None,
)
def test_what_is_wrong_with_a_file_is_said(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        loaded(tmp_path, text)


def test_missing_and_huge_files_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        loaded(tmp_path, "", file="none.csv")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        loaded(tmp_path, "", file=".")
    monkeypatch.setattr(tabular, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="is larger than 10 bytes"):
        loaded(tmp_path, f'net,ms\n"{A}",1\n')


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unit": {}}, "must name the same metrics"),
        ({"metrics": {}, "unit": {}}, "names no metric"),
        ({"metrics": {"speed": "ms"}, "unit": {"speed": "ms"}}, "no metric 'speed'"),
        ({"unit": {"latency": "mJ"}}, "'mJ' is not a unit of latency"),
        ({"unit": {"latency": "parsec"}}, "'parsec' is not a unit of latency"),
        ({"unit": {"latency": ""}}, "is not a unit of latency"),
    ],
)
def test_a_description_that_makes_no_sense_is_an_error(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        loaded(tmp_path, f'net,ms\n"{A}",1\n', **changes)


def test_the_runner_is_registered_under_its_name() -> None:
    assert runners.load("tabular").name == "tabular"


def test_the_public_benchmark(shared_data: Path) -> None:
    source = TabularSource(
        file="nb201_hw_cifar10.csv",
        candidate="net",
        metrics={"latency": "edgetpu_latency"},
        unit={"latency": "ms"},
        invalid_below=0,
    )
    device = load_tabular(source, SPACE.parse, name="edgetpu", folder=shared_data)
    runs = 0
    for candidate in device.candidates:
        try:
            assert 1e-5 < device(candidate)["latency"] < 1
            runs += 1
        except NotMeasurable:
            pass
    assert len(device) - runs == 4699
