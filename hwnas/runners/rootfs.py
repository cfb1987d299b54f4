"""The arm64 root file system that emulated Linux boards run in, and the plugin that counts their instructions.

`hwnas devices setup NAME` builds it once, below the user's cache folder: Debian's packages of Python, unpacked but
never configured, the wheels of the TVM pair that hwnas pins, and the compiled plugin. Nothing is fetched afterwards.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from hwnas.config import cache_folder
from hwnas.digest import content_id, digest_bytes
from hwnas.errors import BuildError, DeviceUnavailable, HwnasError

SUITE = "bookworm"
PYTHON = "3.11"
PACKAGES = ("python3", "ca-certificates")
WHEELS = ("apache-tvm", "apache-tvm-ffi", "numpy")
"""The board's packages; their versions are those that hwnas itself requires."""
GLIBC = ("2_28", "2_27", "2_24", "2_17")
COMPILER_LIBRARY = "tvm/lib/libtvm_compiler.so"
"""240 MB that a board, which runs and never compiles, does without."""
TOOLS = {"debootstrap": "debootstrap", "dpkg-deb": "dpkg", "gcc": "gcc", "qemu-aarch64": "qemu-user"}
"""Program -> Debian package."""
PLUGIN_SOURCE = Path(__file__).with_name("qemu_plugin") / "count.c"
AGENT_PARENT = Path(__file__).with_name("tvm_rpc")
"""The folder that holds the package `agent`, which runs on the board."""
MANIFEST = "manifest.json"
CFLAGS = ("-std=c11", "-D_POSIX_C_SOURCE=200809L", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared",
          "-fvisibility=hidden")  # fmt: skip
STEP_TIMEOUT_S = 1800.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Root:
    """A root file system that is there: how a program of the board is started in it."""

    folder: Path

    def command(self, cpu: str) -> tuple[str, ...]:
        """The argv of the board's agent under an emulated processor that counts; agent options may follow."""
        python = self.folder / "root" / "usr" / "bin" / f"python{PYTHON}"
        program = shutil.which("qemu-aarch64") or "qemu-aarch64"
        emulator = (program, "-cpu", cpu, "-plugin", str(self.folder / "libcount.so"))
        return (*emulator, "-L", str(self.folder / "root"), str(python), "-s", "-m", "agent", "--counts")

    @property
    def environment(self) -> dict[str, str]:
        """All that the emulated program sees of the environment, so that its run repeats to the instruction."""
        return {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": f"{self.folder / 'site'}:{AGENT_PARENT}",
            "PYTHONHASHSEED": "0",
            "TVM_USE_RUNTIME_LIB": "1",
            "TVM_NUM_THREADS": "1",
        }

    @property
    def counter(self) -> str:
        """What counted: emulator, plugin and the board's software, for a measurement's context."""
        manifest = json.loads((self.folder / MANIFEST).read_text())
        return f"{emulator_version()}, plugin {manifest['plugin'][:10]}, root {content_id(manifest['wheels'])[:10]}"


def installed(device: str) -> Root:
    """The root file system of emulated boards. Raises DeviceUnavailable that names the command that makes it."""
    folder = cache_folder() / "arm64"
    command = f"hwnas devices setup {device}"
    if shutil.which("qemu-aarch64") is None:
        raise DeviceUnavailable("qemu-aarch64 is missing: apt-get install qemu-user")
    manifest = _manifest(folder)
    if manifest is None:
        raise DeviceUnavailable(f"the board's root file system is not in {folder}; build it with: {command}")
    if stale := differences(manifest):
        raise DeviceUnavailable(f"{folder} was built otherwise ({stale}); build it again with: {command}")
    return Root(folder)


def _manifest(folder: Path) -> dict[str, Any] | None:
    """What the root file system in a folder was made of; None where there is none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def wanted() -> dict[str, Any]:
    """What a root file system of this release of hwnas is made of."""
    return {
        "suite": SUITE,
        "python": PYTHON,
        "packages": list(PACKAGES),
        "required": board_requirements(),
        "plugin": digest_bytes(PLUGIN_SOURCE.read_bytes()),
    }


def differences(manifest: Mapping[str, Any]) -> str:
    """What a root file system has that this release does not want, in words; empty if nothing."""
    return ", ".join(
        f"{key} {manifest.get(key)!r} instead of {value!r}"
        for key, value in wanted().items()
        if manifest.get(key) != value
    )


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the build: `shown` is what it runs, for people; a finished step is not done again."""

    name: str
    shown: tuple[str, ...]
    size: str
    act: Callable[[Path], object]


def steps() -> tuple[Step, ...]:
    """The build in order; every step works in the folder that it is given."""
    bootstrap = (
        "debootstrap",
        "--arch=arm64",
        "--foreign",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        SUITE,
    )
    download: tuple[str, ...] = (
        "pip",
        "download",
        "--only-binary=:all:",
        "--implementation",
        "cp",
        "--python-version",
        PYTHON,
    )
    for abi in (f"cp{PYTHON.replace('.', '')}", "abi3", "none"):
        download += ("--abi", abi)
    for glibc in GLIBC:
        download += ("--platform", f"manylinux_{glibc}_aarch64")
    download += ("--platform", "manylinux2014_aarch64", "--no-cache-dir", *board_requirements())
    compiled = ("gcc", *CFLAGS, "-o", "libcount.so", str(PLUGIN_SOURCE))
    return (
        Step(
            "packages", (" ".join((*as_root(), *bootstrap, "root")),), "40 MB fetched, 200 MB on disk",
            lambda folder: _bootstrap(folder, bootstrap),
        ),
        Step(
            "unpack", ("dpkg-deb -x root/var/cache/apt/archives/*.deb root",), "70 MB on disk", _unpack_packages
        ),
        Step(
            "wheels", (" ".join((*download, "-d", "wheels")),), "115 MB fetched",
            lambda folder: run((sys.executable, "-m", *download, "-d", "wheels"), folder, "wheels"),
        ),
        Step("site", (f"unzip wheels/*.whl -x {COMPILER_LIBRARY} -d site",), "105 MB on disk", _unpack_wheels),
        Step("plugin", (" ".join(compiled),), "20 kB", lambda folder: run(compiled, folder, "plugin")),
    )  # fmt: skip


def build(say: Say) -> Root:
    """Build the root file system, or go on where an earlier build stopped. Raises DeviceUnavailable, BuildError.

    It is built in a folder of its own and appears in one rename; another process that builds it is waited for.
    """
    missing = {program: package for program, package in TOOLS.items() if shutil.which(program) is None}
    if missing:
        raise DeviceUnavailable(f"{', '.join(missing)} missing: apt-get install {' '.join(sorted(missing.values()))}")
    if importlib.util.find_spec("pip") is None:
        raise DeviceUnavailable(
            f"{sys.executable} has no pip, which fetches the board's wheels: {sys.executable} -m ensurepip"
        )
    base = cache_folder()
    final, building = base / "arm64", base / "arm64.building"
    with _locked(base / "arm64.lock", say):
        if (manifest := _manifest(final)) is not None:
            if not (stale := differences(manifest)):
                return Root(final)
            say(f"building anew, because {final} was built otherwise ({stale})")
        _make_folder(building)
        wish = wanted()
        plan = building / "plan.json"
        if not plan.is_file() or plan.read_text() != json.dumps(wish):
            shutil.rmtree(building)
            _make_folder(building)
            plan.write_text(json.dumps(wish))
        for step in steps():
            done = building / f".done-{step.name}"
            if done.exists():
                say(f"{step.name}: done before")
                continue
            say(f"{step.name}: {step.shown[0]} ({step.size})")
            step.act(building)
            done.touch()
        say("check: starting the board's agent once")
        _try_out(Root(building))
        wheels = sorted(path.name for path in (building / "wheels").glob("*.whl"))
        shutil.rmtree(building / "wheels")
        (building / MANIFEST).write_text(json.dumps({**wish, "wheels": wheels}, indent=1) + "\n")
        shutil.rmtree(final, ignore_errors=True)
        building.rename(final)
    return Root(final)


def run(command: Sequence[str], folder: Path, stage: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a command of the build. Raises BuildError with its last words, and with how to go on."""
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", timeout=STEP_TIMEOUT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise BuildError(stage, f"{command[0]} took longer than {STEP_TIMEOUT_S:g} s; run the command again") from None
    except OSError as error:
        raise BuildError(stage, f"{command[0]} cannot be started: {error.strerror}") from error
    if done.returncode:
        said = [line for line in done.stdout.splitlines() if line.strip()][-3:]
        raise BuildError(
            stage,
            f"{' '.join(command)[:200]} ended with status {done.returncode}: {' / '.join(said) or 'it said nothing'}. "
            "What was done before is kept; the same command goes on from here.",
        )
    return done.stdout


def as_root() -> tuple[str, ...]:
    """What a command that wants to be root is started with: nothing as root, else fakeroot (nothing is ever booted)."""
    return () if os.geteuid() == 0 else ("fakeroot",)


def emulator_version() -> str:
    """What qemu-aarch64 calls itself, such as 'qemu-aarch64 7.2.22'."""
    return _version_of(shutil.which("qemu-aarch64") or "qemu-aarch64")


@lru_cache(maxsize=4)
def _version_of(program: str) -> str:
    words = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30).stdout.split()
    return f"qemu-aarch64 {words[2]}" if len(words) > 2 else "qemu-aarch64"


def board_requirements() -> list[str]:
    """The board's packages with the versions that hwnas requires, so that both sides run the same TVM."""
    try:
        lines = requires("hwnas") or []
    except PackageNotFoundError as error:
        raise HwnasError("hwnas is not installed as a package; pip install it, so that its pins can be read") from error
    plain = [line.replace(" ", "") for line in lines if ";" not in line]
    return sorted(line for line in plain if re.split(r"[^A-Za-z0-9._-]", line)[0] in WHEELS)


def _bootstrap(folder: Path, command: Sequence[str]) -> None:
    if os.geteuid() and shutil.which("fakeroot") is None:
        raise DeviceUnavailable("debootstrap wants to be root or to run under fakeroot: apt-get install fakeroot")
    shutil.rmtree(folder / "root", ignore_errors=True)
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"
    run((*as_root(), *command, "root"), folder, "packages", {**os.environ, "PATH": path})


def _unpack_packages(folder: Path) -> None:
    archives = sorted((folder / "root" / "var" / "cache" / "apt" / "archives").glob("*.deb"))
    if not archives:
        raise BuildError("unpack", "debootstrap fetched no packages")
    for archive in archives:
        run(("dpkg-deb", "-x", str(archive), "root"), folder, "unpack")
    if not (folder / "root" / "usr" / "bin" / f"python{PYTHON}").is_file():
        raise BuildError("unpack", f"{SUITE} has no python{PYTHON}")
    shutil.rmtree(folder / "root" / "var" / "cache" / "apt")


def _unpack_wheels(folder: Path) -> None:
    for wheel in sorted((folder / "wheels").glob("*.whl")):
        try:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder / "site", [n for n in archive.namelist() if n != COMPILER_LIBRARY])
        except (OSError, zipfile.BadZipFile) as error:
            raise BuildError("site", f"{wheel.name} cannot be unpacked ({error}); run the command again") from error


def _try_out(root: Root) -> None:
    """Start the agent once: what cannot run is found now, and its Python is compiled for the next start."""
    try:
        said = run((*root.command("cortex-a72"), "--check"), root.folder, "check", root.environment)
    except BuildError as error:
        raise BuildError(
            "check",
            f"{error.log} Counting needs a QEMU from 4.2 to 8.2 that was built with plugins, such as qemu-user of "
            "Debian 12 or Ubuntu 24.04",
        ) from error
    if "aarch64" not in said:
        raise BuildError("check", f"the agent does not run as aarch64: {said[-300:]}")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HwnasError(f"{folder} cannot be made: {error.strerror}; name another folder in HWNAS_CACHE") from error


@contextmanager
def _locked(path: Path, say: Say) -> Iterator[None]:
    """Hold the lock of a build; wait for whoever holds it."""
    _make_folder(path.parent)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("another process builds it; waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
