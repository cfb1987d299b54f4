"""Artifacts that are not built twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwnas import api
from hwnas.core.artifact import read_artifact
from hwnas.core.device import Device
from hwnas.testing import small_network
from hwnas.toolchains.builder import BuildPool
from hwnas.toolchains.cache import MOST_ENTRIES, ArtifactCache, cache_folder
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
    (entry / library).write_bytes(b"changed")
    with BuildPool("tvm", device, workers=1) as pool:
        list(pool.build([(small_network(), tmp_path / "2")]))
    assert (tmp_path / "2" / library).read_bytes() == b"changed"  # it was not built again
