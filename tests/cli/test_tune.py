"""`hwnas profile --tune`: what it is told to cost, where it can be used, what it prints, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hwnas.cli.tuning import interruptible, planned
from hwnas.errors import EXIT_INTERRUPTED, EXIT_USAGE
from hwnas.tables.table import LatencyTable
from hwnas.toolchains.schedules import TUNED
from hwnas.toolchains.schedules.tuned import SUFFIX
from hwnas.toolchains.schedules.tuning import Planned


def test_help_says_what_tuning_costs(cli: Any) -> None:
    told = " ".join(cli("profile", "--help").out.replace("│", " ").split())
    for words in ("--tune", "TRIALS", "A trial takes", "Default 0"):
        assert words in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["host", "--toolchain", "ort"], "name --toolchain tvm"),
        (["rpi4b"], "rpi4b is not this computer"),
        (["rpi4b-qemu"], "rpi4b-qemu is not this computer"),
        (["cortex-m4-qemu"], "cortex-m4-qemu has no toolchain tvm"),
    ],
)
def test_what_cannot_be_tuned_is_refused(cli: Any, network: Path, arguments: list[str], words: str) -> None:
    done = cli("profile", *arguments, "--onnx", network, "--tune", "4")
    assert done.code == EXIT_USAGE
    assert words in done.err


def test_networks_are_needed(cli: Any) -> None:
    done = cli("profile", "host", "--space", "mbconv-micro", "--networks", "0", "--workloads", "1", "--tune", "4")
    assert done.code == EXIT_USAGE
    assert "needs whole networks" in done.err


def test_dry_run_says_what_would_be_tuned(cli: Any, network: Path) -> None:
    done = cli("profile", "host", "--onnx", network, "--tune", "4", "--dry-run")
    assert done.code == 0
    assert "hardware-tvm-tuned.jsonl, after at most 4 trials of tuning" in done.out


def test_a_tuned_profile_has_a_table_of_its_own_and_ctrl_c_keeps_what_was_found(
    steady: Path, network: Path, tmp_path: Path
) -> None:
    environment = {
        **os.environ, "HWNAS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1",
        "COLUMNS": "250",
    }  # fmt: skip
    arguments = ["profile", str(steady), "--onnx", str(network), "--table", str(tmp_path / "tables"), "--json"]
    command = [sys.executable, "-m", "hwnas.cli.main", *arguments]
    child = subprocess.Popen(
        [*command, "--tune", "400"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdout is not None
    for line in child.stdout:
        if json.loads(line)["event"] == "tried":
            break
    child.send_signal(signal.SIGINT)
    rest, told = child.communicate(timeout=100)
    assert child.returncode == EXIT_INTERRUPTED, told
    assert "--tune 400 --resume" in " ".join(told.split())
    assert "Traceback" not in told
    assert json.loads(rest.splitlines()[-1])["event"] == "tuned"
    assert len(list((tmp_path / "cache" / "tuned").glob(f"*{SUFFIX}"))) == 1
    done = subprocess.run([*command, "--tune", "1"], capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    table = LatencyTable.read(tmp_path / "tables" / "host" / "hardware-tvm-tuned.jsonl")
    assert table.recipe.schedule == TUNED
    assert table.recipe.options["tuned"] is True


def test_a_second_interrupt_is_not_waited_for() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible() as pressed:
        assert not pressed()
        signal.raise_signal(signal.SIGINT)
        assert pressed()
        signal.raise_signal(signal.SIGINT)


def test_nothing_to_tune_is_said() -> None:
    assert "nothing to tune" in planned(Planned(0, (), 7, 0.0))
    assert planned(Planned(16, ("a",), 7, 0.25)).startswith("tuning 1 of 7 kernels, 25% of the time")
