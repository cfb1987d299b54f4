"""Shared fixtures: where the public reference data is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public reference measurements beside the repository; its absence is an error in CI."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"reference data is missing: {folder}")
        pytest.skip("reference data (../shared/data) is not here")
    return folder
