"""One finished run that several tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.api import small_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; tests must not change it."""
    folder = tmp_path_factory.mktemp("finished")
    done = small_run.hwnas("search", small_run.write(folder), "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run"
