"""What the core takes of an FPGA: the shipped counts are those that yosys gives, and say when they are stale."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwnas.errors import BuildError, ConfigError, DataError
from hwnas.firmware.fpga import synthesis
from hwnas.firmware.fpga.array import Array
from hwnas.firmware.fpga.synthesis import STANDARD, Family, Resources, counted, resources

SMALL = Array(4, 4)
UNUSUAL = Array(2, 3, steps=16, words=16, tiles=2)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and nothing remembered."""
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path))
    synthesis._shipped.cache_clear()
    synthesis.yosys_version.cache_clear()
    return tmp_path


@pytest.mark.parametrize("family", ["xilinx", "ecp5"])
def test_shipped_counts_are_what_yosys_gives(family: Family) -> None:
    content = json.loads(synthesis.shipped_file().read_bytes())
    assert content["sources"] == synthesis.sources_digest(), "the Verilog changed: tests/bench/bench_fpga.py --write"
    cells, shipped = synthesis.synthesise(SMALL, family), content["cells"][synthesis._name(SMALL, family)]
    if content["tool"] == synthesis.yosys_version():
        assert cells == shipped
    for kind, share in (
        ("lut", 0.2),
        ("ff", 0.2),
        ("bram", 0.2),
        ("dsp", 0.0),
    ):  # another yosys counts a bit differently
        assert getattr(counted(cells), kind) == pytest.approx(getattr(counted(shipped), kind), rel=share)
    # a multiplier in each cell, four in each column's requantisation
    assert counted(cells).dsp == 4 * 4 + 4 * 4


def test_standard_sizes_need_no_yosys(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(fresh))
    for array in STANDARD:
        for family in ("xilinx", "ecp5"):
            found = resources(array, family)
            assert found.dsp == array.rows * array.columns + 4 * array.columns
            assert min(found.lut, found.ff, found.bram) > 0
    with pytest.raises(BuildError, match="yosys is not installed: apt-get install yosys") as caught:
        resources(UNUSUAL, "xilinx")
    assert caught.value.exit_code == 4


def test_other_sizes_are_synthesised_once(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = resources(UNUSUAL, "ecp5")
    assert found.dsp == 2 * 3 + 4 * 3
    monkeypatch.setattr(synthesis, "synthesise", lambda *_: pytest.fail("was kept"))
    assert resources(UNUSUAL, "ecp5") == found
    [kept] = (fresh / "fpga").glob("cells-*.json")
    kept.write_text("{torn")
    monkeypatch.setattr(synthesis, "synthesise", lambda *_: {"LUT4": 3, "TRELLIS_FF": 2, "DP16KD": 1})
    assert resources(UNUSUAL, "ecp5") == Resources(3, 2, 0, 1)


def test_counts_of_other_verilog_are_not_used(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = fresh / "resources.json"
    stale.write_text(json.dumps({"tool": "Yosys", "sources": "0" * 20, "cells": {}}))
    monkeypatch.setattr(synthesis, "shipped_file", lambda: stale)
    monkeypatch.setattr(synthesis, "synthesise", lambda *_: {"DSP48E1": 7})
    assert resources(SMALL, "xilinx").dsp == 7
    synthesis._shipped.cache_clear()
    stale.write_text("[]")
    with pytest.raises(DataError, match="is not a count of resources"):
        resources(SMALL, "xilinx")
    synthesis._shipped.cache_clear()


def test_a_family_that_nobody_maps_to_is_named() -> None:
    with pytest.raises(ConfigError, match="family: no such family .*ecp5"):
        resources(SMALL, "ecp6")  # type: ignore[arg-type]


def test_cells_become_counts() -> None:
    cells = {
        "LUT2": 3,
        "LUT6": 1,
        "RAM64M": 2,
        "CCU2C": 1,
        "FDRE": 5,
        "FDSE": 1,
        "RAMB18E1": 3,
        "RAMB36E1": 2,
        "CARRY4": 9,
    }
    assert counted(cells) == Resources(lut=3 + 1 + 8 + 2, ff=6, dsp=0, bram=4)


def test_a_missing_placer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="nextpnr-ecp5 is not installed"):
        synthesis.frequency_hz(SMALL)
