"""Artifacts that were built before: the same network for the same device by the same toolchain is not built twice.

Boards of a kind share what was built, and a session that is resumed, or measured again, does not compile again.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from hwnas import __version__
from hwnas.config import data_folder
from hwnas.core.artifact import DESCRIPTION
from hwnas.core.device import Device
from hwnas.core.interfaces import Toolchain
from hwnas.digest import content_id, digest_bytes

HOW_IT_IS_MEASURED = ("protocol", "summary", "meter", "runner", "emulator", "rpc")
"""Parts of a device that decide nothing about what is built for it."""
MOST_ENTRIES = 4000
"""The oldest entries beyond this many are dropped, a quarter at a time."""


def cache_folder() -> Path:
    """Where hwnas keeps what it can make again: HWNAS_CACHE, else hwnas in the user's cache folder."""
    if named := os.environ.get("HWNAS_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hwnas"


class ArtifactCache:
    """Folders of artifacts by content id of everything that decides what is built."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or cache_folder() / "artifacts"

    def key(self, network: bytes, toolchain: Toolchain, device: Device) -> str:
        """The id of a build: network, toolchain with version, device, hwnas' own sources, and this computer's processor."""
        described = device.model_dump(mode="json", by_alias=True, exclude=set(HOW_IT_IS_MEASURED))
        built_by = [toolchain.name, toolchain.version(), _sources(), _processor()]
        return content_id([digest_bytes(network), described, *built_by])

    def restore(self, key: str, into: Path) -> bool:
        """Copy an artifact into a folder; False if it was never kept."""
        source = self._folder / key
        if not (source / DESCRIPTION).is_file():
            return False
        try:
            shutil.copytree(source, into, dirs_exist_ok=True)
        except OSError:  # dropped by another process meanwhile: it is built again
            return False
        with suppress(OSError):
            os.utime(source)
        return True

    def keep(self, key: str, built: Path) -> None:
        """Keep a copy of a built artifact; a full or unwritable disk keeps none, and nothing else happens."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = Path(tempfile.mkdtemp(dir=self._folder, prefix=".new-"))
            try:
                shutil.copytree(built, fresh, dirs_exist_ok=True)
                fresh.rename(self._folder / key)  # whole or not at all; a name that is taken holds the same
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
            self._drop_old()
        except OSError:
            return

    def _drop_old(self) -> None:
        entries = [e for e in os.scandir(self._folder) if not e.name.startswith(".")]
        if len(entries) > MOST_ENTRIES:
            by_age = sorted(entries, key=lambda e: e.stat().st_mtime)
            for entry in by_age[: MOST_ENTRIES // 4]:
                shutil.rmtree(entry.path, ignore_errors=True)
            for left in self._folder.glob(".new-*"):
                if time.time() - left.stat().st_mtime > 3600:  # a process that was killed while it copied
                    shutil.rmtree(left, ignore_errors=True)


@cache
def _sources() -> str:
    """A digest of the sources that decide what is built, so that changing one never meets an old artifact."""
    here = Path(__file__).parent
    files = [*here.rglob("*.py"), *(here.parent / "graph").glob("*.py"), *(here.parent / "firmware").glob("*.py")]
    files += [f for f in data_folder("firmware").rglob("*") if f.suffix in (".c", ".h", ".S", ".ld")]
    return content_id([__version__, *(digest_bytes(f.read_bytes()) for f in sorted(files))])


@cache
def _processor() -> str:
    """What the processor calls itself and what it can: `target: native` compiles for just that."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        told = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
        return digest_bytes("\n".join(sorted(told)).encode())
    return platform.processor()
