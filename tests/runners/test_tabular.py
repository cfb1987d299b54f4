"""The device that answers from a CSV: values in SI units, what is not measurable, and hostile files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hwnas.core.device import Device, TabularSource
from hwnas.core.workload import Candidate
from hwnas.errors import CandidateError, ConfigError, DataError, DeviceError, DeviceUnavailable, NotMeasurable
from hwnas.runners.tabular import TabularDevice, TabularRunner, load_tabular
from hwnas.spaces.cell import CellSpace

SPACE = CellSpace()
A, B = "(4, 3, 3, 0, 0, 0)", "(2, 2, 0, 4, 2, 0)"
GOOD = f'net,ms,mj\n"{A}",5.5,24\n"{B}",-1,\n'


def source(**changes: Any) -> TabularSource:
    fields: dict[str, Any] = {
        "file": "table.csv",
        "candidate": "net",
        "metrics": {"latency": "ms", "energy": "mj"},
        "unit": {"latency": "ms", "energy": "mJ"},
        "invalid_below": 0,
    }
    return TabularSource(**{**fields, **changes})


def load(folder: Path, text: str | bytes, **changes: Any) -> TabularDevice:
    (folder / "table.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return load_tabular(source(**changes), SPACE.parse, name="bench", folder=folder)


def test_values_come_in_si_units(tmp_path: Path) -> None:
    device = load(tmp_path, GOOD)
    assert device(SPACE.parse(A)) == pytest.approx({"latency": 5.5e-3, "energy": 24e-3})
    assert device.metrics == ("latency", "energy")
    assert device.candidates == (SPACE.parse(A), SPACE.parse(B))
    assert len(device) == 2


def test_what_the_device_cannot_run_is_an_error_and_never_a_number(tmp_path: Path) -> None:
    device = load(tmp_path, GOOD)
    with pytest.raises(NotMeasurable, match="bench cannot run candidate"):
        device(SPACE.parse(B))
    assert issubclass(NotMeasurable, DeviceError)


def test_a_metric_that_is_missing_alone_is_left_out(tmp_path: Path) -> None:
    assert load(tmp_path, f'net,ms,mj\n"{A}",5.5,\n')(SPACE.parse(A)) == pytest.approx({"latency": 5.5e-3})


def test_a_candidate_without_a_row_is_not_measurable(tmp_path: Path) -> None:
    with pytest.raises(NotMeasurable, match="no measurement of candidate"):
        load(tmp_path, GOOD)(Candidate(SPACE.id, (0, 0, 0, 0, 0, 0)))


def test_equal_rows_may_repeat_and_a_byte_order_mark_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    text = f'\ufeffnet,ms,mj\n"{A}",5.5,24\n\n"{A}",5.5,24\n'
    assert len(load(tmp_path, text)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'net' is not a column"),
        ("net,ms,mj\n", "has no rows"),
        ("net,latency,mj\n", "'ms' is not a column"),
        ("net,ms,ms,mj\n", "'ms' stands twice"),
        (f'net,ms,mj\n"{A}",5.5\n', "line 2 has 2 fields, not 3"),
        (f'net,ms,mj\n"{A}",fast,1\n', "line 2: 'fast' is not a number"),
        (f'net,ms,mj\n"{A}",nan,1\n', "leave the field empty"),
        (f'net,ms,mj\n"{A}",inf,1\n', "'inf' is not a number"),
        (f'net,ms,mj\n"{A}",1,1\n"{A}",2,1\n', "stands twice with different values"),
        (f'net,ms,mj\n"{A},1,1\n', "is not CSV"),
        (b"net,ms,mj\n\xff\xfe,1,1\n", "is not CSV"),
    ],
)
def test_a_bad_file_is_refused_with_its_name(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=r"table\.csv") as error:
        load(tmp_path, text)
    assert message in str(error.value)


def test_a_negative_value_is_refused_unless_the_description_explains_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"say so by tabular\.invalid_below"):
        load(tmp_path, GOOD, invalid_below=None)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_tabular(source(), SPACE.parse, folder=tmp_path)


def test_a_candidate_of_another_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CandidateError):
        load(tmp_path, "net,ms,mj\ns16k3d2R,1,1\n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unit": {"latency": "ms", "energy": "ms"}}, "'ms' is not a unit of energy"),
        ({"unit": {"latency": "0 ms", "energy": "mJ"}}, "not a unit of latency"),
        ({"metrics": {"latncy": "ms"}, "unit": {"latncy": "ms"}}, "did you mean latency"),
        ({"unit": {"latency": "ms"}}, "must name the same metrics"),
        ({"metrics": {}, "unit": {}}, "names no metric"),
    ],
)
def test_a_bad_description_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, GOOD, **changes)


def described(**changes: Any) -> Device:
    fields: dict[str, Any] = {
        "schema": 1,
        "name": "bench",
        "summary": "a table",
        "fidelity": "hardware",
        "compute": {"cores": 1, "isa": "any", "macs_per_s": "1 G/s", "overhead": "1 us", "source": "chosen"},
        "memories": [],
        "dtypes": ["fp32"],
        "toolchains": ["ort"],
        "runner": "tabular",
        "tabular": source().model_dump(),
    }
    return Device.model_validate({**fields, **changes})


def test_the_runner_answers_for_candidates_and_runs_no_artifact(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(GOOD)
    runner = TabularRunner(tmp_path)
    assert runner.answers(described(), SPACE.parse)(SPACE.parse(A))["latency"] == pytest.approx(5.5e-3)
    with pytest.raises(DeviceUnavailable, match="answers from a table and runs nothing"):
        runner.open(described())
    with pytest.raises(ConfigError, match="has no tabular: section"):
        runner.answers(described(runner="local", tabular=None), SPACE.parse)


def test_a_public_benchmark_loads_whole(shared_data: Path) -> None:
    device = load_tabular(
        TabularSource(
            file="nb201_hw_cifar10.csv",
            candidate="net",
            metrics={"latency": "edgetpu_latency"},
            unit={"latency": "ms"},
            invalid_below=-1,
        ),
        SPACE.parse,
        folder=shared_data,
    )
    refused = 0
    for candidate in device.candidates:
        try:
            assert device(candidate)["latency"] > 0
        except NotMeasurable:
            refused += 1
    assert (len(device), refused) == (15_625, 4_699)
