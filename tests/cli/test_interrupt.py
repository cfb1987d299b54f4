"""Ctrl-C in the middle of a profile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx

from hwnas import api
from hwnas.errors import EXIT_INTERRUPTED
from hwnas.profiling.subjects import untrained
from hwnas.tables.table import LatencyTable

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "250", "PYTHONUNBUFFERED": "1"}


def test_ctrl_c_keeps_the_rows_and_resume_completes_them(steady: Path, tmp_path: Path) -> None:
    space = api.load_space("mbconv-micro")
    onnx.save(untrained(space, space.sample(np.random.default_rng(1))), str(tmp_path / "net.onnx"))
    arguments = ["profile", str(steady), "--onnx", str(tmp_path / "net.onnx"), "--toolchain", "ort", "--table",
                 str(tmp_path / "tables"), "--json"]  # fmt: skip
    command = [sys.executable, "-m", "hwnas.cli.main", *arguments]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert child.stdout is not None
    seen = 0
    for line in child.stdout:
        seen += json.loads(line)["event"] == "measured"
        if seen == 2:
            break
    child.send_signal(signal.SIGINT)
    _, told = child.communicate(timeout=60)
    assert child.returncode == EXIT_INTERRUPTED, told
    assert "hwnas " + " ".join(arguments) + " --resume" in " ".join(told.split())
    assert "Traceback" not in told
    path = tmp_path / "tables" / "host" / "hardware-ort.jsonl"
    before = LatencyTable.read(path)
    assert not before.torn
    assert len(before.measurements) >= 2
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    after = LatencyTable.read(path)
    assert set(before.measurements) < set(after.measurements)
    assert len(after.measurements) == len(after.workloads) + len(after.networks)  # nothing was measured twice
    assert set(after.values()) == {*after.workloads, *after.networks}
