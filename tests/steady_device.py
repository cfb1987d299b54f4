"""This computer as a device whose rows survive a busy machine: the check for drift is relaxed, all else is as shipped."""

from __future__ import annotations

from pathlib import Path

from hwnas import config


def write(folder: Path) -> Path:
    """A device file `host.yaml` in a folder; returns its path."""
    text = config.device_files()["host"].read_text()
    assert "drift: 15 %" in text
    path = folder / "host.yaml"
    path.write_text(text.replace("drift: 15 %", "drift: 1000 %"))
    return path
