"""The firmware runner: microcontroller boards, real or emulated, that run networks linked into hwnas's own firmware.

A real board is measured in seconds of its own counter, an emulated one in instructions: what QEMU takes in time is no
latency and is never reported as one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hwnas.config import lab_file, load_lab
from hwnas.core.device import Device
from hwnas.core.interfaces import Health
from hwnas.core.interfaces import Loop as Looped
from hwnas.core.lab import Lab
from hwnas.core.measurement import Samples
from hwnas.core.workload import Artifact
from hwnas.errors import (
    BuildError,
    ConfigError,
    DataError,
    DeviceError,
    DeviceQuarantined,
    DeviceTimeout,
    DeviceUnavailable,
    MeasurementInvalid,
    NotMeasurable,
)
from hwnas.firmware.codes import Counter
from hwnas.firmware.image import firmware_id
from hwnas.firmware.protocol import Identity, RunReport
from hwnas.runners.arrays import to_stored
from hwnas.runners.exchange import Exchange
from hwnas.runners.flashing import CommandFailed
from hwnas.runners.images import BuiltNetwork, Images, LinkedImage, read_network
from hwnas.runners.operations import as_tensor, check_network, infer, kernel_ticks, loop, time_runs
from hwnas.runners.qemu import qemu_version
from hwnas.runners.session import RUNGS, Session, State
from hwnas.runners.stations import FlashingStation, station_of

SPREAD_TICKS = 64
"""Readings of an emulated board that lie further apart were disturbed: an instruction counter repeats itself."""
CLEAN_TRIES = 3
INTERRUPT_PERIOD_S = 0.2
"""A run that is longer meets an interrupt of the time base for certain; the spread bounds what that costs."""
FLASH_TRIES = 2
LARGEST_LOOP_MS = 2**32 - 1


class FirmwareBoard:
    """An open session on one microcontroller board; see `Session` for its states.

    images: those of boards of this kind that are flashed with the same ones; None: its own.
    """

    def __init__(self, device: Device, station: FlashingStation, images: Images | None = None) -> None:
        assert device.mcu is not None
        self._device, self._station = device, station
        self._images, self._shared = images or Images(device), images is not None
        self._session = Session(station, device.mcu.port)
        self._current: LinkedImage | None = None
        self._known: set[int] = set()
        self._failures = 0
        self._first: DeviceError | None = None

    def attach(self) -> None:
        """Open the board's line now, and keep others from it. Raises DeviceUnavailable."""
        self._session.open()

    @property
    def state(self) -> State:
        return self._session.state

    @property
    def disturbances(self) -> int:
        """How often a request was sent again, the board restarted, or a rung of the ladder was climbed."""
        return self._session.disturbances

    def facts(self) -> Mapping[str, Any]:
        """Context fields; boots the board if nothing was run on it yet. Raises DeviceError."""
        identity = self._identity()
        board = self._station.place
        if any(identity.board_id):
            board += f" ({identity.board_id.hex()})"
        return {
            "machine": self._station.machine,
            "clock_hz": None if self._device.emulator else float(identity.counter_hz),
            "firmware": f"{identity.firmware[0]}.{identity.firmware[1]} ({firmware_id(self._device)})",
            "board": board,
            "counter": _counter(identity),
        }

    def stage(self, artifacts: Sequence[Artifact]) -> None:
        networks = []
        for artifact in artifacts:
            with contextlib.suppress(DeviceError):  # it is `run` that complains of that one
                networks.append(read_network(artifact))
        self._images.stage(networks)

    def run(self, artifact: Artifact, readings: int, timeout_s: float) -> Samples:
        """Raises DeviceError, and MeasurementInvalid where the readings of an emulated board disagree."""
        with self._counting_failures():
            network, number = self._prepare(artifact)

            def work(exchange: Exchange, deadline: float) -> tuple[list[int], RunReport]:
                self._check(exchange, deadline, network, number)
                return self._ticks(exchange, deadline, number, readings)

            ticks, report = self._session.perform(work, timeout_s)
        memory = {**self._memory(network, artifact), "stack": report.stack_bytes}
        if network.layout.workspace_bytes:
            memory["workspace_used"] = report.workspace_bytes
        values = tuple(self._convert(t) for t in ticks)
        if self._device.emulator is not None:
            return Samples(instructions=values, memory=memory)
        return Samples(latency_s=values, memory=memory)

    def kernels(self, artifact: Artifact, timeout_s: float) -> list[tuple[str, float]]:
        """Each kernel of a network in order: the operators it fuses, and its share of a run (s, or instructions)."""
        with self._counting_failures():
            network, number = self._prepare(artifact)
            ticks = self._session.perform(lambda e, deadline: kernel_ticks(e, deadline, number), timeout_s)
        return [(name, self._convert(t)) for name, t in zip(network.layout.kernels, ticks)]

    def loop(self, artifact: Artifact, seconds: float, timeout_s: float) -> Looped:
        milliseconds = int(np.ceil(seconds * 1e3))
        if not 0 < milliseconds <= LARGEST_LOOP_MS:
            raise DeviceError(f"a loop of {seconds:g} s is out of range")
        with self._counting_failures():
            network, number = self._prepare(artifact)

            def work(exchange: Exchange, deadline: float) -> Looped:
                self._check(exchange, deadline, network, number)
                began = time.monotonic()
                report = loop(exchange, deadline, number, milliseconds)
                return Looped(report.runs, began, time.monotonic())

            return self._session.perform(work, seconds + timeout_s)

    def outputs(self, artifact: Artifact, inputs: Sequence[np.ndarray], timeout_s: float) -> list[np.ndarray]:
        with self._counting_failures():
            network, number = self._prepare(artifact)
            data = _as_bytes(network, inputs)
            largest = self._identity().max_body

            def work(exchange: Exchange, deadline: float) -> list[bytes]:
                self._check(exchange, deadline, network, number)
                return infer(exchange, deadline, number, network.layout, data, largest)

            answers = self._session.perform(work, timeout_s)
        return [as_tensor(answer, tensor) for answer, tensor in zip(answers, network.layout.outputs)]

    def health(self) -> Health:
        return Health(clock_hz=None if self._device.emulator or self._device.mcu is None else self._device.mcu.clock)

    def close(self) -> None:
        self._session.disconnect()
        self._station.close()
        if not self._shared:
            self._images.close()

    def _identity(self) -> Identity:
        if self._current is None:
            try:
                self._load(self._images.bare())
            except BuildError as error:
                raise DeviceUnavailable(f"the firmware cannot be built: {error.log}") from error
        assert self._session.identity is not None
        return self._session.identity

    def _prepare(self, artifact: Artifact) -> tuple[BuiltNetwork, int]:
        """The artifact's network and its number in the image that the board runs then."""
        network = read_network(artifact)
        linked = self._images.holding(network, self._current)
        self._load(linked)
        return network, linked.networks.index(network)

    def _load(self, linked: LinkedImage) -> None:
        """Flash an image unless the board runs it, and see that it does."""
        if linked is self._current:
            return
        self._current = None
        self._known.clear()
        there = self._is_there(linked)
        self._session.expect(linked.image.image_id)
        if not there:
            self._flash(linked)
        self._session.perform(lambda exchange, deadline: None, RUNGS * self._station.timing.boot_s)
        self._current = linked

    def _is_there(self, linked: LinkedImage) -> bool:
        if not self._station.keeps_image:
            return False
        found = self._session.peek()
        return found is not None and found.image_id == linked.image.image_id

    def _flash(self, linked: LinkedImage) -> None:
        for left in reversed(range(FLASH_TRIES)):
            self._session.disconnect()
            try:
                self._station.flash(linked.image)
                return
            except (CommandFailed, DeviceTimeout) as error:
                if not left:
                    raise self._session.quarantine(error) from error

    def _check(self, exchange: Exchange, deadline: float, network: BuiltNetwork, number: int) -> None:
        if number not in self._known:
            check_network(exchange, deadline, number, network.layout)
            self._known.add(number)

    def _ticks(self, exchange: Exchange, deadline: float, number: int, readings: int) -> tuple[list[int], RunReport]:
        """Ticks of as many runs, without those of an empty region; runs that an interrupt fell into are done again."""
        identity = self._session.identity
        assert identity is not None
        found: list[int] = []
        warmup, tries = self._device.protocol.warmup, CLEAN_TRIES
        while True:
            report = time_runs(exchange, deadline, number, warmup, readings - len(found))
            unavoidable = min(report.ticks) > INTERRUPT_PERIOD_S * identity.counter_hz
            if not report.interrupted or unavoidable or tries == 1:
                found += [t - report.overhead_ticks for t in report.ticks]
                tries = CLEAN_TRIES
            else:
                tries -= 1
            if len(found) >= readings:
                break
        if min(found) <= 0:
            raise MeasurementInvalid(f"a run took no longer than an empty one ({min(found)} ticks more)")
        spread = max(found) - min(found)
        if self._device.emulator is not None and spread > SPREAD_TICKS:
            raise MeasurementInvalid(
                f"readings of an emulated board differ by {spread} ticks, more than {SPREAD_TICKS}"
            )
        return found, report

    def _convert(self, ticks: int) -> float:
        """Ticks as seconds, or as instructions where QEMU counts them: one takes 2^shift ns of virtual time."""
        identity = self._session.identity
        assert identity is not None
        seconds = ticks / identity.counter_hz
        return seconds if self._device.emulator is None else seconds * 1e9 / 2**self._device.emulator.shift

    def _memory(self, network: BuiltNetwork, artifact: Artifact) -> dict[str, int]:
        """Bytes by use; flash and RAM of the image only where it holds this network alone."""
        assert self._current is not None
        layout = network.layout
        memory = {"arena": layout.arena_bytes, "workspace": layout.workspace_bytes, **artifact.memory}
        if len(self._current.networks) == 1:
            memory |= {use: self._current.image.memory[use] for use in ("flash", "ram")}
        return memory

    @contextlib.contextmanager
    def _counting_failures(self) -> Iterator[None]:
        """Too many failures in a row quarantine the board, whatever each of them was."""
        self._session.refuse_if_quarantined()
        if self._first is not None and self._failures >= self._device.protocol.failures_in_a_row:
            raise self._session.quarantine(self._first) from self._first
        try:
            yield
        except (NotMeasurable, DeviceQuarantined, ConfigError):
            raise
        except DeviceError as error:
            self._failures += 1
            self._first = self._first or error
            raise
        self._failures, self._first = 0, None


class FirmwareRunner:
    """Opens microcontroller boards: those of the lab file, or emulated ones."""

    name = "firmware"
    remote = True

    def __init__(self, lab: Lab | None = None) -> None:
        self._lab = lab

    def places(self, device: Device) -> tuple[str, ...]:
        if boards := self._laboratory().of(device.name):
            return tuple(board.name for board in boards)
        if device.emulator is None:
            raise DeviceUnavailable(_no_board(device))
        qemu_version()
        return tuple(f"qemu-{i + 1}" for i in range(self._laboratory().emulated.get(device.name, 1)))

    def open(self, device: Device, place: str | None = None) -> FirmwareBoard:
        places = self.places(device)
        if place is not None and place not in places:
            raise DeviceUnavailable(f"there is no board {place!r} of {device.name}; there are: {', '.join(places)}")
        chosen = place or places[0]
        board = next((b for b in self._laboratory().of(device.name) if b.name == chosen), None)
        opened = FirmwareBoard(device, station_of(device, chosen, board))
        if board is not None:
            try:
                opened.attach()
            except BaseException:
                opened.close()
                raise
        return opened

    def _laboratory(self) -> Lab:
        return self._lab if self._lab is not None else load_lab()


def _counter(identity: Identity) -> str:
    known = identity.counter in list(Counter)
    name = Counter(identity.counter).name.lower() if known else f"counter {identity.counter}"
    return f"{name} at {identity.counter_hz / 1e6:g} MHz"


def _as_bytes(network: BuiltNetwork, inputs: Sequence[np.ndarray]) -> list[bytes]:
    """The inputs as the device holds them. Raises DataError for other shapes or types than the network has."""
    wanted = network.layout.inputs
    if len(inputs) != len(wanted):
        raise DataError(f"the network has {len(wanted)} inputs, {len(inputs)} were given")
    for tensor, given in zip(wanted, inputs):
        if tuple(given.shape) != tensor.shape or given.dtype.name != tensor.dtype:
            raise DataError(
                f"input {tensor.name!r} is {tensor.dtype} {list(tensor.shape)}, not {given.dtype} {list(given.shape)}"
            )
    return [
        to_stored(given.astype(np.dtype(tensor.dtype).newbyteorder("<"), copy=False), tensor.layout).tobytes()
        for tensor, given in zip(wanted, inputs)
    ]


def _no_board(device: Device) -> str:
    return (
        f"no board of {device.name} is in the lab file ({lab_file()}). Say where it is plugged in:\n"
        "boards:\n"
        f"  - name: bench-1\n    device: {device.name}\n"
        "    serial: usb:SERIALNUMBER        # or /dev/serial/by-id/...\n"
        "    flash: [pyocd, flash, -t, TARGET, -u, '{serial}', '{elf}']\n"
    )
