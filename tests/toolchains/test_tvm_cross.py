"""TVM for another processor: what is built is for it, and what cannot be built is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hwnas.config import load_device
from hwnas.core.artifact import LIBRARY
from hwnas.errors import BuildError, ConfigError
from hwnas.testing import small_network
from hwnas.toolchains.builder import build_one
from hwnas.toolchains.tvm import TvmToolchain, cpu_target, linker

AARCH64 = 183


@pytest.mark.parametrize("name", ["rpi4b", "rpi5", "rpi-zero-2w", "rpi4b-qemu"])
def test_a_library_is_built_for_the_board(name: str, tmp_path: Path) -> None:
    device = load_device(name)
    artifact = build_one("tvm", small_network(), device, tmp_path / "built")
    library = tmp_path / "built" / LIBRARY
    assert int.from_bytes(library.read_bytes()[18:20], "little") == AARCH64
    assert artifact.flash_bytes == library.stat().st_size
    assert artifact.options["mcpu"] == device.options["tvm"]["mcpu"]
    assert artifact.version == TvmToolchain().version()


CROSS = load_device("rpi4b").options["tvm"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mcpu": "cortex-a27"}, r"options\.tvm\.mcpu: LLVM knows no such aarch64-linux-gnu \(did you mean cortex-a7"),
        ({"mattr": ["+neom"]}, r"options\.tvm\.mattr: LLVM knows no such feature \(did you mean neon"),
        (
            {"mtriple": "aarch65-linux"},
            r"options\.tvm\.mtriple: LLVM builds for no such processor \(did you mean aarch64",
        ),
    ],
)
def test_a_processor_that_llvm_does_not_know(changed: dict[str, Any], message: str) -> None:
    """LLVM itself would say so on stderr and build for a generic one, or crash."""
    with pytest.raises(ConfigError, match=message):
        cpu_target({**CROSS, **changed})


def test_a_triple_is_required() -> None:
    with pytest.raises(ConfigError, match=r"options\.tvm\.mtriple: is required"):
        cpu_target({"target": "cross"})


def test_an_unknown_target_is_named(tmp_path: Path) -> None:
    device = load_device("rpi4b")
    wrong = device.model_copy(update={"options": {"tvm": {**CROSS, "target": "coss"}}})
    with pytest.raises(ConfigError, match=r"options\.tvm\.target: unknown target \(did you mean cross"):
        TvmToolchain().build(small_network(), wrong, tmp_path)


def test_a_missing_linker_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert linker(CROSS) == "aarch64-linux-gnu-gcc"
    assert linker({"target": "native"}) is None
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BuildError, match="aarch64-linux-gnu-gcc is missing.*apt-get install gcc-aarch64-linux-gnu"):
        linker(CROSS)
