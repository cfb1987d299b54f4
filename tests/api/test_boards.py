"""Whole runs on emulated boards: searched under budgets in counts and bytes, deployed, and computed on the device."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hwnas import api, registry
from hwnas.deploy.bundle import INT8, read_manifest
from hwnas.report.record import RunRecord
from hwnas.runners import rootfs
from hwnas.tables.table import LatencyTable
from tests.api.small_run import hwnas

ROOT = Path(__file__).resolve().parents[2]
MNIST: dict[str, Any] = {
    "schema": 1,
    "space": {"use": "mbconv-micro"},
    "data": {"use": "mnist-5k"},
    "accuracy": {"queries": 4, "plan": {"epochs": 2}},
    "search": {"use": "guided", "trials": 400, "device_measurements": 4},
    "verify": {"top": 2, "seeds": 1, "readings": 5, "spacing": "0 s"},
}


@pytest.fixture(scope="session")
def arm64() -> rootfs.Root:
    """The root file system of the emulated Raspberry Pi; built when it is missing, which takes a minute."""
    return rootfs.build(print)


def searched(folder: Path, **settings: Any) -> Path:
    """The folder of a run on a copy of the committed table; where emulator or compiler are others, it is measured."""
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**MNIST, **settings}))
    tables, device = folder / "tables", api.load_device(settings["device"])
    recipe = LatencyTable.read(next((ROOT / "latency_tables" / device.name).glob("*.jsonl"))).recipe
    board = registry.runners.load(device.runner)().open(device)
    same = board.facts()["machine"] == recipe.machine
    board.close()
    toolchain = api.load_toolchain(recipe.toolchain, device)
    if same and toolchain.version() == recipe.toolchain_version:
        shutil.copytree(ROOT / "latency_tables" / device.name, tables / device.name)
    done = hwnas("search", path, "--out", folder / "run", "--table", tables)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_a_search_for_a_cortex_m7_in_int8(tmp_path: Path) -> None:
    budget = {"instructions": "4 M", "flash": "96 KiB", "ram": "16 KiB"}
    run = searched(tmp_path, device="cortex-m7-qemu", precision="int8", budget=budget)
    agreed = json.loads((run / "agreement.json").read_text())
    assert agreed["inputs"] == agreed["identical"] == 200  # bit by bit
    assert agreed["device_accuracy"] == agreed["host_accuracy"]
    record = RunRecord.read(run / "record.json")
    best = record.winner
    assert best is not None
    assert best.meets_budget
    assert best.estimate["flash"][0] == pytest.approx(best.measured["flash"], rel=0.02)
    assert best.estimate["ram"][0] == pytest.approx(best.measured["ram"], rel=0.02)
    told = best.value("instructions")
    assert told is not None
    assert best.estimate["instructions"][0] == pytest.approx(told, rel=0.05)
    assert "latency" not in {*best.readings, *best.measured, *best.estimate}  # an emulator knows no time
    promise = read_manifest(run / "bundle").promise
    assert (promise.metric, promise.precision, promise.fidelity) == ("instructions", "int8", "instruction-sim")
    assert "qemu" in promise.machine
    assert {p.name for p in (run / "bundle" / "c").iterdir()} >= {"network.c", "hwnas_network.h", "main.c", "Makefile"}
    assert (run / "bundle" / INT8).exists()
    script = subprocess.run(
        [sys.executable, "run_onnx.py"], cwd=run / "bundle", capture_output=True, text=True, check=True
    )
    assert "largest difference from the expected output: 0.0\n" in script.stdout
    done = hwnas("verify", run / "bundle", "--json")
    assert done.returncode == 0, done.stdout
    checks = {c["name"]: c for c in json.loads(done.stdout)}
    assert checks["outputs on the device"]["found"].startswith("200 of 200 identical")


def test_a_search_for_an_emulated_raspberry_pi(tmp_path: Path, arm64: rootfs.Root) -> None:
    run = searched(tmp_path, device="rpi4b-qemu", budget={"instructions": "4 M"})
    agreed = json.loads((run / "agreement.json").read_text())
    assert agreed["inputs"] == 200
    assert agreed["difference"] <= 1e-5
    assert agreed["device_accuracy"] == agreed["host_accuracy"]
    record = RunRecord.read(run / "record.json")
    best = record.winner
    assert best is not None
    told = best.value("instructions")
    assert told is not None
    assert best.estimate["instructions"][0] == pytest.approx(told, rel=0.05)
    readings = best.readings["instructions"]
    assert max(readings) / min(readings) - 1 <= 0.001
    assert "latency" not in {*best.readings, *best.measured}
