"""Append-only files: nothing that was appended is ever lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.errors import DataError, HwnasError
from hwnas.records import RecordFile, parse_lines, read_records, write_atomically, write_records


def filled(path: Path, n: int) -> bytes:
    with RecordFile(path) as file:
        for i in range(n):
            file.append({"row": i})
    return path.read_bytes()


@given(st.data())
def test_every_cut_keeps_every_whole_line(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("cut") / "rows.jsonl"
    whole = filled(path, 5)
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    with RecordFile(path) as file:
        assert file.records == [{"row": i} for i in range(whole[:cut].count(b"\n"))]
        file.append({"row": "next"})
    records, torn = read_records(path)
    assert records[-1] == {"row": "next"}
    assert torn == b""


def test_a_torn_tail_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(filled(path, 2) + b'{"row": 2')
    with RecordFile(path) as file:
        assert file.torn == b'{"row": 2'
    assert (tmp_path / "rows.jsonl.torn").read_bytes() == b'{"row": 2\n'


def test_reading_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"row": 0}\n{"ro')
    assert read_records(path) == ([{"row": 0}], b'{"ro')
    assert path.read_bytes() == b'{"row": 0}\n{"ro'


@pytest.mark.parametrize("line", [b"not json", b"[1]", b'{"a": NaN}', b"\xff\xfe", b'"text"'])
def test_a_bad_line_in_the_middle_names_its_number(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(DataError, match="line 2 is not a record"):
        parse_lines(b'{"a": 1}\n' + line + b'\n{"a": 3}\n', tmp_path / "rows.jsonl")


def test_two_writers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with RecordFile(path):
        code = f"from hwnas.records import RecordFile; from pathlib import Path; RecordFile(Path({str(path)!r}))"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert other.returncode
    assert "in use by another process" in other.stderr


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from hwnas.errors import HwnasError
from hwnas.records import RecordFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = RecordFile(Path(sys.argv[1]))
file.append({"row": 0})
resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))
try:
    file.append({"row": "x" * 200})
except HwnasError as error:
    print(error)
"""


def test_a_full_disk_loses_nothing_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    ran = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=False)
    assert "What was recorded is kept; free space and resume" in ran.stdout, ran.stderr
    assert read_records(path) == ([{"row": 0}], b"")


def test_writing_whole_files_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    write_records(path, [{"a": 1}])
    with pytest.raises(ValueError, match="Out of range"):
        write_records(path, [{"a": float("nan")}])
    assert read_records(path)[0] == [{"a": 1}]
    assert [p.name for p in tmp_path.iterdir()] == ["table.jsonl"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises((HwnasError, OSError), match="file"):
        write_atomically(tmp_path / "file" / "inside", "text")
