"""A board of the lab file: found, opened, flashed, reset and power-cycled by the commands that the file gives.

The board is an emulated one behind a pseudo-terminal; its device file says `hardware`, so that it is timed in seconds of
its own counter, as a real board is. The commands are scripts that have the test start or reset the emulator.
"""

from __future__ import annotations

import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hwnas.config import device_files, load_device, load_lab
from hwnas.core.device import Device
from hwnas.core.lab import Lab
from hwnas.core.workload import Artifact
from hwnas.errors import DeviceQuarantined, DeviceTimeout, DeviceUnavailable
from hwnas.faults import FaultProxy, Silence
from hwnas.firmware.image import link_image
from hwnas.runners import stations
from hwnas.runners.exchange import Timing
from hwnas.runners.firmware import FirmwareRunner
from hwnas.runners.qemu import QemuMachine
from hwnas.runners.session import State
from tests.runners.tiny import tiny, tiny_outputs

EMULATED = load_device("cortex-m4-qemu")
SCRIPT = """\
#!{python}
import socket, sys
with socket.create_connection(("127.0.0.1", {port})) as desk:
    desk.sendall(" ".join(sys.argv[1:]).encode() + b"\\n")
    answer = desk.makefile().readline().strip()
print(answer)
sys.exit(answer != "ok")
"""


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Device:
    """The emulated board, described as one that is plugged in somewhere."""
    document: dict[str, Any] = yaml.safe_load(device_files()["cortex-m4-qemu"].read_text())
    del document["emulator"]
    document |= {"name": "desk-m4", "fidelity": "hardware"}
    del document["compute"]["instructions_per_s"]
    path = tmp_path_factory.mktemp("devices") / "desk-m4.yaml"
    path.write_text(yaml.safe_dump(document))
    return load_device(path)


class Desk:
    """Answers the scripts: `flash ELF`, `reset`, `power`."""

    def __init__(self, folder: Path) -> None:
        assert EMULATED.emulator is not None
        self.qemu = QemuMachine(EMULATED.emulator)
        self.proxy = FaultProxy(self.qemu.url, seed=0)
        self.asked: list[list[str]] = []
        self.answer: Callable[[list[str]], str] = self.obey
        self.elf: Path | None = None
        self._server = socket.create_server(("127.0.0.1", 0))
        self.script = folder / "flasher"
        self.script.write_text(SCRIPT.format(python=sys.executable, port=self._server.getsockname()[1]))
        self.script.chmod(self.script.stat().st_mode | stat.S_IXUSR)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def obey(self, words: list[str]) -> str:
        if words[0] == "flash":
            self.elf = Path(words[1])
        if words[0] in ("flash", "power"):
            assert self.elf is not None
            self.qemu.start(self.elf)
        elif words[0] == "reset":
            self.qemu.reset()
        return "ok"

    def lab(self, **more: Any) -> Lab:
        board = {"name": "bench-1", "device": "desk-m4", "serial": self.proxy.where, "baud": 921600}
        commands = {"flash": [str(self.script), "flash", "{elf}", "{serial}"]}
        return Lab.model_validate({"boards": [{**board, **commands, **more}]})

    def close(self) -> None:
        with socket.create_connection(self._server.getsockname()) as last:
            last.sendall(b"end\n")
        self._thread.join()
        self._server.close()
        self.proxy.close()
        self.qemu.close()

    def _serve(self) -> None:
        while True:
            connection, _ = self._server.accept()
            with connection:
                words = connection.makefile().readline().split()
                if words == ["end"]:
                    return
                self.asked.append(words)
                connection.sendall(self.answer(words).encode() + b"\n")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(stations, "Timing", lambda: Timing(slack_s=0.2, boot_s=1.0, silence_s=0.5))
    desk = Desk(tmp_path)
    yield desk
    desk.close()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny(tmp_path_factory.mktemp("tiny"), EMULATED, work=20_000)


def test_a_real_board_is_timed_in_seconds(desk: Desk, device: Device, artifact: Artifact) -> None:
    runner = FirmwareRunner(desk.lab())
    assert runner.places(device) == ("bench-1",)
    board = runner.open(device)
    try:
        samples = board.run(artifact, 30, 20.0)  # more than one RUN can take
        assert samples.instructions is None
        assert len(samples.latency_s) == 30
        assert samples.latency_s == pytest.approx([20_000 * 5 * 32e-9] * 30, rel=0.1)
        x = np.arange(32, dtype=np.int8).reshape(1, 32)
        assert board.outputs(artifact, [x], 20.0)[0].tolist() == tiny_outputs(x)[0].tolist()
        facts = board.facts()
        assert facts["machine"] == "mps2, cortex-m4 at 25 MHz"
        assert facts["clock_hz"] == board.health().clock_hz == 25e6
        assert facts["board"].startswith("bench-1 (")
        loop = board.loop(artifact, 0.2, 20.0)
        assert loop.runs == pytest.approx(0.2 / samples.latency_s[0], rel=0.05)
    finally:
        board.close()
    assert [words[0] for words in desk.asked] == ["flash"]
    assert desk.asked[0][2] == desk.proxy.where


def test_a_board_that_holds_the_image_is_not_flashed_again(desk: Desk, device: Device, artifact: Artifact) -> None:
    for _ in range(2):
        board = FirmwareRunner(desk.lab()).open(device)
        board.run(artifact, 3, 20.0)
        board.close()
    assert len(desk.asked) == 1


def test_a_bin_is_made_for_flashers_that_want_one(desk: Desk, device: Device, artifact: Artifact) -> None:
    sizes: list[int] = []

    def answer(words: list[str]) -> str:
        sizes.append(Path(words[2]).stat().st_size)
        return desk.obey(words[:2])

    desk.answer = answer
    board = FirmwareRunner(desk.lab(flash=[str(desk.script), "flash", "{elf}", "{bin}"])).open(device)
    board.run(artifact, 3, 20.0)
    board.close()
    assert desk.asked[0][2].endswith(".bin")
    assert 1000 < sizes[0] < 100_000


def test_a_flasher_that_fails_once_is_asked_again(desk: Desk, device: Device, artifact: Artifact) -> None:
    desk.answer = lambda words: "probe busy" if len(desk.asked) == 1 else desk.obey(words)
    board = FirmwareRunner(desk.lab()).open(device)
    assert board.run(artifact, 3, 20.0).latency_s
    board.close()
    assert len(desk.asked) == 2


def test_a_flasher_that_fails_quarantines_the_board_with_its_words(
    desk: Desk, device: Device, artifact: Artifact
) -> None:
    desk.answer = lambda words: "no probe was found"
    board = FirmwareRunner(desk.lab()).open(device)
    with pytest.raises(DeviceQuarantined, match="CommandFailed: flashing bench-1: .* status 1: no probe was found"):
        board.run(artifact, 3, 20.0)
    board.close()


def test_a_flasher_that_flashes_another_board_is_found_out(
    desk: Desk, device: Device, artifact: Artifact, tmp_path: Path
) -> None:
    other = link_image(EMULATED, [], tmp_path / "other", arena_bytes=16, workspace_bytes=16)
    desk.answer = lambda words: desk.obey(["flash", str(other.elf)])
    board = FirmwareRunner(desk.lab()).open(device)
    with pytest.raises(
        DeviceQuarantined, match=r"WrongFirmware: bench-1 runs image [0-9a-f]{20} .*not [0-9a-f]{20} that was"
    ):
        board.run(artifact, 3, 20.0)
    assert board.state is State.QUARANTINED
    board.close()


def test_a_board_without_a_flash_command_says_what_to_add(desk: Desk, device: Device, artifact: Artifact) -> None:
    board = FirmwareRunner(desk.lab(flash=None)).open(device)
    with pytest.raises(DeviceUnavailable, match=r"(?s)has no `flash` command.*flash: \[pyocd, flash"):
        board.run(artifact, 3, 20.0)
    board.close()


def test_a_missing_flasher_is_named(desk: Desk, device: Device, artifact: Artifact) -> None:
    board = FirmwareRunner(desk.lab(flash=["no-such-flasher", "{elf}"])).open(device)
    with pytest.raises(DeviceUnavailable, match="flashing bench-1: there is no program 'no-such-flasher'"):
        board.run(artifact, 3, 20.0)
    board.close()


def test_the_commands_for_reset_and_power_are_the_rungs_of_the_ladder(
    desk: Desk, device: Device, artifact: Artifact
) -> None:
    lab = desk.lab(reset=[str(desk.script), "reset", "{serial}"], power=[str(desk.script), "power"])
    board = FirmwareRunner(lab).open(device)
    board.run(artifact, 3, 20.0)
    desk.asked.clear()
    desk.proxy.faults = [Silence()]

    def answer(words: list[str]) -> str:
        if words[0] == "power":
            desk.proxy.faults = []
        return desk.obey(words)

    desk.answer = answer
    assert board.run(artifact, 3, 30.0).latency_s
    assert desk.asked == [["reset", desk.proxy.where], ["power"]]
    board.close()


def test_a_command_that_hangs_is_ended_by_the_deadline_of_the_call(desk: Desk, device: Device) -> None:
    (entry,) = desk.lab(reset=[sys.executable, "-c", "import time; time.sleep(60)"]).boards
    assert device.mcu is not None
    station = stations.SerialStation(entry, device.mcu)
    began = time.monotonic()
    with pytest.raises(DeviceTimeout, match=r"resetting bench-1: no end within 0\.3 s and said nothing"):
        station.reset(0.3)
    assert time.monotonic() - began < 2
    assert not station.power_cycle(0.3)


def test_an_absent_or_busy_board_cannot_be_opened(desk: Desk, device: Device) -> None:
    with pytest.raises(DeviceUnavailable, match="/dev/serial/by-id/usb-gone cannot be opened"):
        FirmwareRunner(desk.lab(serial="/dev/serial/by-id/usb-gone")).open(device)
    with pytest.raises(DeviceUnavailable, match="no USB serial port has the number '0672FF'"):
        FirmwareRunner(desk.lab(serial="usb:0672FF")).open(device)
    board = FirmwareRunner(desk.lab()).open(device)
    with pytest.raises(DeviceUnavailable, match="is another program using it"):
        FirmwareRunner(desk.lab()).open(device)
    board.close()
    FirmwareRunner(desk.lab()).open(device).close()


def test_a_device_that_is_plugged_in_nowhere_shows_what_to_write(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = tmp_path / "lab.yaml"
    lab.write_text("schema: 1\n")
    monkeypatch.setenv("HWNAS_LAB", str(lab))
    with pytest.raises(DeviceUnavailable, match="no board of desk-m4 is in the lab file") as error:
        FirmwareRunner().open(device)
    snippet = str(error.value).split("plugged in:\n")[1]
    lab.write_text(f"schema: 1\n{snippet}")  # what it shows is what the file takes
    assert load_lab().of("desk-m4")[0].name == "bench-1"
    assert FirmwareRunner().places(device) == ("bench-1",)
