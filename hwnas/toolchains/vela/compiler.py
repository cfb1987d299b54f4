"""Vela itself: in this process through its native module, or by its command line where that module has changed.

The native module is no documented interface, so the version is pinned; both ways give the same cycles. Cycles are
Arm's estimates from a model of the NPU, not a measurement.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hwnas.core.price import Layer
from hwnas.errors import BuildError
from hwnas.toolchains.vela.settings import VelaSettings

PACKAGE = "ethos-u-vela"
INSTALL = 'Vela is not installed: pip install "hwnas[npu]"'
MEMORIES: Mapping[str, str] = {"Sram": "sram", "Dram": "dram", "OnChipFlash": "flash", "OffChipFlash": "flash"}
"""What memories of Vela are called in the energy rule of a device."""
DEADLINE_S = 240.0


@dataclass(frozen=True, slots=True)
class Compiled:
    """What Vela made of one file, and what it estimates.

    cycles: of one run, those of operators left to the CPU not among them; cpu_operators: how many were left; macs: of
    one run; traffic: bytes read and written by memory; sram_bytes: the fullest moment of the memory that Vela fills;
    layers: one for each operator of the file in order, fused ones with cost 0.
    """

    data: bytes
    cycles: float
    cpu_operators: int
    macs: float
    traffic: Mapping[str, float]
    sram_bytes: int
    layers: tuple[Layer, ...]


def vela_version() -> str:
    """Vela's version. Raises BuildError that says what to install."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        raise BuildError("vela", INSTALL) from None


def compile_tflite(data: bytes, settings: VelaSettings) -> Compiled:
    """Compile an int8 TFLite file. Raises BuildError with Vela's own words where it refuses.

    A file that is not sound TFLite may end the process: builds run in child processes for that reason.
    """
    vela_version()
    try:
        from ethosu import regor

        compile_ = regor.compile
    except (ImportError, AttributeError):
        return compile_by_command(data, settings)
    system, options = system_text(settings), compiler_text(settings)
    try:
        found = compile_(settings.family, data, "TFLITE", system, options=options, verbose=False)
    except (RuntimeError, ValueError) as error:
        raise BuildError("vela", f"Vela refuses the network: {error}") from error
    return _read(found)


def system_text(settings: VelaSettings) -> str:
    """The system configuration as Vela's native module reads it: its own vela.ini behind our choice."""
    from ethosu import regor

    shipped = (Path(regor.__file__).parent / "config_files" / "Arm" / "vela.ini").read_text()
    for section, name in (("System_Config", settings.system_config), ("Memory_Mode", settings.memory_mode)):
        if f"[{section}.{name}]" not in shipped:
            known = [line[len(section) + 2 : -1] for line in shipped.splitlines() if line.startswith(f"[{section}.")]
            raise BuildError("vela", f"vela.ini has no {section} {name!r}; it has {', '.join(known)}")
    return (
        f"[architecture]\nmacs={settings.macs}\ncores={settings.cores}\n"
        f"[vela]\nsystem_config_name={settings.system_config}\nmemory_mode_name={settings.memory_mode}\n{shipped}"
    )


def compiler_text(settings: VelaSettings) -> str:
    """The compiler's options as Vela's native module reads them, those of its command line's defaults."""
    return (
        "[compiler]\nenable_db=true\noutput_format=TFLite\ncop_format=COP1\n"
        f"[scheduler]\noptimize={settings.optimise}\narena_size_limit={int(settings.sram)}\n"
        "cpu_tensor_alignment=16\ntensor_allocator=HillClimb\n"
    )


def _read(found: Any) -> Compiled:
    """The report of the native module. Raises BuildError where it is not the one of the pinned version."""
    try:
        report = found.perf_report
        traffic = dict.fromkeys(MEMORIES.values(), 0.0)
        for name, memory in report.memories.items():
            if name in MEMORIES:
                moved = sum(access.bytesRead + access.bytesWritten for access in memory.accesses.values())
                traffic[MEMORIES[name]] += float(moved)
        table = found.opt_database.tables["perf"]
        return Compiled(
            data=bytes(found.model),
            cycles=float(report.totalCycles),
            cpu_operators=int(report.cpuOps),
            macs=float(report.macCount),
            traffic={name: moved for name, moved in traffic.items() if moved},
            sram_bytes=int(report.memories["Sram"].peakUsage) if "Sram" in report.memories else 0,  # nothing on the NPU
            layers=tuple(_layer(dict(zip(table.header, row))) for row in table.data),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BuildError(
            "vela", f"Vela {vela_version()} reports in another way than {PACKAGE} 5.2: {error!r}"
        ) from error


def _layer(row: Mapping[str, str]) -> Layer:
    return Layer(
        name=row["name"],
        op=row["operator"],
        where="accelerator",
        cost=float(row["op_cycles"]),
        macs=float(row["mac_count"]),
    )


def compile_by_command(data: bytes, settings: VelaSettings, deadline_s: float = DEADLINE_S) -> Compiled:
    """The same through Vela's command line, a second or two slower. Raises BuildError."""
    with tempfile.TemporaryDirectory(prefix="hwnas-vela-") as scratch:
        folder = Path(scratch)
        (folder / "network.tflite").write_bytes(data)
        command = [
            sys.executable, "-m", "ethosu.vela", "network.tflite", "--output-dir", "out", "--config", "Arm/vela.ini",
            "--accelerator-config", settings.accelerator, "--system-config", settings.system_config,
            "--memory-mode", settings.memory_mode, "--arena-cache-size", str(int(settings.sram)),
            "--optimise", settings.optimise, "--verbose-performance",
        ]  # fmt: skip
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=deadline_s)
        except subprocess.TimeoutExpired:
            raise BuildError("vela", f"Vela did not end within {deadline_s:g} s") from None
        compiled = folder / "out" / "network_vela.tflite"
        if done.returncode or not compiled.is_file():
            raise BuildError("vela", f"Vela refuses the network: {(done.stderr or done.stdout)[-4000:]}")
        try:
            [summary] = _csv(next((folder / "out").glob("network_summary_*.csv")))
            layers = _csv(folder / "out" / "network_per-layer.csv")
            return _read_csv(compiled.read_bytes(), summary, layers)
        except (KeyError, ValueError, StopIteration, OSError) as error:
            raise BuildError(
                "vela", f"Vela {vela_version()} reports in another way than {PACKAGE} 5.2: {error!r}"
            ) from error


def _read_csv(data: bytes, summary: Mapping[str, str], layers: Sequence[Mapping[str, str]]) -> Compiled:
    kinds = ("sram", "dram", "on_chip_flash", "off_chip_flash")
    moved = {kind: float(summary[f"{kind}_total_bytes"]) for kind in kinds}
    traffic = {"sram": moved["sram"], "dram": moved["dram"], "flash": moved["on_chip_flash"] + moved["off_chip_flash"]}
    rows = [
        Layer(
            name=row["Name"],
            op=row["NNG Operator"],
            where="accelerator" if row["Target"] == "NPU" else "cpu",
            cost=float(row["Op Cycles"]),
            macs=float(row["MAC Count"]),
        )
        for row in layers
    ]
    return Compiled(
        data=data,
        cycles=float(summary["cycles_total"]),
        cpu_operators=sum(row.where == "cpu" for row in rows),
        macs=float(summary["nn_macs"]),
        traffic={name: n for name, n in traffic.items() if n},
        sram_bytes=round(float(summary["sram_memory_used"]) * 1024),
        layers=tuple(rows),
    )


def _csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
