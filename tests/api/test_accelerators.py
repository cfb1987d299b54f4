"""A whole run on an accelerator, from profile to bundle: budget in what its YAML derives, all of it said to be simulated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from hwnas.api import load_device
from hwnas.api.recheck import verify_run
from hwnas.api.run import Run
from hwnas.api.settings import RunSettings
from hwnas.errors import DeviceUnavailable
from hwnas.graph.builder import GraphBuilder
from hwnas.graph.precision import cast
from hwnas.report.html import write_report
from hwnas.report.record import RunRecord
from tests.api.small_run import hwnas, settings

BUDGETS: dict[str, dict[str, Any]] = {
    "ethos-u55-128": {"latency": "1 ms", "energy": "20 uJ", "sram": "64 KiB"},
    "coral-edgetpu": {"latency": "50 ms", "energy": "100 mJ", "sram": "8 MiB"},
    "fpga-systolic-16x16": {"latency": "50 ms", "energy": "50 mJ", "dsp": 2000},
}
CHAINS = {"ethos-u55-128": "vela", "coral-edgetpu": "edgetpu", "fpga-systolic-16x16": "fpga"}


@pytest.mark.parametrize("device", sorted(BUDGETS))
def test_a_network_is_found_verified_and_exported(device: str, tmp_path: Path) -> None:
    path, folder = tmp_path / "run.yaml", tmp_path / "run"
    wanted = settings(device=device, toolchain="auto", precision="int8", budget=BUDGETS[device])
    path.write_text(yaml.safe_dump(wanted))
    done = hwnas("search", path, "--out", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    for metric in BUDGETS[device]:
        assert metric in done.stdout.lower(), done.stdout
    record = RunRecord.read(folder / "record.json")
    winner = next(f for f in record.finalists if f.winner)
    assert winner.meets_budget and {*BUDGETS[device]} <= {*winner.measured, *winner.readings}
    assert record.breakdown is not None and record.breakdown.parts["accelerator"] > 0
    chain = CHAINS[device]
    manifest = json.loads((folder / "bundle" / "manifest.json").read_text())
    assert manifest["promise"]["fidelity"] == str(record.fidelity) and manifest["promise"]["toolchain"] == chain
    assert f"{chain}/price.json" in manifest["files"] and f"{chain}/cpu/stages.json" in manifest["files"]
    assert "energy" not in BUDGETS[device] or "energy" in manifest["promise"]["modelled"]
    checked = hwnas("verify", folder / "bundle")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert ("outputs in LiteRT" in checked.stdout) == (load_device(device).runner == "simulator")
    page = write_report(record, tmp_path / "report.html").read_text()
    assert "Not measured on hardware" in page and "energy (model)" in page and "both by a model" in page
    exported = hwnas("export", folder, "--candidate", winner.encoded, "--format", chain, "-o", tmp_path / "deploy")
    assert exported.returncode == 0 and (tmp_path / "deploy" / chain / "artifact.json").is_file()
    again = verify_run(folder)
    assert [c.kept for c in again] == [True] * len(again)
    word = "latency (model)" if device == "coral-edgetpu" else "cycles (cycle-sim)"
    assert all(check.found.startswith(word) for check in again)
    for finalist in (folder / "finalists").glob("*.onnx"):  # as of a run that left something to the CPU
        graph = GraphBuilder("grouped")
        x = graph.conv(graph.input((1, 4, 8, 8)), 8, (1, 1))
        finalist.write_bytes(cast(graph.build(graph.conv(x, 8, (3, 3), groups=2)), "int8").SerializeToString())
    assert len(verify_run(folder)) == len(again)


def test_a_form_that_the_device_does_not_run_is_refused_before_the_run(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    wanted = settings(device="ethos-u55-128", toolchain="auto", precision="int8", budget={"latency": "1 ms"})
    path.write_text(yaml.safe_dump({**wanted, "export": ["onnx", "tvm"]}))
    done = hwnas("search", path, "--out", tmp_path / "run")
    assert done.returncode == 2 and "ethos-u55-128 runs no TVM library" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_missing_litert_is_told_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = settings(device="ethos-u55-128", toolchain="auto", precision="int8", budget={"latency": "1 ms"})
    monkeypatch.setattr("hwnas.runners.litert.importlib.util.find_spec", lambda name: None)
    with pytest.raises(DeviceUnavailable, match=r'pip install "hwnas\[npu\]"'):
        Run(RunSettings.model_validate(wanted), tmp_path / "run")
    assert not (tmp_path / "run").exists()
