"""The firmware runner against the real firmware, on emulated boards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.config import load_device
from hwnas.core.device import Device
from hwnas.core.lab import Lab
from hwnas.core.workload import Artifact
from hwnas.errors import (
    DataError,
    DeviceCrashed,
    DeviceError,
    DeviceQuarantined,
    DeviceTimeout,
    DeviceUnavailable,
    MeasurementInvalid,
)
from hwnas.registry import runners
from hwnas.runners import qemu
from hwnas.runners.exchange import KernelError, Timing
from hwnas.runners.firmware import FirmwareBoard, FirmwareRunner
from hwnas.runners.session import State
from hwnas.testing import RunnerContract
from tests.runners.counting import M4, Counted, counting_board
from tests.runners.tiny import tiny, tiny_outputs

EMULATED = ["cortex-m3-qemu", "cortex-m4-qemu", "cortex-m7-qemu", "cortex-m55-qemu"]


@pytest.fixture
def counted() -> Iterator[Counted]:
    board, station = counting_board()
    yield board, station
    board.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny(tmp_path_factory.mktemp("plain"), M4)


@pytest.fixture(scope="module")
def board() -> Iterator[FirmwareBoard]:
    board = FirmwareRunner(Lab()).open(M4)
    yield board
    board.close()


class TestContract(RunnerContract):
    @pytest.fixture
    def runner(self) -> FirmwareRunner:
        return FirmwareRunner(Lab())

    @pytest.fixture
    def device(self) -> Device:
        return M4

    @pytest.fixture
    def artifact(self, plain: Artifact) -> Artifact:
        return plain


def test_it_is_registered() -> None:
    assert runners.load("firmware") is FirmwareRunner


@pytest.mark.parametrize("name", EMULATED)
def test_every_emulated_board_counts_and_computes(name: str, tmp_path: Path) -> None:
    device = load_device(name)
    board = FirmwareRunner(Lab()).open(device)
    try:
        small, large = tiny(tmp_path / "a", device, "a_net"), tiny(tmp_path / "b", device, "b_net", work=100_000)
        board.stage([small, large])
        one, many = board.run(small, 6, 30.0), board.run(large, 6, 30.0)
        assert one.latency_s == many.latency_s == ()
        assert one.instructions is not None and many.instructions is not None
        assert max(many.instructions) - min(many.instructions) < 64 * 1.25
        per_turn = (many.instructions[0] - one.instructions[0]) / (100_000 - 200)
        assert 3 < per_turn < 12  # the loop's instructions: an emulator counts them, and counts nothing else
        again = board.run(large, 6, 30.0)
        assert again.instructions is not None
        assert again.instructions[0] == pytest.approx(many.instructions[0], abs=3)
        x = np.random.default_rng(0).integers(-128, 128, (1, 32), dtype=np.int8)
        for answer, right in zip(board.outputs(small, [x], 30.0), tiny_outputs(x), strict=True):
            assert answer.dtype == right.dtype
            assert answer.tolist() == right.tolist()
        facts = board.facts()
        assert device.emulator is not None
        assert facts["machine"].startswith("qemu-system-arm ")
        assert facts["machine"].endswith(f"{device.emulator.machine}, icount shift {device.emulator.shift}")
        assert facts["clock_hz"] is None
        assert facts["board"].startswith("qemu-1")
        assert facts["counter"].endswith("MHz")
    finally:
        board.close()


def test_a_sample_says_what_the_device_saw_of_its_memory(board: FirmwareBoard, plain: Artifact) -> None:
    memory = board.run(plain, 3, 20.0).memory
    assert memory is not None
    assert memory["workspace_used"] == memory["workspace"] == 16
    assert memory["arena"] == 128
    assert 100 < memory["stack"] < 4096
    assert memory["code"] == plain.memory["code"]


def test_a_crash_is_told_in_words_and_the_board_goes_on(counted: Counted, tmp_path: Path, plain: Artifact) -> None:
    board, _ = counted
    crash = tiny(tmp_path / "crash", M4, "crash", kind="crash")
    board.stage([plain, crash])
    with pytest.raises(DeviceCrashed, match=r"hard fault: an undefined instruction \(pc 0x0000[0-9a-f]{4}"):
        board.run(crash, 3, 20.0)
    assert board.state is not State.QUARANTINED
    assert board.run(plain, 3, 20.0).instructions


def test_an_error_of_a_kernel_is_told(counted: Counted, tmp_path: Path) -> None:
    board, _ = counted
    broken = tiny(tmp_path / "error", M4, "broken", kind="error")
    with pytest.raises(KernelError, match="error -7"):
        board.run(broken, 3, 20.0)


def test_a_network_that_hangs_ends_at_its_deadline_and_the_board_goes_on(
    counted: Counted, tmp_path: Path, plain: Artifact
) -> None:
    board, _ = counted
    hung = tiny(tmp_path / "hang", M4, "hung", kind="hang")
    board.stage([plain, hung])
    board.run(plain, 3, 20.0)
    began = time.monotonic()
    with pytest.raises((DeviceTimeout, DeviceCrashed), match="by its deadline|watchdog"):
        board.run(hung, 3, 0.5)
    assert time.monotonic() - began < 8
    assert board.run(plain, 3, 20.0).instructions


def test_too_many_failures_in_a_row_quarantine_the_board(counted: Counted, tmp_path: Path, plain: Artifact) -> None:
    board, _ = counted
    broken = tiny(tmp_path / "error", M4, "broken", kind="error")
    board.stage([plain, broken])
    for _ in range(M4.protocol.failures_in_a_row - 1):
        with pytest.raises(KernelError):
            board.run(broken, 3, 20.0)
    board.run(plain, 3, 20.0)  # a success begins the count anew
    for _ in range(M4.protocol.failures_in_a_row):
        with pytest.raises(KernelError):
            board.run(broken, 3, 20.0)
    for _ in range(2):
        with pytest.raises(DeviceQuarantined, match="qemu-1 is quarantined; the first failure was KernelError"):
            board.run(plain, 3, 20.0)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "has 1 inputs, 0 were given"),
        ([np.zeros((1, 31), np.int8)], r"input 'x' is int8 \[1, 32\], not int8 \[1, 31\]"),
        ([np.zeros((1, 32), np.float32)], "not float32"),
    ],
)
def test_inputs_of_another_kind_are_refused(
    board: FirmwareBoard, plain: Artifact, inputs: list[np.ndarray], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        board.outputs(plain, inputs, 20.0)


def test_kernels_are_told_one_by_one(board: FirmwareBoard, plain: Artifact) -> None:
    (first, scale), (second, total) = board.kernels(plain, 20.0)
    whole = board.run(plain, 3, 20.0).metric("instructions")
    assert (first, second) == ("Scale", "Total")
    assert whole is not None
    assert scale + total == pytest.approx(whole, rel=0.1)


def test_a_loop_lasts_as_long_as_the_board_says(board: FirmwareBoard, plain: Artifact) -> None:
    short, long = board.loop(plain, 0.1, 20.0), board.loop(plain, 0.4, 20.0)
    assert long.runs == pytest.approx(4 * short.runs, rel=0.1)
    with pytest.raises(DeviceError, match="out of range"):
        board.loop(plain, 0.0, 20.0)


def test_readings_that_disagree_are_no_measurement(
    board: FirmwareBoard, plain: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from hwnas.runners import firmware
    from hwnas.runners.operations import time_runs

    def disturbed(*arguments: Any) -> Any:
        report = time_runs(*arguments)
        return replace(report, ticks=(report.ticks[0] + 65, *report.ticks[1:]))

    monkeypatch.setattr(firmware, "time_runs", disturbed)
    with pytest.raises(MeasurementInvalid, match="differ by 6[56] ticks, more than 64"):
        board.run(plain, 3, 20.0)


def test_readings_with_an_interrupt_are_taken_again(
    board: FirmwareBoard, plain: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from hwnas.runners import firmware
    from hwnas.runners.operations import time_runs

    taken: list[Any] = []

    def interrupted(*arguments: Any) -> Any:
        report = time_runs(*arguments)
        if not taken:
            report = replace(report, interrupted=1, ticks=tuple(t + 30 for t in report.ticks))
        taken.append(report)
        return report

    clean = board.run(plain, 3, 20.0).instructions
    monkeypatch.setattr(firmware, "time_runs", interrupted)
    assert board.run(plain, 3, 20.0).instructions == clean
    assert len(taken) == 2


def test_the_emulator_ends_with_the_board_even_if_that_is_killed(tmp_path: Path, plain: Artifact) -> None:
    program = (
        "import sys, time\n"
        "from hwnas.config import load_device\n"
        "from hwnas.core.lab import Lab\n"
        "from hwnas.runners.firmware import FirmwareRunner\n"
        "board = FirmwareRunner(Lab()).open(load_device('cortex-m4-qemu'))\n"
        "board.facts()\n"
        "print(board._station._machine.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    emulator = int(parent.stdout.readline())
    assert _runs(emulator)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 5
    while _runs(emulator) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(emulator)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_an_emulator_that_ends_is_named_with_its_last_words(tmp_path: Path, plain: Artifact) -> None:
    board, station = counting_board(Timing(slack_s=0.1, boot_s=1.5, silence_s=0.3))
    try:
        board.run(plain, 3, 20.0)
        pid = station._machine.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert board.run(plain, 3, 20.0).instructions  # power-cycling brings it back
        station.power_cycle = lambda timeout_s: False  # type: ignore[method-assign]
        station._machine.stop()
        with pytest.raises(DeviceQuarantined, match="qemu-system-arm was not started"):
            board.run(plain, 3, 60.0)
    finally:
        board.close()


def test_a_missing_emulator_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    qemu.qemu_version.cache_clear()
    with pytest.raises(DeviceUnavailable, match="apt install qemu-system-arm"):
        FirmwareRunner(Lab()).places(M4)
    qemu.qemu_version.cache_clear()


def test_as_many_emulated_boards_as_the_lab_says() -> None:
    lab = Lab.model_validate({"emulated": {"cortex-m4-qemu": 3}})
    assert FirmwareRunner(lab).places(M4) == ("qemu-1", "qemu-2", "qemu-3")
    assert FirmwareRunner(Lab()).places(M4) == ("qemu-1",)
    with pytest.raises(DeviceUnavailable, match="no board 'qemu-9' of cortex-m4-qemu; there are: qemu-1"):
        FirmwareRunner(Lab()).open(M4, "qemu-9")
