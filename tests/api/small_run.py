"""A whole run that takes seconds: 8 x 8 digits, a small space, one epoch, everything else as in any run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests import steady_device

COMMAND = (sys.executable, "-m", "hwnas.cli.main")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "250", "PYTHONUNBUFFERED": "1"}

SETTINGS: dict[str, Any] = {
    "schema": 1,
    "device": "host",
    "toolchain": "ort",
    "space": {
        "use": "mbconv",
        "resolution": 8,
        "stem": {"widths": [8], "kernels": [3], "strides": [1, 2]},
        "stages": [
            {"widths": [8, 16], "depths": [1, 2], "strides": [1], "kernels": [3], "expansions": [1, 2]},
            {"widths": [16, 24], "depths": [1], "strides": [2], "kernels": [3], "expansions": [1, 2]},
        ],
        "head": {"widths": [0, 16]},
    },
    "data": {"use": "digits"},
    "budget": {"latency": "50 ms", "flash": "1 MiB"},
    "profile": {"workloads": 30, "networks": 10},
    "accuracy": {"queries": 6, "plan": {"epochs": 1}},
    "search": {"use": "guided", "trials": 60, "device_measurements": 6},
    "verify": {"top": 2, "seeds": 1, "spacing": "0 s"},
}


def settings(**changes: Any) -> dict[str, Any]:
    return {**SETTINGS, **changes}


def write(folder: Path, **changes: Any) -> Path:
    """A run.yaml with these settings; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(settings(**{"device": str(steady_device.write(folder)), **changes})))
    return path


def hwnas(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, env=ENVIRONMENT)
