"""Conformance of the text dialect, over a pseudo-terminal: what a runner of MLPerf Tiny asks, and may rely on.

Written from the public protocol: a command ends in `%`, its words are split by spaces, every answer, also that of a
command that failed, ends in a line `m-ready`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import serial
from qemu_board import on_a_pty

from hwnas import config
from hwnas.firmware.image import compile_network, link_image

SMALL = Path(__file__).parent / "small_networks.c"
LINE_BYTES = 31  # the public runner's


class TextClient:
    """Sends commands and collects the lines of each answer."""

    def __init__(self, path: str) -> None:
        self._port = serial.Serial(path, 115200, timeout=10)

    def lines(self) -> list[str]:
        got = []
        while not got or got[-1] != "m-ready":
            line = self._port.readline()
            assert line.endswith(b"\r\n"), (got, line)
            got.append(line.decode(errors="replace").removesuffix("\r\n"))
        return got

    def command(self, text: str) -> list[str]:
        """The lines of the answer, without the closing m-ready."""
        self._port.write(text.encode() + b"%")
        return self.lines()[:-1]

    def settle(self) -> None:
        """Pass over the greeting, of which a late listener may have heard nothing, a part or all."""
        time.sleep(0.3)
        self._port.reset_input_buffer()

    def close(self) -> None:
        self._port.close()


@pytest.fixture(scope="module")
def elf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    device, folder = config.load_device("cortex-m4-qemu"), tmp_path_factory.mktemp("text")
    network = compile_network(SMALL, device, folder)
    return link_image(device, [(network, "net_floats")], folder, arena_bytes=64, workspace_bytes=0).elf


@pytest.fixture
def client(elf: Path) -> Iterator[TextClient]:
    with on_a_pty(config.load_device("cortex-m4-qemu"), elf) as path:
        client = TextClient(path)
        client.settle()
        yield client
        client.close()


def test_identity(client: TextClient) -> None:
    (name,) = client.command("name")
    assert re.fullmatch(r"m-name-dut-\[[^]]+\]", name)
    profile, network = client.command("profile")
    assert re.fullmatch(r"m-profile-\[ULPMark for tinyML Firmware V0\.0\.1\]", profile)
    assert network == "m-model-[floats]"
    assert len(client.command("help")) > 5


def test_timestamps_count_microseconds(client: TextClient) -> None:
    laps = []
    for _ in range(2):
        (lap,) = client.command("timestamp")
        laps.append(int(re.fullmatch(r"m-lap-us-(\d+)", lap)[1]))  # type: ignore[index]
        time.sleep(0.05)
    assert laps[1] - laps[0] > 10_000


@pytest.mark.parametrize("command", ["nonsense", "db", "db load", "db load 0", "db load 100000", "infer 0", "infer 1 -1",
                                     "results", "x" * 79, "x" * 200])  # fmt: skip
def test_a_command_that_fails_says_so_and_is_ready(client: TextClient, command: str) -> None:
    (line,) = client.command(command)
    assert re.fullmatch(r"e-\[.+\]", line)
    assert client.command("name")[0].startswith("m-name-dut-")


def test_hexadecimal_digits_are_checked(client: TextClient) -> None:
    assert client.command("db load 4") == ["m-[Expecting 4 bytes]"]
    assert client.command("db 00zz")[0].startswith("e-[")
    assert client.command("db 000")[0].startswith("e-[")


def test_an_input_is_loaded_and_inferred(client: TextClient) -> None:
    x = np.array([1, -2, 3.5, 1000, 0.002, -0.25, 0, 12345.678], dtype="<f4")
    data = x.tobytes()
    assert client.command(f"db load {len(data)}") == [f"m-[Expecting {len(data)} bytes]"]
    pieces = [data[i : i + LINE_BYTES] for i in range(0, len(data), LINE_BYTES)]
    for piece in pieces[:-1]:
        assert client.command(f"db {piece.hex()}") == []
    assert client.command(f"db {pieces[-1].hex()}") == ["m-load-done"]
    shown = "-".join(line.removeprefix("m-buffer-") for line in client.command("db print"))
    assert shown.split("-") == [f"{byte:02x}" for byte in data]

    warmup, done, start, first, last, end, results = client.command("infer 5 2")
    assert (warmup, done, start, end) == ("m-warmup-start-2", "m-warmup-done", "m-infer-start-5", "m-infer-done")
    assert int(first.removeprefix("m-lap-us-")) <= int(last.removeprefix("m-lap-us-"))
    values = re.fullmatch(r"m-results-\[([-\d.,]+)\]", results)
    assert values
    assert values[1].split(",") == [f"{v:.3f}" for v in (x * np.float32(0.25)).astype(float)]
    assert client.command("results") == [results]
    assert client.command("infer")[0] == "m-warmup-start-10"


def test_line_ends_between_commands_mean_nothing(client: TextClient) -> None:
    assert client.command("\r\nname")[0].startswith("m-name-dut-")
    assert client.command("na\r\nme")[0].startswith("m-name-dut-")
