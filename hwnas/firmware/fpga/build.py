"""The program that simulates the core for one array, made by Verilator and a C++ compiler once and then kept."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from hwnas.config import cache_folder, data_folder
from hwnas.digest import content_id, digest_bytes
from hwnas.errors import BuildError
from hwnas.firmware.fpga.array import Array

TOP = "hwnas_core"
PACKAGES = "verilator g++ make"
BUILD_TIMEOUT_S = 900.0
_PROGRAM = "simulate"
_VERILATOR = ("--cc", "--exe", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "--threads", "1")
_COMPILER = "-std=c++17"
# Generated C++ runs no faster with -O2 (0.2 M cycles/s of 16x16 either way); what runs once is not worth optimising.
_OPTIMISATION = ("OPT_FAST=-O1", "OPT_SLOW=-O0", "OPT_GLOBAL=-O0")


def verilog_sources() -> list[Path]:
    """The Verilog of the core."""
    return sorted((data_folder("firmware") / "fpga" / "rtl").glob("*.v"))


def run_tool(stage: str, command: Sequence[str], packages: str, timeout_s: float, folder: Path | None = None) -> str:
    """Run a program and return what it printed. Raises BuildError, naming the packages where it is not installed."""
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=timeout_s, env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except FileNotFoundError:
        raise BuildError(stage, f"{command[0]} is not installed: apt-get install {packages}") from None
    except OSError as error:
        raise BuildError(stage, f"{command[0]} cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise BuildError(stage, f"{command[0]} did not end within {timeout_s:g} s") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-4000:]
        raise BuildError(stage, said or f"{command[0]} ended with status {done.returncode}")
    return done.stdout


@cache
def verilator_version() -> str:
    """What Verilator says of itself. Raises BuildError where it is not installed."""
    return run_tool("verilate", ["verilator", "--version"], PACKAGES, 60.0).strip()


def simulator(array: Array) -> Path:
    """The program that simulates an array: built once, then found by the content of all it is made of.

    Raises BuildError with the tool's log, or naming what to install.
    """
    harness = sorted((data_folder("firmware") / "fpga" / "harness").iterdir())
    content = [[path.name, digest_bytes(path.read_bytes())] for path in (*verilog_sources(), *harness)]
    compiler = run_tool("compile", ["g++", "--version"], PACKAGES, 60.0).splitlines()[0]
    key = content_id([content, verilator_version(), compiler, _VERILATOR, _COMPILER, _OPTIMISATION, array.parameters])
    program = cache_folder() / "fpga" / f"{_PROGRAM}-{key}"
    if not program.is_file():
        with alone(program):
            if not program.is_file():
                _build(array, harness, program)
    return program


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Make a kept file while no other process does: it takes up to a minute, and nobody should do it twice.

    Raises BuildError where the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f"{path.name}.lock").open("w")
    except OSError as error:
        raise BuildError(
            "cache", f"{path.parent} cannot be written ({error.strerror}); name another folder in HWNAS_CACHE"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(array: Array, harness: Sequence[Path], program: Path) -> None:
    main = [str(path) for path in harness if path.suffix == ".cpp"]
    with tempfile.TemporaryDirectory(dir=program.parent) as made:
        parameters = [f"-G{name}={value}" for name, value in array.parameters.items()]
        flags = f"{_COMPILER} -I{harness[0].parent} -DROWS={array.rows} -DCOLUMNS={array.columns}"
        run_tool(
            "verilate",
            ["verilator", *_VERILATOR, *parameters, "-CFLAGS", flags, "--top-module", TOP, "--Mdir", made,
             "-o", _PROGRAM, *map(str, verilog_sources()), *main],
            PACKAGES, BUILD_TIMEOUT_S,
        )  # fmt: skip
        run_tool(
            "compile", ["make", "-j", str(os.cpu_count() or 1), "-C", made, "-f", f"V{TOP}.mk", _PROGRAM, *_OPTIMISATION],
            PACKAGES, BUILD_TIMEOUT_S,
        )  # fmt: skip
        built = Path(made) / _PROGRAM
        shutil.copy2(built, Path(made) / "whole")
        (Path(made) / "whole").rename(program)
