"""Generated networks on this computer: inputs are checked, runs repeat, an error of a kernel is told."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from hwnas.config import load_device
from hwnas.runners.generated import CgenLoaded
from hwnas.testing import small_network
from hwnas.toolchains.cgen import CgenToolchain


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("built")
    device = load_device("host").model_copy(update={"options": {}})
    CgenToolchain().build(small_network(), device, into)
    return into


def test_runs_repeat_and_take_time(folder: Path) -> None:
    loaded = CgenLoaded(folder, {})
    x = np.random.default_rng(0).standard_normal((1, 1, 12, 12)).astype(np.float32)
    first = loaded.outputs([x])[0]
    assert loaded.time(3) > 0
    np.testing.assert_array_equal(loaded.outputs([x])[0], first)


def test_inputs_of_another_shape_type_or_number_are_refused(folder: Path) -> None:
    loaded = CgenLoaded(folder, {})
    with pytest.raises(ValueError, match=r"float32 of shape \[1, 1, 12, 12\], given is float32 of shape \[1, 1, 12\]"):
        loaded.outputs([np.zeros((1, 1, 12), np.float32)])
    with pytest.raises(ValueError, match="given is uint8"):
        loaded.outputs([np.zeros((1, 1, 12, 12), np.uint8)])
    with pytest.raises(ValueError, match="takes 1 inputs, 2 were given"):
        loaded.outputs([np.zeros((1, 1, 12, 12), np.float32)] * 2)


def test_a_library_that_was_built_anew_is_loaded_anew(tmp_path: Path) -> None:
    device = load_device("host").model_copy(update={"options": {}})
    x = np.ones((1, 1, 12, 12), np.float32)
    outputs = []
    for channels in (4, 8):
        CgenToolchain().build(small_network(channels), device, tmp_path)
        outputs.append(CgenLoaded(tmp_path, {}).outputs([x])[0])
    assert not np.array_equal(*outputs)


def test_an_error_of_a_kernel_is_told(folder: Path, tmp_path: Path) -> None:
    source = (folder / "network.c").read_text()
    (tmp_path / "network.c").write_text(source.replace("return 0;", "return -3;", 1))
    for name in ("hwnas_network.h", "network.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    command = ["gcc", "-shared", "-fPIC", "-o", str(tmp_path / "network.so"), str(tmp_path / "network.c"), "-lm"]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(RuntimeError, match="reported error -3"):
        CgenLoaded(tmp_path, {}).outputs([np.zeros((1, 1, 12, 12), np.float32)])
