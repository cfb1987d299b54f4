"""`hwnas doctor`: is what hwnas needs here, in a version that works, and what to do if not."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from hwnas.cli.render import print_json, print_table
from hwnas.errors import EXIT_NO, HwnasError


def _package(name: str) -> Callable[[], str]:
    def check() -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            raise HwnasError(f"not installed; pip install {name}") from None

    return check


def _tvm() -> str:
    from hwnas.toolchains.tvm import TvmToolchain, check_versions

    check_versions()
    return TvmToolchain().version()


def _linker() -> str:
    found = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if found is None:
        raise HwnasError("none; TVM links with one: apt-get install g++")
    return found


def _python() -> str:
    return platform.python_version()


def _load() -> str:
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > 0.5 * cores:
        raise HwnasError(f"load {load:.1f} on {cores} cores: measurements will be disturbed; stop other work first")
    return f"load {load:.1f} on {cores} cores"


CHECKS: tuple[tuple[str, bool, Callable[[], str]], ...] = (
    ("python", True, _python),
    ("torch", True, _package("torch")),
    ("onnx", True, _package("onnx")),
    ("onnxruntime", True, _package("onnxruntime")),
    ("tvm", True, _tvm),
    ("linker", True, _linker),
    ("xgboost", True, _package("xgboost")),
    ("pyarrow", False, _package("pyarrow")),
    ("quiet machine", False, _load),
)
"""Name, whether it is needed, and what finds its version."""


def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check the installation; exit code 1 if something that is needed is missing."""
    rows: list[tuple[str, str, str]] = []
    for name, needed, check in CHECKS:
        try:
            rows.append((name, "ok", check()))
        except HwnasError as error:
            rows.append((name, "MISSING" if needed else "note", str(error)))
    if json:
        print_json([{"check": n, "state": s, "found": f} for n, s, f in rows])
    else:
        print_table("", ("check", "state", "found"), rows)
    if any(state == "MISSING" for _, state, _ in rows):
        raise typer.Exit(EXIT_NO)
