"""The firmware on emulated boards: what it computes, what it counts, and how it comes back from faults."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from qemu_board import QemuBoard, booted

from hwnas import config
from hwnas.firmware.codes import Counter, FaultKind, Provocation, ResetCause, Status
from hwnas.firmware.image import Image, compile_network, link_image
from hwnas.firmware.protocol import (
    Alive,
    Boot,
    Check,
    Fault,
    Hello,
    Info,
    Kernels,
    Loop,
    Provoke,
    Read,
    Reset,
    Run,
    Stop,
    Write,
)  # fmt: skip

SMALL = Path(__file__).parent / "small_networks.c"
BOARDS = ("cortex-m3-qemu", "cortex-m4-qemu", "cortex-m7-qemu", "cortex-m55-qemu")
SYMBOLS = ("net_bytes", "net_floats", "net_spin", "net_deep", "net_wild", "net_fail")
BYTES, FLOATS, SPIN, DEEP, WILD, FAIL = range(6)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image]:
    made = {}
    for name in BOARDS:
        device, folder = config.load_device(name), tmp_path_factory.mktemp(name)
        network = compile_network(SMALL, device, folder)
        made[name] = link_image(device, [(network, symbol) for symbol in SYMBOLS], folder,
                                arena_bytes=128, workspace_bytes=64, faults=True)  # fmt: skip
    return made


@pytest.fixture(params=BOARDS)
def board(request: pytest.FixtureRequest, images: dict[str, Image]) -> Iterator[QemuBoard]:
    with booted(config.load_device(request.param), images[request.param].elf) as board:
        yield board


@pytest.fixture
def m7(images: dict[str, Image]) -> Iterator[QemuBoard]:
    with booted(config.load_device("cortex-m7-qemu"), images["cortex-m7-qemu"].elf) as board:
        yield board


def number(value: int) -> bytes:
    return struct.pack("<i", value)


def test_it_says_who_it_is(board: QemuBoard, images: dict[str, Image], request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["board"]
    device = config.load_device(name)
    assert device.mcu is not None
    boot = board.event(Boot)
    reply = board.reply(Hello())
    identity = Hello().parse(reply.rest)
    assert reply.nonce == boot.nonce
    assert identity.counter == Counter.SYSTICK and identity.counter_hz == device.mcu.clock
    assert identity.reset_cause == boot.cause == ResetCause.POWER
    assert (identity.protocol, identity.networks, identity.stack_bytes) == (1, len(SYMBOLS), 4096)
    assert identity.image_id == images[name].image_id and identity.port == device.mcu.port
    info = board.ask(Info(BYTES))
    assert (info.name, info.kernels, info.arena_bytes, info.workspace_bytes) == ("bytes", 2, 128, 40)
    assert [(t.dtype, t.offset, t.size_bytes, t.shape) for t in (*info.inputs, *info.outputs)] == [
        (1, 0, 10, (1, 10)), (3, 64, 40, (1, 10)), (3, 112, 4, (1,))]  # fmt: skip


def test_outputs_are_exact(board: QemuBoard) -> None:
    x = np.array([-128, 127, 0, 1, -1, 5, 7, -7, 100, -100], dtype=np.int8)
    board.ask(Write(BYTES, 0, 0, x.tobytes()))
    report = board.ask(Run(BYTES, 0, 1, pattern=False))
    y = np.frombuffer(board.ask(Read(BYTES, 0, 0, 40)), dtype="<i4")
    assert y.tolist() == (3 * x.astype(int) + 1).tolist()
    assert board.ask(Read(BYTES, 1, 0, 4)) == number(int(y.sum()))
    assert report.workspace_bytes == 40
    assert 100 < report.stack_bytes < 1024

    z = np.array([1, 2, -3, 1e-30, 1e30, 0.1, -0.0, 7], dtype="<f4")
    board.ask(Write(FLOATS, 0, 0, z.tobytes()))
    board.ask(Run(FLOATS, 0, 1, pattern=False))
    assert board.ask(Read(FLOATS, 0, 0, 32)) == (z * np.float32(0.25)).tobytes()


def test_the_pattern_is_the_documented_one(board: QemuBoard) -> None:
    words, word = [], 0x2545F491
    for _ in range(8):
        word ^= word << 13 & 0xFFFFFFFF
        word ^= word >> 17
        word ^= word << 5 & 0xFFFFFFFF
        words.append(word)
    x = np.array([(w >> 8) / 2**23 - 1 for w in words], dtype="<f4")
    board.ask(Run(FLOATS, 0, 1))
    assert board.ask(Read(FLOATS, 0, 0, 32)) == (x * np.float32(0.25)).tobytes()


def test_repeats_agree_to_a_tick(board: QemuBoard) -> None:
    report = board.ask(Run(BYTES, 1, 24, kernels=True))
    assert report.runs == 24 and report.interrupted == 0
    assert max(report.ticks) - min(report.ticks) <= 1
    kernels = board.ask(Kernels(BYTES, 0))
    assert kernels.total == len(kernels.ticks) == 2
    net = report.ticks[0] - report.overhead_ticks
    assert min(kernels.ticks) > 0 and abs(sum(kernels.ticks) - net) <= 4


def spin_ticks(board: QemuBoard, steps: int) -> tuple[int, int]:
    board.ask(Write(SPIN, 0, 0, number(steps)))
    report = board.ask(Run(SPIN, 0, 1, pattern=False))
    return report.ticks[0] - report.overhead_ticks, report.interrupted


def test_ticks_go_on_beyond_the_24_bits_of_systick(board: QemuBoard) -> None:
    short, interrupted = spin_ticks(board, 200_000)
    assert not interrupted and short < 2**23
    board.events.clear()
    long, interrupted = spin_ticks(board, 200_000 * 100)
    assert interrupted == 1  # it is longer than a period of the time base
    assert long > 2 * 2**24
    assert long == pytest.approx(100 * short, rel=1e-3)
    alive = [event for event in board.events if isinstance(event, Alive)]
    seconds = long / board.ask(Hello()).counter_hz
    assert abs(len(alive) - seconds / 0.25) <= 2


def test_kernel_errors_are_reported(m7: QemuBoard) -> None:
    reply = m7.reply(Run(FAIL, 0, 1))
    assert (reply.status, reply.rest) == (Status.KERNEL_ERROR, number(-7))


def test_a_run_is_stopped(m7: QemuBoard) -> None:
    m7._seq = 7
    with pytest.raises(AssertionError, match="no reply"):
        m7.reply(Loop(BYTES, 60_000), seconds=0.5)
    assert any(isinstance(event, Alive) for event in m7.events)
    assert m7.reply(Stop()).status == Status.DONE
    assert m7.answer(8, Loop.op).status == Status.STOPPED
    assert m7.ask(Loop(BYTES, 100)).runs > 100


def test_stack_high_water_follows_the_network(m7: QemuBoard) -> None:
    used = []
    for depth in (1, 11):
        m7.ask(Write(DEEP, 0, 0, number(depth)))
        used.append(m7.ask(Run(DEEP, 0, 1, pattern=False)).stack_bytes)
    assert 10 * 96 <= used[1] - used[0] <= 10 * 160


def expect_restart(board: QemuBoard, kind: FaultKind, cause: ResetCause, nonce: int) -> Fault:
    fault = board.event(Fault)
    assert fault.kind == kind
    boot = board.event(Boot)
    assert boot.cause == cause and boot.nonce != nonce
    reply = board.reply(Hello())
    assert reply.nonce == boot.nonce and Hello().parse(reply.rest).reset_cause == cause
    board.ask(Run(BYTES, 0, 1))
    return fault


def test_a_hard_fault_is_reported_then_the_board_restarts(board: QemuBoard) -> None:
    nonce = board.reply(Hello()).nonce
    board.ask(Provoke(Provocation.HARD_FAULT))
    fault = expect_restart(board, FaultKind.HARD_FAULT, ResetCause.FAULT, nonce)
    assert fault.cfsr & 1 << 16 and fault.hfsr & 1 << 30  # undefined instruction, escalated
    assert 0 < fault.pc < 0x10000


def test_a_wild_jump_in_a_kernel_is_reported(m7: QemuBoard) -> None:
    nonce = m7.reply(Hello()).nonce
    with pytest.raises(AssertionError, match="no reply"):
        m7.reply(Run(WILD, 0, 1), seconds=1)
    fault = expect_restart(m7, FaultKind.HARD_FAULT, ResetCause.FAULT, nonce)
    assert fault.cfsr & 1 << 17 and fault.pc == 0x1000  # invalid state: no Thumb code there
    assert 0 < fault.lr < 0x10000


@pytest.mark.parametrize("name", ["cortex-m4-qemu", "cortex-m55-qemu"])
def test_a_stack_that_runs_over_is_reported(name: str, images: dict[str, Image]) -> None:
    with booted(config.load_device(name), images[name].elf) as board:
        nonce = board.reply(Hello()).nonce
        board.ask(Write(DEEP, 0, 0, number(1000)))
        with pytest.raises(AssertionError, match="no reply"):
            board.reply(Run(DEEP, 0, 1, pattern=False), seconds=1)
        expect_restart(board, FaultKind.STACK, ResetCause.FAULT, nonce)


@pytest.mark.parametrize(("name", "kind"), [("cortex-m4-qemu", Provocation.HANG_INTERRUPTS_OFF),
                                            ("cortex-m55-qemu", Provocation.HANG)])  # fmt: skip
def test_the_watchdog_ends_a_hang(name: str, kind: Provocation, images: dict[str, Image]) -> None:
    with booted(config.load_device(name), images[name].elf) as board:
        nonce = board.reply(Hello()).nonce
        board.ask(Provoke(kind))
        fault = expect_restart(board, FaultKind.WATCHDOG, ResetCause.WATCHDOG, nonce)
        assert 0 < fault.pc < 0x10000


def test_restarts_have_their_cause_and_a_new_nonce(m7: QemuBoard) -> None:
    nonces = [m7.event(Boot).nonce]
    m7.ask(Reset())
    boot = m7.event(Boot)
    assert boot.cause == ResetCause.SOFTWARE
    nonces.append(boot.nonce)
    m7.ask(Provoke(Provocation.BROWN_OUT, 3))
    nonces += [m7.event(Boot).nonce for _ in range(4)]
    time.sleep(0.2)
    assert m7.reply(Hello()).nonce == nonces[-1]
    assert len(set(nonces)) == len(nonces)


def test_power_ups_differ_in_their_nonce(images: dict[str, Image]) -> None:
    device, nonces = config.load_device("cortex-m7-qemu"), set()
    for _ in range(3):
        with booted(device, images[device.name].elf) as board:
            nonces.add(board.event(Boot).nonce)
    assert len(nonces) == 3


def test_both_dialects_on_one_line(board: QemuBoard) -> None:
    board.event(Boot)
    board.ask(Hello())
    assert b"m-init-done\r\nm-ready\r\n" in board.text
    assert board.command("name%").startswith("m-name-dut-[hwnas ")
    assert "m-model-[bytes]" in board.command("profile%")
    x = np.arange(10, dtype=np.int8)
    assert board.command("db load 10%") == "m-[Expecting 10 bytes]\r\nm-ready\r\n"
    assert board.command(f"db {x.tobytes().hex()}%") == "m-load-done\r\nm-ready\r\n"
    lines = board.command("infer 2 1%").split("\r\n")
    results = ",".join(f"{v}.000" for v in [*(3 * x.astype(int) + 1), 145])
    assert f"m-results-[{results}]" in lines
    laps = [int(line.removeprefix("m-lap-us-")) for line in lines if line.startswith("m-lap-us-")]
    assert len(laps) == 2 and laps[0] < laps[1]
    assert board.ask(Check(BYTES, 0, output=True)) == zlib.crc32((3 * x.astype("<i4") + 1).tobytes())
