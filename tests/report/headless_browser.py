"""A headless Chromium for tests: the page after its scripts ran, and what the console said."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--enable-logging=stderr", "--v=0",
    "--virtual-time-budget=10000", "--window-size=1200,900",
)  # fmt: skip


class Page(NamedTuple):
    """The document as it stands after loading (`dom`), and every line of its console."""

    dom: str
    console: list[str]

    @property
    def rendered(self) -> str:
        """The document without the text of its scripts, which hold plotly itself."""
        return re.sub(r"<script[^>]*>.*?</script>", "", self.dom, flags=re.DOTALL)


def chromium() -> str:
    """The browser's path; its absence fails in CI and skips elsewhere."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is not installed")
    return found


def load(page: Path, profile: Path) -> Page:
    """Open a file and let its scripts run."""
    command = [chromium(), *OPTIONS, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return Page(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line])
