"""Append-only files of JSON lines: what is appended is on disk, a torn tail is set aside, one process writes at a time.

Latency tables, accuracy tables and search journals are all such files; what their lines mean is their own business.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hwnas.digest import canonical_json
from hwnas.errors import DataError, HwnasError

MAX_LINE_BYTES = 16 * 2**20


def parse_lines(data: bytes, path: Path) -> tuple[list[dict[str, Any]], bytes]:
    """The JSON objects of a file's bytes, and the torn tail (bytes after the last whole line; empty if there is none).

    A last line that is whole but not JSON (power lost in the middle of a block) counts as torn too.
    Raises DataError with the line number for anything else that is not an object.
    """
    whole, _, tail = data.rpartition(b"\n")
    lines = whole.split(b"\n") if whole else []
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            if len(line) > MAX_LINE_BYTES:
                raise ValueError("line is too long")
            record = json.loads(line, parse_constant=_no_constant)
            if not isinstance(record, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError) as error:
            if number == len(lines) and not tail:
                return records, line + b"\n"
            raise DataError(f"line {number} is not a record ({error})", path=path) from error
        records.append(record)
    return records, tail


def read_records(path: Path) -> tuple[list[dict[str, Any]], bytes]:
    """Read a file without changing it. Raises DataError if it cannot be read."""
    try:
        return parse_lines(path.read_bytes(), path)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from error


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file or nothing: a reader sees the old content or the new, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise HwnasError(
            f"{path} could not be written: {error.strerror}. Free space or choose another folder"
        ) from error


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole file of records at once, or nothing."""
    write_atomically(path, "".join(canonical_json(record) + "\n" for record in records))


class RecordFile:
    """An open file of records: `records` is what it held, `append` adds one that is on disk when it returns.

    A torn tail found on opening is moved to `NAME.torn`, so that not a byte is lost. Raises HwnasError if another
    process has the file open for writing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = path.open("a+b", buffering=0)  # a buffer would write what a full disk refused again on close
        except OSError as error:
            raise HwnasError(f"{path} cannot be opened for writing: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise HwnasError(f"{path} is in use by another process; wait for it or name another file") from None
        self._file.seek(0)
        data = self._file.read()
        try:
            self.records, self.torn = parse_lines(data, path)
        except DataError:
            self._file.close()
            raise
        if self.torn:
            with path.with_name(path.name + ".torn").open("ab") as aside:
                aside.write(self.torn + b"\n")
            self._file.truncate(len(data) - len(self.torn))
        self._size = len(data) - len(self.torn)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record. Raises HwnasError when the disk is full, with the file as it was before."""
        line = canonical_json(record).encode() + b"\n"
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            raise HwnasError(
                f"{self.path} could not be written: {error.strerror}. What was recorded is kept; free space and resume"
            ) from error
        self._size += len(line)

    def close(self) -> None:
        """Close the file and let others write."""
        with contextlib.suppress(OSError):
            self._file.close()

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON knows")
