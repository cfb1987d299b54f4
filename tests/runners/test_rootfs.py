"""The root file system of emulated boards: what it is made of, what is missing, and a build that goes on after a stop."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from hwnas.config import cache_folder, load_device
from hwnas.errors import BuildError, DeviceUnavailable
from hwnas.runners import rootfs
from hwnas.runners.tvm_rpc import RpcRunner


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_CACHE", "/named")
    assert cache_folder() == Path("/named")
    monkeypatch.delenv("HWNAS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/hwnas")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "hwnas"


def test_a_board_without_it_names_the_command_that_makes_it(cache: Path) -> None:
    with pytest.raises(DeviceUnavailable, match=r"not in .*arm64; build it with: hwnas devices setup rpi4b-qemu"):
        RpcRunner().open(load_device("rpi4b-qemu"))


def test_one_of_another_release_is_refused_by_what_differs(cache: Path) -> None:
    folder = cache / "arm64"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({**rootfs.wanted(), "suite": "bullseye"}))
    with pytest.raises(DeviceUnavailable, match="suite 'bullseye' instead of 'bookworm'.*setup rpi4b-qemu"):
        rootfs.installed("rpi4b-qemu")
    (folder / "manifest.json").write_text("{ torn")
    with pytest.raises(DeviceUnavailable, match="is not in"):
        rootfs.installed("rpi4b-qemu")
    (folder / "manifest.json").write_text(json.dumps(rootfs.wanted()))
    assert rootfs.installed("rpi4b-qemu").folder == folder


def test_it_takes_the_versions_that_hwnas_requires() -> None:
    required = rootfs.wanted()["required"]
    assert [r for r in required if r.startswith("apache-tvm==")] == ["apache-tvm==0.27.0.post1"]
    assert [r for r in required if r.startswith("apache-tvm-ffi==")] == ["apache-tvm-ffi==0.1.14.post1"]
    assert any(r.startswith("numpy") for r in required)
    assert len(required) == 3


def test_missing_programs_are_named_with_their_packages(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(cache))
    with pytest.raises(
        DeviceUnavailable, match=r"debootstrap.* missing: apt-get install debootstrap dpkg gcc qemu-user"
    ):
        rootfs.build(print)
    with pytest.raises(DeviceUnavailable, match="qemu-aarch64 is missing: apt-get install qemu-user"):
        rootfs.installed("rpi4b-qemu")


PROGRAMS = {
    "debootstrap": "for last; do :; done; mkdir -p $last/var/cache/apt/archives $last/usr/bin && "
    "touch $last/var/cache/apt/archives/a.deb $last/usr/bin/python3.11",
    "dpkg-deb": "exit 0",
    "gcc": 'while [ "$1" != -o ]; do shift; done; echo plugin > $2',
    "qemu-aarch64": "echo agent on aarch64",
}


def fake_programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **changed: str) -> Path:
    """Programs that do what the real ones leave behind, and write down that they ran."""
    folder.mkdir(exist_ok=True)
    for name, body in {**PROGRAMS, **{k.replace("_", "-"): v for k, v in changed.items()}}.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\necho {name} >> {folder}/log\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder / "log"


def without_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched: the step that asks pip leaves one small wheel."""
    import zipfile

    real = rootfs.run

    def run(command: tuple[str, ...], folder: Path, stage: str, environment: dict[str, str] | None = None) -> str:
        if stage != "wheels":
            return real(command, folder, stage, environment)
        (folder / "wheels").mkdir()
        with zipfile.ZipFile(folder / "wheels" / "tvm-1.whl", "w") as wheel:
            wheel.writestr("tvm/__init__.py", "")
            wheel.writestr(rootfs.COMPILER_LIBRARY, "large")
        return ""

    monkeypatch.setattr(rootfs, "run", run)


def test_a_stopped_build_goes_on_and_appears_at_once(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = fake_programs(tmp_path / "bin", monkeypatch, gcc="echo no space left; exit 1")
    without_wheels(monkeypatch)
    with pytest.raises(
        BuildError, match=r"plugin: gcc .* ended with status 1: no space left\. What was done .* goes on"
    ):
        rootfs.build(print)
    assert not (cache / "arm64").exists()
    with pytest.raises(DeviceUnavailable, match="is not in"):
        rootfs.installed("rpi4b-qemu")
    fake_programs(tmp_path / "bin", monkeypatch)
    said: list[str] = []
    root = rootfs.build(said.append)
    assert "packages: done before" in said
    assert log.read_text().split().count("debootstrap") == 1
    assert root.folder == cache / "arm64"
    assert (root.folder / "site" / "tvm" / "__init__.py").is_file()
    assert not (root.folder / "site" / rootfs.COMPILER_LIBRARY).exists()
    assert not (cache / "arm64.building").exists()
    assert "root " in root.counter
    before = log.read_text()
    assert rootfs.build(print) == root
    assert "debootstrap" not in log.read_text()[len(before) :]


def test_a_plan_that_changed_begins_anew(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = fake_programs(tmp_path / "bin", monkeypatch, gcc="exit 1")
    without_wheels(monkeypatch)
    with pytest.raises(BuildError):
        rootfs.build(print)
    fake_programs(tmp_path / "bin", monkeypatch)
    monkeypatch.setattr(rootfs, "PACKAGES", ("python3",))
    rootfs.build(print)
    assert log.read_text().split().count("debootstrap") == 2


def test_one_that_does_not_run_is_not_kept(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_programs(tmp_path / "bin", monkeypatch, qemu_aarch64="echo agent on x86_64")
    without_wheels(monkeypatch)
    with pytest.raises(BuildError, match="does not run as aarch64: agent on x86_64"):
        rootfs.build(print)
    assert not (cache / "arm64").exists()
    fake_programs(tmp_path / "bin", monkeypatch, qemu_aarch64="echo unknown option plugin; exit 1")
    with pytest.raises(BuildError, match=r"unknown option plugin.*Counting needs a QEMU from 4\.2 to 8\.2.*Debian 12"):
        rootfs.build(print)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "file" / "cache"))
    fake_programs(tmp_path / "bin", monkeypatch)
    with pytest.raises(Exception, match="cannot be made: Not a directory; name another folder in HWNAS_CACHE"):
        rootfs.build(print)


def test_the_plugin_compiles_without_a_warning(tmp_path: Path) -> None:
    assert shutil.which("gcc")
    rootfs.run(("gcc", *rootfs.CFLAGS, "-o", "libcount.so", str(rootfs.PLUGIN_SOURCE)), tmp_path, "plugin")
    assert (tmp_path / "libcount.so").stat().st_size > 1000
