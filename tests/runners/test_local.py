"""Runners under the shipped contract; and a crash, a hang or a broken artifact is a failure, not our end."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwnas.config import load_device
from hwnas.core.artifact import LIBRARY
from hwnas.core.device import Device
from hwnas.core.interfaces import Runner
from hwnas.core.workload import Artifact
from hwnas.errors import DeviceCrashed, DeviceError, DeviceQuarantined, DeviceTimeout, DeviceUnavailable
from hwnas.runners.fake import FakeRunner, Script
from hwnas.runners.local import LocalBoard, LocalRunner
from hwnas.testing import RunnerContract, small_network
from hwnas.toolchains.builder import build_one


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return build_one("ort", small_network(), load_device("host"), tmp_path_factory.mktemp("built") / "ort")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return build_one("tvm", small_network(), load_device("host"), tmp_path_factory.mktemp("built") / "tvm")


class TestRunners(RunnerContract):
    @pytest.fixture(params=["local", "fake"])
    def runner(self, request: pytest.FixtureRequest) -> Runner:
        return LocalRunner() if request.param == "local" else FakeRunner()

    @pytest.fixture
    def device(self) -> Device:
        return load_device("host")

    @pytest.fixture
    def artifact(self, built: Artifact) -> Artifact:
        return built


@pytest.fixture
def board() -> Iterator[LocalBoard]:
    board = LocalRunner().open(load_device("host"))
    yield board
    board.close()


CRASH = "*(volatile int *)0 = 1;"
HANG = 'for (;;) __asm__ volatile("");'


def broken(library: Artifact, folder: Path, code: str) -> Artifact:
    """An artifact whose library runs this C code as soon as it is loaded."""
    folder.mkdir()
    (folder / "bad.c").write_text(f"__attribute__((constructor)) void bad(void) {{ {code} }}\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / LIBRARY, folder / "bad.c"], check=True)
    for name in ("artifact.json", "inputs.json"):
        (folder / name).write_text((Path(library.path) / name).read_text())
    return replace(library, path=str(folder))


def test_a_crash_is_named_and_the_board_goes_on(
    board: LocalBoard, built: Artifact, library: Artifact, tmp_path: Path
) -> None:
    with pytest.raises(DeviceCrashed, match="SIGSEGV"):
        board.run(broken(library, tmp_path / "crash", CRASH), 3, 60.0)
    assert board.run(built, 3, 60.0).latency_s


def test_a_hang_ends_at_the_deadline(board: LocalBoard, built: Artifact, library: Artifact, tmp_path: Path) -> None:
    board.run(library, 3, 60.0)  # TVM's import is not what is timed
    start = time.monotonic()
    with pytest.raises(DeviceTimeout, match="within 2 s"):
        board.run(broken(library, tmp_path / "hang", HANG), 3, 2.0)
    assert time.monotonic() - start < 20
    assert board.run(built, 3, 60.0).latency_s


def test_a_damaged_artifact_is_a_device_error(board: LocalBoard, built: Artifact, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "damaged"
    shutil.copytree(built.path, folder)
    (folder / "network.onnx").write_bytes(b"not a network")
    with pytest.raises(DeviceError, match="InvalidProtobuf|Load model"):
        board.run(replace(built, path=str(folder)), 3, 60.0)


def test_too_many_failures_in_a_row_quarantine_and_keep_the_first_cause(library: Artifact, tmp_path: Path) -> None:
    device = load_device("host")
    device = device.model_copy(update={"protocol": device.protocol.model_copy(update={"failures_in_a_row": 2})})
    board = LocalRunner().open(device)
    bad: Any = broken(library, tmp_path / "crash", CRASH)
    try:
        for _ in range(2):
            with pytest.raises(DeviceCrashed):
                board.run(bad, 3, 60.0)
        with pytest.raises(DeviceQuarantined, match="2 failures in a row; the first was: .*SIGSEGV"):
            board.run(bad, 3, 60.0)
    finally:
        board.close()


def test_a_reading_lasts_long_enough_to_be_timed(board: LocalBoard, built: Artifact) -> None:
    samples = board.run(built, 5, 60.0)
    assert samples.inner * min(samples.latency_s) > 0.5 * load_device("host").protocol.reading


def test_a_fake_can_be_absent_and_can_fail_on_command(built: Artifact) -> None:
    device = load_device("host")
    with pytest.raises(DeviceUnavailable, match="not connected"):
        FakeRunner(Script(absent=True)).open(device)
    board = FakeRunner(Script(faults={1: "timeout"})).open(device)
    assert board.run(built, 3, 1.0).latency_s
    with pytest.raises(DeviceTimeout, match="scripted timeout in run 1"):
        board.run(built, 3, 1.0)
    assert board.run(built, 3, 1.0).latency_s
