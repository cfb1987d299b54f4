"""Artifacts that were built before: the same network for the same device by the same toolchain is not built twice.

Boards of a kind share what was built, and a session that is resumed, or measured again, does not compile again.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from hwnas import __version__
from hwnas.config import cache_folder, data_folder
from hwnas.core.artifact import read_artifact
from hwnas.core.device import Device
from hwnas.core.interfaces import Toolchain
from hwnas.digest import canonical_json, content_id, digest_bytes
from hwnas.errors import DataError
from hwnas.toolchains.schedules.tuned import database_state

HOW_IT_IS_MEASURED = ("protocol", "summary", "meter", "runner", "emulator", "rpc")
"""Parts of a device that decide nothing about what is built for it."""
MOST_ENTRIES = 4000
"""The oldest entries beyond this many are dropped, a quarter at a time."""
SIZES = ".sizes.json"
"""Beside the files of an entry: {path: bytes} of each of them."""
HOST_COMPILERS = ("g++", "gcc", "c++", "cc")
"""What links for this computer where a device names no compiler, besides $CXX and $CC."""
VERSION_TIMEOUT_S = 20.0


class ArtifactCache:
    """Folders of artifacts by content id of everything that decides what is built."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or cache_folder() / "artifacts"

    def key(self, network: bytes, toolchain: Toolchain, device: Device) -> str:
        """The id of a build: network, toolchain, compilers, device, hwnas' own sources, and this computer's processor."""
        described = device.model_dump(mode="json", by_alias=True, exclude=set(HOW_IT_IS_MEASURED))
        versions = {name: compiler_version(name) for name in compilers(toolchain.name, device)}
        built_by = [toolchain.name, toolchain.version(), versions, _sources(), _processor()]
        if device.tuned(toolchain.name):
            built_by.append(database_state())
        return content_id([digest_bytes(network), described, *built_by])

    def restore(self, key: str, into: Path) -> bool:
        """Copy an artifact into a folder; False if it was never kept, or is not whole any more and was dropped."""
        source = self._folder / key
        if not source.is_dir():
            return False
        if not _is_whole(source):
            shutil.rmtree(source, ignore_errors=True)
            return False
        try:
            shutil.copytree(source, into, dirs_exist_ok=True, ignore=shutil.ignore_patterns(SIZES))
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
                (fresh / SIZES).write_text(canonical_json(_sizes(fresh)))
                _to_disk(fresh)  # or a name without its content is what a power failure leaves
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


def compilers(toolchain: str, device: Device) -> tuple[str, ...]:
    """The programs that a device's build compiles or links with, by name or path."""
    if device.mcu is not None:
        return ("arm-none-eabi-gcc",)
    options = device.options.get(toolchain, {})
    if (named := options.get("compiler")) is not None:
        return (str(named),)
    if (triple := options.get("mtriple")) is not None:
        return (f"{triple}-gcc",)
    return tuple(dict.fromkeys([*filter(None, map(os.environ.get, ("CXX", "CC"))), *HOST_COMPILERS]))


def compiler_version(compiler: str) -> str | None:
    """What a compiler says of itself with --version; None where there is none that says anything."""
    path = shutil.which(compiler)
    if path is None:
        return None
    with suppress(OSError):
        return _said_version(path, Path(path).stat().st_mtime_ns)
    return None


@cache
def _said_version(path: str, changed_ns: int) -> str | None:
    """Asked once for each program as it is on disk: `changed_ns` is part of what is remembered."""
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=VERSION_TIMEOUT_S, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip()


def _is_whole(entry: Path) -> bool:
    """Whether an entry is an artifact with every file as long as it was when it was kept."""
    try:
        read_artifact(entry)
        return bool(json.loads((entry / SIZES).read_bytes()) == _sizes(entry))
    except (OSError, ValueError, DataError):
        return False


def _sizes(folder: Path) -> dict[str, int]:
    files = (f for f in folder.rglob("*") if f.is_file() and f != folder / SIZES)
    return {str(f.relative_to(folder)): f.stat().st_size for f in files}


def _to_disk(folder: Path) -> None:
    """Wait until a folder and all that is in it is on disk."""
    for path in (*folder.rglob("*"), folder):
        if path.is_file() or path.is_dir():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@cache
def _sources() -> str:
    """A digest of the sources that decide what is built, so that changing one never meets an old artifact."""
    here = Path(__file__).parent
    files = [*here.rglob("*.py"), *(here.parent / "graph").rglob("*.py"), *(here.parent / "firmware").rglob("*.py")]
    files += [f for f in data_folder("firmware").rglob("*") if f.suffix in (".c", ".h", ".S", ".ld", ".v", ".json")]
    return content_id([__version__, *(digest_bytes(f.read_bytes()) for f in sorted(files))])


@cache
def _processor() -> str:
    """What the processor calls itself and what it can: `target: native` compiles for just that."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        told = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
        return digest_bytes("\n".join(sorted(told)).encode())
    return platform.processor()
