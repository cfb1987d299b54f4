"""Google's `edgetpu_compiler`, where a user has it: run in a folder of its own, its words read with suspicion.

It is closed and x86-64 only, and gives no latency. What it prints is documented at coral.ai/docs/edgetpu/compiler and by
published logs of versions 2.1 to 16.0 (issues 60, 324, 427 and 671 of google-coral/edgetpu); nothing else is relied on.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Literal

from hwnas.errors import BuildError

PROGRAM = "edgetpu_compiler"
STAGE = "edgetpu_compiler"
INSTALL = f"{PROGRAM} is not on the PATH: see coral.ai/docs/edgetpu/compiler (Google's apt repository, x86-64 only)"
MAPPED = "Mapped to Edge TPU"
MAX_LOG_BYTES = 1 << 20
MAX_COMPILED_BYTES = 1 << 30
DEADLINE_S = 240.0
"""Beyond the 180 s that the compiler gives itself."""
MOST_OPERATORS = 100_000

_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SIZE = r"(\d{1,9}(?:\.\d{1,6})?)(B|KiB|MiB|GiB)"
_ROW = re.compile(r"^([A-Z][A-Z0-9_]{0,63})\s+(\d{1,6})\s+(\S.{0,199})$")
_VERSION = re.compile(r"^Edge TPU Compiler version ([0-9][0-9.]{0,31})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class OperatorCount:
    """A line of the compiler's table: so many operators of a kind have one fate."""

    operator: str
    count: int
    status: str

    @property
    def mapped(self) -> bool:
        return self.status == MAPPED


@dataclass(frozen=True, slots=True)
class Report:
    """What the compiler says of one network: bytes of parameters cached and streamed, room left, subgraphs, operators."""

    version: str
    cached: int
    remaining: int
    streamed: int
    subgraphs: int
    operators: tuple[OperatorCount, ...]


@dataclass(frozen=True, slots=True)
class Compiled:
    """The compiled file, what the compiler says of it, and its words."""

    data: bytes
    report: Report
    log: str


def find_compiler() -> Path | None:
    """Where the compiler is; None where it is not installed."""
    found = shutil.which(PROGRAM)
    return None if found is None else Path(found)


def compiler_version() -> str | None:
    """The version of the compiler on the PATH; None where there is none, or it does not say."""
    path = find_compiler()
    return None if path is None else _version(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _version(path: Path, changed: int) -> str | None:
    try:
        with tempfile.TemporaryFile() as output:
            subprocess.run([str(path), "-v"], stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=20.0)
            found = _VERSION.search(_words(output))
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found[1] if found else None


def compile_tflite(data: bytes, subgraphs: Literal["one", "several"], deadline_s: float = DEADLINE_S) -> Compiled:
    """Compile an int8 TFLite file. Raises BuildError with the compiler's words where it refuses or does not answer."""
    path = find_compiler()
    if path is None:
        raise BuildError(STAGE, INSTALL)
    with tempfile.TemporaryDirectory(prefix="hwnas-edgetpu-") as scratch:
        folder = Path(scratch)
        (folder / "network.tflite").write_bytes(data)
        flags = ["-s", "-a"] if subgraphs == "several" else ["-s"]
        status, words = _run([str(path), *flags, "-o", ".", "network.tflite"], folder, deadline_s)
        compiled = folder / "network_edgetpu.tflite"
        if status or not compiled.is_file():
            raise BuildError(STAGE, f"the compiler refuses the network: {_end(words)}")
        log = folder / "network_edgetpu.log"
        if log.is_file():
            with log.open("rb") as file:
                words += f"\n{'-' * 20} {log.name}\n" + _words(file)
        if compiled.stat().st_size > MAX_COMPILED_BYTES:
            raise BuildError(STAGE, f"the compiled file is larger than {MAX_COMPILED_BYTES} bytes")
        made = compiled.read_bytes()
        if made[4:8] != b"TFL3":
            raise BuildError(STAGE, f"what the compiler wrote is no TFLite file: {_end(words)}")
        return Compiled(made, read_report(words), words)


def read_report(words: str) -> Report:
    """Read what the compiler printed with `-s`. Raises BuildError for anything that is not such a report."""
    version = _VERSION.search(words)
    rows = [OperatorCount(m[1], int(m[2]), m[3].strip()) for m in map(_ROW.match, words.splitlines()) if m]
    counts = {_fold(row): row for row in rows}  # the log repeats what was printed
    if version is None or not counts:
        missing = "version" if version is None else "table of operators"
        raise BuildError(STAGE, f"the compiler's output has no {missing}: {_end(words)}")
    if sum(row.count for row in counts.values()) > MOST_OPERATORS:
        raise BuildError(STAGE, f"the compiler counts more than {MOST_OPERATORS} operators: {_end(words)}")
    return Report(
        version=version[1],
        cached=_bytes(words, "On-chip memory used for caching model parameters"),
        remaining=_bytes(words, "On-chip memory remaining for caching model parameters"),
        streamed=_bytes(words, "Off-chip memory used for streaming uncached model parameters"),
        subgraphs=_count(words, "Number of Edge TPU subgraphs"),
        operators=tuple(counts.values()),
    )


def _fold(row: OperatorCount) -> tuple[str, str]:
    return row.operator, row.status


def _bytes(words: str, name: str) -> int:
    found = re.search(rf"^{re.escape(name)}: {_SIZE}$", words, re.MULTILINE)
    if found is None:
        raise BuildError(STAGE, f"the compiler's output does not say {name!r}: {_end(words)}")
    return round(float(found[1]) * _UNITS[found[2]])


def _count(words: str, name: str) -> int:
    found = re.search(rf"^{re.escape(name)}: (\d{{1,6}})$", words, re.MULTILINE)
    if found is None:
        raise BuildError(STAGE, f"the compiler's output does not say {name!r}: {_end(words)}")
    return int(found[1])


def _run(command: list[str], folder: Path, deadline_s: float) -> tuple[int, str]:
    """Exit status and output, as much of it as anybody would read."""
    with tempfile.TemporaryFile() as output:
        try:
            done = subprocess.run(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=deadline_s
            )
        except subprocess.TimeoutExpired:
            raise BuildError(
                STAGE, f"the compiler did not end within {deadline_s:g} s: {_end(_words(output))}"
            ) from None
        except OSError as error:
            raise BuildError(STAGE, f"the compiler cannot be run: {error.strerror}") from error
        return done.returncode, _words(output)


def _words(file: IO[bytes]) -> str:
    """The beginning of a file as printable text."""
    file.seek(0)
    text = file.read(MAX_LOG_BYTES).decode("utf-8", errors="replace")
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text.replace("\r", "\n"))


def _end(words: str) -> str:
    return words.strip()[-4000:] or "it says nothing"
