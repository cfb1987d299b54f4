"""The text dialect, as the public MLPerf Tiny protocol (EEMBC EnergyRunner, mlcommons/tiny) has it, through a pty.

The client below is written from that protocol: commands end in `%`, every answer in `m-ready`, bytes travel as
hexadecimal digits, at most 31 in a line. It opens QEMU's pseudo-terminal with pyserial, as the public runner does.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import serial

from hwnas.config import load_device
from hwnas.firmware.frames import Decoder, Frame, encode
from hwnas.firmware.image import link_image
from hwnas.firmware.protocol import Hello, parse_reply
from tests.runners.tiny import tiny, tiny_outputs

DEVICE = load_device("cortex-m4-qemu")
READY = "m-ready"
BYTES_IN_A_LINE = 31


class Client:
    """Sends a command and collects the lines of its answer."""

    def __init__(self, port: serial.Serial) -> None:
        self.port = port

    def ask(self, command: str) -> list[str]:
        self.port.write(f"{command}%".encode())
        return self.lines()

    def lines(self) -> list[str]:
        found: list[str] = []
        while True:
            raw = self.port.readline()
            assert raw.endswith(b"\r\n"), f"no {READY} after {found}, but {raw!r}"
            line = raw.decode("ascii").strip()
            if line == READY:
                return found
            found.append(line)

    def load(self, data: bytes) -> list[str]:
        lines = self.ask(f"db load {len(data)}")
        for at in range(0, len(data), BYTES_IN_A_LINE):
            lines += self.ask(f"db {data[at : at + BYTES_IN_A_LINE].hex()}")
        return lines


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("image")
    artifact = tiny(folder / "ic01", DEVICE, "ic01", work=20_000)
    network = Path(artifact.path) / "network.o"
    image = link_image(DEVICE, [(network, "ic01")], folder, arena_bytes=128, workspace_bytes=16)
    assert DEVICE.emulator is not None
    emulator = subprocess.Popen(
        ["qemu-system-arm", "-M", DEVICE.emulator.machine, "-display", "none", "-nodefaults", "-icount",
         f"shift={DEVICE.emulator.shift}", "-kernel", str(image.elf), "-serial", "pty"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert emulator.stdout is not None
        for line in emulator.stdout:
            if found := re.search(r"redirected to (/dev/pts/\d+)", line):
                yield found[1]
                break
        else:
            pytest.fail("QEMU named no pseudo-terminal")
    finally:
        emulator.kill()
        emulator.wait()
        emulator.stdout.close()  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def client(terminal: str) -> Iterator[Client]:
    with serial.Serial(terminal, 115200, timeout=5, exclusive=True) as port:
        client = Client(port)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:  # QEMU looks once a second whether a terminal was opened
            port.write(b"%")
            port.timeout = 0.2
            if READY.encode() in port.read_until(READY.encode() + b"\r\n"):
                break
        while port.read(4096):
            pass
        port.timeout = 5
        yield client


def test_it_names_itself(client: Client) -> None:
    (name,) = client.ask("name")
    assert re.fullmatch(r"m-name-dut-\[[^\]]+\]", name)


def test_its_profile_names_the_firmware_and_the_network(client: Client) -> None:
    assert client.ask("profile") == ["m-profile-[ULPMark for tinyML Firmware V0.0.1]", "m-model-[ic01]"]


def test_timestamps_are_microseconds_that_grow(client: Client) -> None:
    laps = []
    for _ in range(3):
        (line,) = client.ask("timestamp")
        found = re.fullmatch(r"m-lap-us-(\d+)", line)
        assert found
        laps.append(int(found[1]))
    assert laps == sorted(set(laps))


def test_an_unknown_command_is_an_error_and_ends_in_ready(client: Client) -> None:
    assert client.ask("frobnicate 1 2") == ["e-[Unknown command: frobnicate]"]
    assert len(client.ask("name")) == 1


def test_a_command_that_is_too_long_is_an_error(client: Client) -> None:
    (line,) = client.ask("x" * 200)
    assert line.startswith("e-[")
    assert len(client.ask("name")) == 1


def test_help_is_text(client: Client) -> None:
    assert len(client.ask("help")) > 3


def test_bytes_are_loaded_and_can_be_seen(client: Client) -> None:
    data = bytes(range(100, 132))
    lines = client.load(data)
    assert lines == ["m-[Expecting 32 bytes]", "m-load-done"]
    shown = client.ask("db print")
    assert all(line.startswith("m-buffer-") for line in shown)
    assert bytes.fromhex("".join(line.removeprefix("m-buffer-").replace("-", "") for line in shown)) == data


@pytest.mark.parametrize("line", ["db 0", "db 0g", "db load", "db load 0", "db load 1000000", "db load x"])
def test_bad_loads_are_errors(client: Client, line: str) -> None:
    client.ask("db load 32")
    (said,) = client.ask(line)
    assert said.startswith("e-[")


@pytest.mark.parametrize("command", ["infer 3", "infer 5 2", "infer 1 0"])
def test_inference_times_warmup_and_results(client: Client, command: str) -> None:
    x = np.random.default_rng(1).integers(-128, 128, (1, 32), dtype=np.int8)
    client.load(x.tobytes())
    words = command.split()
    runs, warmup = int(words[1]), int(words[2]) if len(words) > 2 else 10
    lines = client.ask(command)
    assert lines[:3] == [f"m-warmup-start-{warmup}", "m-warmup-done", f"m-infer-start-{runs}"]
    first, last = (int(line.removeprefix("m-lap-us-")) for line in lines if line.startswith("m-lap-us-"))
    assert lines[-2] == "m-infer-done"
    results = re.fullmatch(r"m-results-\[(.*)\]", lines[-1])
    assert results
    y, total = tiny_outputs(x)
    values = [float(v) for v in results[1].split(",")]
    assert values == pytest.approx([*map(float, y.ravel()), float(total[0])], abs=5e-4)
    assert client.ask("results") == [lines[-1]]
    per_run_us = (last - first) / runs
    assert per_run_us == pytest.approx(20_000 * 5 * 32 / 1000, rel=0.2)  # 5 instructions a turn, 32 ns each


@pytest.mark.parametrize("line", ["infer 0", "infer -1", "infer x", "infer 1 -1"])
def test_bad_inferences_are_errors(client: Client, line: str) -> None:
    (said,) = client.ask(line)
    assert said.startswith("e-[")


def test_both_dialects_share_the_port(client: Client) -> None:
    request = Hello()
    client.port.write(encode(Frame(7, request.op, request.body())))
    client.port.timeout = 0.3
    (frame,) = Decoder().feed(client.port.read(300))
    identity = request.parse(parse_reply(frame).rest)
    assert (frame.seq, identity.port) == (7, "mps2")
    client.port.timeout = 5
    assert len(client.ask("name")) == 1
