"""`hwnas doctor`: is what hwnas needs here, in a version that works, and what to do if not."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from hwnas import config
from hwnas.cli.render import print_json, print_table
from hwnas.errors import EXIT_NO, HwnasError, nearest


def _package(name: str, install: str | None = None) -> Callable[[], str]:
    def check() -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            raise HwnasError(f"not installed; pip install {install or name}") from None

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


def _program(name: str, package: str, what: str) -> Callable[[], str]:
    def check() -> str:
        found = shutil.which(name)
        if found is None:
            raise HwnasError(f"none; {what}: apt-get install {package}")
        return found

    return check


def _edgetpu() -> str:
    found = shutil.which("edgetpu_compiler")
    if found is None:
        raise HwnasError("none; Google's closed compiler for Coral, from its own apt repository; a model stands in")
    return found


def _lab() -> str:
    lab = config.load_lab()
    path = config.lab_file()
    if not path.exists():
        return f"no {path}: emulated boards and this computer only"
    if unknown := config.unknown_devices(lab):
        close = nearest(unknown[0], config.device_files())
        hint = f"; did you mean {' or '.join(close)}?" if close else "; point HWNAS_DEVICES at the folder of its file"
        raise HwnasError(f"{path} names a device {unknown[0]!r} that no file describes{hint}")
    serial, linux = len(lab.boards), sum(r.boards for r in lab.rpc)
    return f"{path}: {serial} boards on serial lines, {linux} behind trackers, {len(lab.meters)} meters"


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
    (
        "arm-none-eabi-gcc",
        False,
        _program("arm-none-eabi-gcc", "gcc-arm-none-eabi libnewlib-arm-none-eabi", "Cortex-M boards"),
    ),
    ("qemu-system-arm", False, _program("qemu-system-arm", "qemu-system-arm", "emulated Cortex-M boards")),
    (
        "aarch64-linux-gnu-gcc",
        False,
        _program("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu g++-aarch64-linux-gnu", "Raspberry Pi and Jetson"),
    ),
    ("qemu-aarch64", False, _program("qemu-aarch64", "qemu-user", "the emulated Raspberry Pi")),
    ("nvcc", False, _program("nvcc", "nvidia-cuda-toolkit", "device code for Jetson")),
    ("vela", False, _package("ethos-u-vela", "'hwnas[npu]'")),
    ("litert", False, _package("ai-edge-litert", "'hwnas[npu]'")),
    ("zigzag", False, _package("zigzag-dse", "'hwnas[zigzag]'")),
    ("verilator", False, _program("verilator", "verilator g++ make", "outputs of the FPGA core")),
    ("yosys", False, _program("yosys", "yosys", "resources of FPGA arrays of unusual size")),
    ("edgetpu_compiler", False, _edgetpu),
    ("lab", False, _lab),
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
