"""What the core takes of an FPGA, as yosys maps it: run once for an array and a family, then found by content.

Counts are of synthesis, before placement. The standard sizes stand in firmware/fpga/resources.json, for the Verilog as
it is, so that yosys is needed for other sizes only.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, get_args

from hwnas.config import cache_folder, data_folder
from hwnas.digest import content_id, digest_bytes
from hwnas.errors import BuildError, ConfigError, DataError
from hwnas.firmware.fpga.array import Array
from hwnas.firmware.fpga.build import TOP, alone, run_tool, verilog_sources

Family = Literal["xilinx", "ecp5"]
PACKAGES: Final = "yosys"
PLACER: Final = "nextpnr-ecp5"
TIMEOUT_S: Final = 1800.0
STANDARD: Final = tuple(Array(rows, columns) for rows in (4, 8, 16) for columns in (4, 8, 16))
"""The arrays whose counts are shipped."""
_SYNTHESIS: Final[Mapping[str, str]] = {
    "xilinx": "synth_xilinx -family xc7 -noiopad -noclkbuf",
    "ecp5": "synth_ecp5 -noflatten",
}
_LUTS: Final[Mapping[str, int]] = {
    "RAM32M": 4, "RAM64M": 4, "RAM64X1D": 2, "RAM128X1D": 4, "SRL16E": 1, "SRLC32E": 1, "INV": 1,
    "CCU2C": 2, "TRELLIS_DPR16X4": 6,
}  # fmt: skip
"""Cells that take lookup tables besides LUT1 to LUT6: memories and shift registers (UG474), carries and distributed
RAM (three slices; FPGA-DS-02012). Inverters of 7-series are counted as tables, though a placer may absorb them."""
_FREQUENCY = re.compile(r"Max frequency for clock\s+'[^']*':\s+([\d.]+) MHz")


@dataclass(frozen=True, slots=True)
class Resources:
    """Lookup tables, flip-flops, multipliers (DSP48E1 | MULT18X18D) and block RAMs (of 36 Kbit | 18 Kbit)."""

    lut: int
    ff: int
    dsp: int
    bram: int


def resources(array: Array, family: Family) -> Resources:
    """What an array takes. Raises ConfigError for an unknown family, BuildError where yosys is needed and missing."""
    if family not in get_args(Family):
        raise ConfigError("no such family", key="family", given=family, allowed=get_args(Family))
    known = _shipped().get(_name(array, family))
    return counted(known if known is not None else _kept(array, family))


def counted(cells: Mapping[str, int]) -> Resources:
    """Resources from a netlist's cells by kind."""
    tables = sum(n for kind, n in cells.items() if re.fullmatch(r"LUT\d", kind))
    return Resources(
        lut=tables + sum(n * _LUTS[kind] for kind, n in cells.items() if kind in _LUTS),
        ff=sum(n for kind, n in cells.items() if re.fullmatch(r"FD[RSCP]E|TRELLIS_FF", kind)),
        dsp=cells.get("DSP48E1", 0) + cells.get("MULT18X18D", 0),
        bram=cells.get("RAMB36E1", 0) + math.ceil(cells.get("RAMB18E1", 0) / 2) + cells.get("DP16KD", 0),
    )


def synthesise(array: Array, family: Family) -> dict[str, int]:
    """The cells of an array by kind, as yosys maps it now. Raises BuildError, also where yosys is not installed."""
    with tempfile.TemporaryDirectory() as folder:
        _yosys(array, _SYNTHESIS[family], "flatten; tee -q -o cells.json stat -json", Path(folder))
        try:
            stat: dict[str, Any] = json.loads((Path(folder) / "cells.json").read_text())
            return {str(kind): int(n) for kind, n in sorted(stat["design"]["num_cells_by_type"].items())}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BuildError("synthesis", f"yosys left no counts of cells ({error})") from error


def frequency_hz(array: Array, seed: int = 1) -> float:
    """The clock that nextpnr-ecp5 reaches after placing and routing on an LFE5U-85F, speed grade 6 (Hz).

    The core is placed alone, without pins. Raises BuildError where yosys or nextpnr-ecp5 is not installed or fails.
    """
    if shutil.which(PLACER) is None:
        raise BuildError("place", f"{PLACER} is not installed: https://github.com/YosysHQ/nextpnr")
    with tempfile.TemporaryDirectory() as folder:
        # flat only after synthesis: a flat array's flags are equal along its diagonals, and would be merged across it
        _yosys(array, _SYNTHESIS["ecp5"], "flatten; write_json core.json", Path(folder))
        command = [PLACER, "--85k", "--speed", "6", "--out-of-context", "--json", "core.json", "--seed", str(seed),
                   "--freq", "150", "--timing-allow-fail", "--log", "place.log"]  # fmt: skip
        run_tool("place", command, PLACER, TIMEOUT_S, Path(folder))
        found = _FREQUENCY.findall((Path(folder) / "place.log").read_text(errors="replace"))
    if not found:
        raise BuildError("place", f"{PLACER} names no frequency")
    return float(found[-1]) * 1e6


def write_shipped(arrays: Sequence[Array] = STANDARD) -> None:
    """Count the cells of arrays anew, in every family, and write firmware/fpga/resources.json. Raises BuildError."""
    cells = {_name(array, family): synthesise(array, family) for array in arrays for family in get_args(Family)}
    content = {"tool": yosys_version(), "sources": sources_digest(), "cells": cells}
    shipped_file().write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def shipped_file() -> Path:
    """Where the counts of the standard sizes are."""
    return data_folder("firmware") / "fpga" / "resources.json"


@cache
def sources_digest() -> str:
    """A digest of the core's Verilog."""
    return content_id([[path.name, digest_bytes(path.read_bytes())] for path in verilog_sources()])


@cache
def yosys_version() -> str:
    """What yosys says of itself. Raises BuildError where it is not installed."""
    return run_tool("synthesis", ["yosys", "-V"], PACKAGES, 60.0).strip()


def _name(array: Array, family: Family) -> str:
    return f"{family} " + " ".join(f"{name.lower()}={value}" for name, value in array.parameters.items())


@cache
def _shipped() -> dict[str, dict[str, int]]:
    """Name -> cells of what is shipped; empty where the Verilog is not that which was counted."""
    path = shipped_file()
    try:
        content = json.loads(path.read_bytes())
        if content["sources"] != sources_digest():
            return {}
        return {name: {str(k): int(n) for k, n in cells.items()} for name, cells in content["cells"].items()}
    except OSError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"is not a count of resources ({error})", path=path) from error


def _kept(array: Array, family: Family) -> dict[str, int]:
    key = content_id([sources_digest(), yosys_version(), _SYNTHESIS[family], _name(array, family)])
    path = cache_folder() / "fpga" / f"cells-{key}.json"
    with alone(path):
        if path.is_file():
            try:
                return {str(kind): int(n) for kind, n in json.loads(path.read_bytes()).items()}
            except (ValueError, AttributeError, TypeError):
                path.unlink()  # torn: it is made again
        cells = synthesise(array, family)
        path.write_text(json.dumps(cells, sort_keys=True))
    return cells


def _yosys(array: Array, synthesis: str, then: str, folder: Path) -> None:
    parameters = " ".join(f"-set {name} {value}" for name, value in array.parameters.items())
    sources = " ".join(f'"{path}"' for path in verilog_sources())
    script = f"read_verilog {sources}\nchparam {parameters} {TOP}\n{synthesis} -top {TOP}\n"
    (folder / "core.ys").write_text(script + "\n".join(then.split("; ")) + "\n")
    run_tool("synthesis", ["yosys", "-q", "core.ys"], PACKAGES, TIMEOUT_S, folder)
