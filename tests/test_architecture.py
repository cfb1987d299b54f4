"""The shape of the package: light to import, small modules, heavy libraries behind their adapters, sound data."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hwnas
from hwnas import config

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "hwnas").rglob("*.py"))
HEAVY = ("torch", "tvm", "xgboost", "onnx", "onnxruntime", "sklearn", "pandas", "pint")
MAX_LINES = 400
MAX_FILE_BYTES = 1_000_000
MAX_IMPORT_S = 0.150

SCHEDULES = {str(m.relative_to(ROOT / "hwnas")) for m in (ROOT / "hwnas" / "toolchains" / "schedules").glob("*.py")}

ADAPTERS = {
    # TVM is compiled with in the toolchains, and runs compiled code in the worker of the local runner.
    "tvm": {
        "toolchains/tvm.py",
        "toolchains/tvm_cuda.py",
        *SCHEDULES,
        "runners/worker.py",
        *(f"runners/tvm_rpc/{part}.py" for part in ("client", "tracker", "agent/__main__", "agent/network")),
        *(f"runners/tvm_rpc/agent/{part}.py" for part in ("server", "session")),
        *(f"toolchains/partition/{part}.py" for part in ("lowering", "merging")),
        *(f"toolchains/cgen/{part}.py" for part in ("emit", "floating", "integer", "layouts", "lowering", "schedule")),
    },
    "tvm_ffi": {"toolchains/tvm.py", *SCHEDULES, "runners/tvm_rpc/agent/session.py"},
    # One adapter fits trees; the accuracy predictor also ranks, which the adapter does not offer.
    "xgboost": {"predictors/xgb.py", "accuracy/predictor.py"},
    # A session is opened in one place; quantising is onnxruntime's own tool; the toolchain asks for its version.
    "onnxruntime": {"graph/session.py", "graph/quantize.py", "toolchains/ort.py"},
    "serial": {"runners/links.py", "meters/lpm01a.py"},
    "pandas": set(),
}
"""Library -> the modules that may import it."""


def imported(module: Path) -> set[str]:
    """The top-level packages that a module imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if listed.returncode:  # a source archive has no history; there every file counts
        return [p for p in ROOT.rglob("*") if p.is_file() and not {".venv", ".git"} & set(p.parts)]
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_importing_loads_nothing_heavy() -> None:
    code = f"import sys, hwnas; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.timing
def test_importing_is_quick() -> None:
    code = "import time; t = time.perf_counter(); import hwnas; print(time.perf_counter() - t)"
    taken = [float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
             for _ in range(5)]  # fmt: skip
    assert min(taken) < MAX_IMPORT_S


def test_every_public_name_is_there() -> None:
    for name in hwnas.__all__:
        assert getattr(hwnas, name) is not None
    assert set(hwnas.__all__) < set(dir(hwnas))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = hwnas.nonsense


def test_search_stays_a_function_after_its_package_was_imported() -> None:
    code = "import hwnas.search.loop, hwnas; hwnas.search.loop.run_search; print(callable(hwnas.search))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(ROOT)))
def test_a_module_is_small(module: Path) -> None:
    assert len(module.read_text().splitlines()) < MAX_LINES


@pytest.mark.parametrize("library", ADAPTERS)
def test_a_heavy_library_is_imported_in_its_adapters_only(library: str) -> None:
    users = {str(m.relative_to(ROOT / "hwnas")) for m in MODULES if library in imported(m)}
    assert users <= ADAPTERS[library]


def test_the_scan_sees_imports_inside_functions(tmp_path: Path) -> None:
    module = tmp_path / "m.py"
    module.write_text("def f():\n    import tvm.relax as r\n    from xgboost.core import Booster\n")
    assert imported(module) == {"tvm", "xgboost"}


def test_every_shipped_device_loads_and_passes_its_check() -> None:
    assert config.device_files()
    for name, path in config.device_files().items():
        assert config.load_device(path).name == name
    done = subprocess.run(
        [sys.executable, "-m", "hwnas.cli.main", "devices", "check"], capture_output=True, text=True,
        env={k: v for k, v in os.environ.items() if k != "HWNAS_DEVICES"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ok ") == len(config.device_files())


def test_no_file_of_the_repository_is_large() -> None:
    large = [str(p) for p in tracked() if p.is_file() and p.stat().st_size > MAX_FILE_BYTES]
    assert not large
