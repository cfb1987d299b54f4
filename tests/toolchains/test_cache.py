"""Artifacts that are not built twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hwnas import api
from hwnas.config import cache_folder
from hwnas.core.artifact import DESCRIPTION, NETWORK, read_artifact
from hwnas.core.device import Device
from hwnas.errors import BuildError
from hwnas.processes import Child, serve
from hwnas.testing import small_network
from hwnas.toolchains.builder import BuildPool
from hwnas.toolchains.cache import MOST_ENTRIES, SIZES, ArtifactCache, compiler_version, compilers
from hwnas.toolchains.ort import OrtToolchain


@pytest.fixture
def device() -> Device:
    return api.load_device("host")


def built(device: Device, into: Path) -> Path:
    OrtToolchain().build(small_network(), device, into)
    return into


def test_what_is_kept_comes_back_whole_under_another_folder(device: Device, tmp_path: Path) -> None:
    kept = ArtifactCache(tmp_path / "cache")
    key = kept.key(b"network", OrtToolchain(), device)
    assert not kept.restore(key, tmp_path / "there")
    kept.keep(key, built(device, tmp_path / "here"))
    assert kept.restore(key, tmp_path / "there")
    here, there = read_artifact(tmp_path / "here"), read_artifact(tmp_path / "there")
    assert (there.flash_bytes, there.options) == (here.flash_bytes, here.options)
    assert there.path == str(tmp_path / "there")
    assert {p.name for p in (tmp_path / "there").iterdir()} == {p.name for p in (tmp_path / "here").iterdir()}
    kept.keep(key, tmp_path / "here")  # a second time, as another board may
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [key]


def test_the_key_follows_network_options_and_toolchain_but_not_how_it_is_measured(device: Device) -> None:
    kept, chain = ArtifactCache(Path("unused")), OrtToolchain()
    key = kept.key(b"a", chain, device)
    assert kept.key(b"b", chain, device) != key
    other = device.model_copy(update={"options": {"ort": {"threads": 2}}})
    assert kept.key(b"a", chain, other) != key
    newer = OrtToolchain()
    newer.version = lambda: "999"  # type: ignore[method-assign]
    assert kept.key(b"a", newer, device) != key
    hot = device.model_copy(update={"protocol": device.protocol.model_copy(update={"heat": 60.0})})
    assert kept.key(b"a", chain, hot) == key


def test_an_unwritable_cache_hinders_nobody(device: Device, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    kept = ArtifactCache(tmp_path / "file")
    kept.keep("key", built(device, tmp_path / "here"))
    assert not kept.restore("key", tmp_path / "there")


def test_the_oldest_are_dropped(device: Device, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    for i in range(MOST_ENTRIES):
        (folder / f"{i:020}").mkdir()
    ArtifactCache(folder).keep("fresh", built(device, tmp_path / "here"))
    left = {p.name for p in folder.iterdir()}
    assert "fresh" in left
    assert len(left) == MOST_ENTRIES + 1 - MOST_ENTRIES // 4


def test_a_builder_takes_from_the_cache_what_was_built_before(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "cache"))
    for i in range(2):
        with BuildPool("tvm", device, workers=1) as pool:
            (artifact,) = pool.build([(small_network(), tmp_path / str(i))])
        assert not isinstance(artifact, Exception)
    (entry,) = (cache_folder() / "artifacts").iterdir()
    library = "network.so"
    assert (entry / library).read_bytes() == (tmp_path / "1" / library).read_bytes()
    changed = bytes((entry / library).stat().st_size)
    (entry / library).write_bytes(changed)
    with BuildPool("tvm", device, workers=1) as pool:
        list(pool.build([(small_network(), tmp_path / "2")]))
    assert (tmp_path / "2" / library).read_bytes() == changed  # it was not built again


def program(path: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {says}\necho asked >> {path}.log\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("name", "toolchain", "compiler"),
    [
        ("cortex-m4-qemu", "cgen", "arm-none-eabi-gcc"),
        ("rpi4b", "tvm", "aarch64-linux-gnu-gcc"),
        ("host", "tvm", "g++"),
    ],
)
def test_the_key_follows_the_version_of_the_compilers(
    name: str, toolchain: str, compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, chain, board = ArtifactCache(Path("unused")), OrtToolchain(), api.load_device(name)
    chain.name = toolchain
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CXX", raising=False)
    assert compiler in compilers(toolchain, board)
    keys = [kept.key(b"a", chain, board)]  # without a compiler
    installed = program(tmp_path / "bin" / compiler, "gcc 12")
    keys += [kept.key(b"a", chain, board) for _ in range(2)]
    assert keys[1] == keys[2]
    assert Path(f"{installed}.log").read_text() == "asked\n"  # once, however many keys
    program(installed, "gcc 13")
    os.utime(installed, ns=(1, 1))
    keys.append(kept.key(b"a", chain, board))
    assert len(set(keys)) == 3


def test_a_compiler_that_says_nothing_has_no_version(tmp_path: Path) -> None:
    broken = program(tmp_path / "cc", "gcc; exit 1")
    assert compiler_version(str(broken)) is None
    assert compiler_version(str(tmp_path / "gone")) is None
    assert compiler_version("-o") is None


@pytest.mark.parametrize("damaged", [DESCRIPTION, NETWORK, SIZES])
@pytest.mark.parametrize("how", ["gone", "empty", "torn"])
def test_a_damaged_entry_is_dropped_and_kept_anew(device: Device, tmp_path: Path, damaged: str, how: str) -> None:
    kept, here = ArtifactCache(tmp_path / "cache"), built(device, tmp_path / "here")
    kept.keep("key", here)
    file = tmp_path / "cache" / "key" / damaged
    whole = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(whole[: len(whole) // 2 if how == "torn" else 0])
    assert not kept.restore("key", tmp_path / "there")
    assert not (tmp_path / "there").exists()
    assert not file.parent.exists()
    kept.keep("key", here)
    assert kept.restore("key", tmp_path / "there")


def test_a_builder_that_built_nothing_fails_one_build_and_not_the_run(device: Device, tmp_path: Path) -> None:
    with BuildPool("ort", device, workers=1) as pool:
        child = pool._free.get()
        liar = Child("tests.toolchains.test_cache", {"PYTHONPATH": str(Path(__file__).parents[2])})
        pool._free.put(liar)
        try:
            (result,) = pool.build([(small_network(), tmp_path / "into")])
        finally:
            liar.close()
            pool._free.put(child)
    assert isinstance(result, BuildError)
    assert "is not an artifact" in str(result)


if __name__ == "__main__":
    serve(lambda request: {"built": True})
