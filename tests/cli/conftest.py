"""The command line in this process, and things to give to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from hwnas.cli import render
from hwnas.cli.main import run
from hwnas.testing import small_network
from tests import steady_device


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


Cli = Callable[..., Ran]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command; its exit code, stdout and stderr."""
    for console in (render.out, render.log):
        monkeypatch.setattr(console, "_width", 300)

    def ran(*arguments: object) -> Ran:
        words = [str(a) for a in arguments]
        monkeypatch.setattr("sys.argv", ["hwnas", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(words)
        told = capsys.readouterr()
        return Ran(int(ended.value.code or 0), told.out, told.err)

    return ran


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network of the user's own."""
    path = tmp_path_factory.mktemp("network") / "small.onnx"
    onnx.save(small_network(), str(path))
    return path


@pytest.fixture(scope="session")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a device that is this computer, busy or not."""
    return steady_device.write(tmp_path_factory.mktemp("device"))


@pytest.fixture(scope="session")
def tables(network: Path, steady: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tables with the rows of `network` on this computer, through onnxruntime."""
    from hwnas import api

    folder = tmp_path_factory.mktemp("tables")
    api.profile(api.load_device(steady), network, toolchain="ort", tables=folder)
    return folder


@pytest.fixture(scope="session")
def table(tables: Path) -> Path:
    return tables / "host" / "hardware-ort.jsonl"
