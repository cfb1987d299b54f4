"""The fault matrix of the serial transport: real firmware in QEMU, a pseudo-terminal, and a line that is spoiled.

Every case has to end in a correct result, a retried measurement, or a named failure: never a wrong number, never past
its deadline. What was not measured is seen in the table that the last test prints (pytest -s).
"""

from __future__ import annotations

import struct
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from random import Random

import numpy as np
import pytest

from hwnas.config import load_device
from hwnas.core.workload import Artifact
from hwnas.errors import DeviceError, DeviceQuarantined, MeasurementInvalid
from hwnas.faults import (
    AtRequest,
    Delay,
    Direction,
    Fault,
    FaultProxy,
    Noise,
    Rewrite,
    Silence,
    WrongBaud,
    after,
    inject,
    unplug,
)
from hwnas.firmware.codes import Op, Provocation
from hwnas.firmware.frames import Frame
from hwnas.firmware.protocol import Provoke
from hwnas.runners.exchange import Timing
from hwnas.runners.firmware import FirmwareBoard
from hwnas.runners.images import Images
from hwnas.runners.session import State
from tests.runners.spoiled import SpoiledStation
from tests.runners.tiny import tiny, tiny_outputs

SEEDS = 20
FEW_SEEDS = 5
TIMEOUT_S = 6.0
LEEWAY_S = 2.0
"""What a call may take beyond its deadline: the exchange under way, and starting QEMU anew on a busy computer."""
WORK = 20_000
LONG_WORK = 3_000_000
DEVICE = load_device("cortex-m4-qemu")
TIMING = Timing(slack_s=0.05, boot_s=0.5, silence_s=0.25, retries=3)
HASTY = Timing(slack_s=0.04, boot_s=0.5, silence_s=0.1, retries=1)
"""Where asking again cannot help, so that twenty seeds of it take less long."""

Make = Callable[[Random, SpoiledStation], Sequence[Fault]]


def provoke(kind: Provocation, count: int = 0) -> Callable[[Random, SpoiledStation], Sequence[Fault]]:
    """The firmware misbehaves at a RUN, once."""
    return lambda random, station: [
        AtRequest(Op.RUN, inject(Frame(0xEE, Op.PROVOKE, Provoke(kind, count).body())), nth=random.randint(1, 2))
    ]


def rates(kind: str) -> Make:
    return lambda random, station: [Noise(kind, 10 ** random.uniform(-3, -2))]  # type: ignore[arg-type]


def reset_in_mid_run(random: Random, station: SpoiledStation) -> Sequence[Fault]:
    return [AtRequest(Op.RUN, after(random.uniform(0, 0.2), station.qemu.reset), times=random.randint(1, 2))]


def hello(change: Callable[[bytearray], None]) -> Make:
    """HELLO says something else than the board that was flashed would."""

    def changed(frame: Frame) -> Frame:
        body = bytearray(frame.body)
        change(body)
        return Frame(frame.seq, frame.op, bytes(body))

    return lambda random, station: [
        Rewrite(Op.HELLO, changed),
        AtRequest(Op.RUN, inject(Frame(0xEE, Op.RESET)), nth=1),  # so that it is asked again who it is
    ]


def another_version(body: bytearray) -> None:
    body[5] = 99  # the protocol
    struct.pack_into("<H", body, 6, 0x6300)


def another_image(body: bytearray) -> None:
    body[5 + 17 : 5 + 27] = b"other image"[:10]


def another_port(body: bytearray) -> None:
    body[5 + 39 :] = b"nrf52840"


def another_id(body: bytearray) -> None:
    body[5 + 27 : 5 + 39] = b"board-000002"


def lying(random: Random, station: SpoiledStation) -> Sequence[Fault]:
    """Replies whose CRC is right and whose length is not."""

    def cut(frame: Frame) -> Frame:
        body = frame.body[:-3] if random.random() < 0.5 else frame.body + b"\1\2\3"
        return Frame(frame.seq, frame.op, body)

    op = random.choice([Op.RUN, Op.READ, Op.CHECK, Op.WRITE])
    return [Rewrite(op, cut, times=random.choice([1, 2, 100]))]


def brown_out(random: Random, station: SpoiledStation) -> Sequence[Fault]:
    return provoke(Provocation.BROWN_OUT, random.choice([1, 3, 12, 60, 255]))(random, station)


def dead(random: Random, station: SpoiledStation) -> Sequence[Fault]:
    return [AtRequest(Op.RUN, lambda proxy: setattr(proxy, "faults", [Silence(random.choice([None, "host"]))]))]


def until(what: str, fault: Fault) -> Make:
    """A fault that lasts until the board is reset from outside, or switched off and on (`resets`, `power_cycles`)."""

    class Lasting:
        def __init__(self, station: SpoiledStation) -> None:
            self.station, self.before = station, getattr(station, what)

        def spoil(self, data: bytes, to: Direction, proxy: FaultProxy) -> bytes:
            return data if getattr(self.station, what) > self.before else fault.spoil(data, to, proxy)

    return lambda random, station: [Lasting(station)]


def wrong_baud(random: Random, station: SpoiledStation) -> Sequence[Fault]:
    return until(random.choice(["resets", "power_cycles"]), WrongBaud())(random, station)


def unplugged(random: Random, station: SpoiledStation) -> Sequence[Fault]:
    at = random.choice([Op.RUN, Op.WRITE, Op.READ])
    return [AtRequest(at, unplug(random.uniform(0, 0.4)), nth=random.randint(1, 2))]


MATRIX: dict[str, tuple[Make, int]] = {
    "drop": (rates("drop"), SEEDS),
    "flip": (rates("flip"), SEEDS),
    "duplicate": (rates("duplicate"), SEEDS),
    "reorder": (rates("reorder"), SEEDS),
    "garbage": (rates("garbage"), SEEDS),
    "delay": (lambda random, station: [Delay(0.3, 0.12)], SEEDS),
    "reset in mid-run": (reset_in_mid_run, SEEDS),
    "hang": (provoke(Provocation.HANG), SEEDS),
    "brown-out loop": (brown_out, SEEDS),
    "wrong baud": (wrong_baud, SEEDS),
    "unplug and replug": (unplugged, SEEDS),
    "wrong firmware version": (hello(another_version), SEEDS),
    "wrong board": (hello(another_port), SEEDS),
    "reply whose length lies": (lying, SEEDS),
    "reply cut by the firmware": (provoke(Provocation.LYING_LENGTH), FEW_SEEDS),
    "restart": (provoke(Provocation.RESTART), FEW_SEEDS),
    "hard fault": (provoke(Provocation.HARD_FAULT), FEW_SEEDS),
    "hang, interrupts off": (provoke(Provocation.HANG_INTERRUPTS_OFF), FEW_SEEDS),
    "silent until power-cycled": (until("power_cycles", Silence()), FEW_SEEDS),
    "dead": (dead, FEW_SEEDS),
    "another image": (hello(another_image), FEW_SEEDS),
    "board exchanged": (hello(another_id), FEW_SEEDS),
}
MENDED = {"restart", "reply cut by the firmware", "unplug and replug", "wrong baud", "silent until power-cycled"}
"""A right result has to come of these."""
QUARANTINE = {"dead", "wrong firmware version", "another image", "wrong board", "board exchanged"}
"""Nothing that the host can do mends these."""

LASTING = {"wrong baud", "silent until power-cycled", "dead"}

Outcomes = dict[str, Counter[str]]


@pytest.fixture(scope="module")
def outcomes() -> Outcomes:
    return defaultdict(Counter)


@pytest.fixture(scope="module")
def images() -> Iterator[Images]:
    images = Images(DEVICE, faults=True)  # boards come and go; the images stay
    yield images
    images.close()


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("networks")
    return {
        "short": tiny(folder / "short", DEVICE, "short_one", work=WORK),
        "long": tiny(folder / "long", DEVICE, "long_one", work=LONG_WORK),
    }


@pytest.fixture(scope="module")
def station() -> Iterator[SpoiledStation]:
    station = SpoiledStation(DEVICE, TIMING)
    yield station
    station.end()


def open_board(station: SpoiledStation, images: Images, artifacts: dict[str, Artifact]) -> FirmwareBoard:
    board = FirmwareBoard(DEVICE, station, images)
    board.stage(list(artifacts.values()))
    return board


@pytest.fixture(scope="module")
def truth(station: SpoiledStation, images: Images, artifacts: dict[str, Artifact]) -> dict[str, float]:
    """Instructions on a line that nobody spoils."""
    board = open_board(station, images, artifacts)
    found = {}
    for name, artifact in artifacts.items():
        found[name] = board.run(artifact, 5, 20.0).metric("instructions") or 0.0
    board.close()
    assert found["long"] > 10 * found["short"] > 0
    return found


@pytest.mark.parametrize("fault", MATRIX)
def test_no_fault_makes_a_wrong_number(
    fault: str,
    station: SpoiledStation,
    images: Images,
    artifacts: dict[str, Artifact],
    truth: dict[str, float],
    outcomes: Outcomes,
) -> None:
    make, seeds = MATRIX[fault]
    station.timing = HASTY if fault in LASTING else TIMING
    name = "long" if fault == "reset in mid-run" else "short"
    artifact, expected = artifacts[name], truth[name]
    board: FirmwareBoard | None = None
    for seed in range(seeds):
        random = Random(f"{fault} {seed}")
        station.proxy.reseed(seed)
        if board is None:
            station.reset()
            board = open_board(station, images, artifacts)
            board.run(artifacts["short"], 3, 20.0)  # it is up before the line is spoiled
        before = board.disturbances
        x = np.random.default_rng(seed).integers(-128, 128, (1, 32), dtype=np.int8)
        station.proxy.reseed(seed, make(random, station))
        began = time.monotonic()
        try:
            samples = board.run(artifact, 5, TIMEOUT_S)
            assert samples.metric("instructions") == pytest.approx(expected, abs=8), (fault, seed)
            assert samples.latency_s == ()
            assert time.monotonic() - began < TIMEOUT_S + LEEWAY_S, (fault, seed)
            began = time.monotonic()
            answers = board.outputs(artifact, [x], TIMEOUT_S)
            for answer, right in zip(answers, tiny_outputs(x), strict=True):
                assert np.array_equal(answer, right), (fault, seed)
            outcome = "retried" if board.disturbances > before else "correct"
        except DeviceQuarantined as error:
            assert "first failure was" in str(error)
            assert board.state is State.QUARANTINED
            outcome = f"quarantined: {str(error).split('first failure was ')[1].split(':')[0]}"
        except (DeviceError, MeasurementInvalid) as error:
            outcome = type(error).__name__
        took = time.monotonic() - began
        assert took < TIMEOUT_S + LEEWAY_S, (fault, seed, outcome, took)
        assert outcome in ("correct", "retried") or fault not in MENDED, (fault, seed, outcome)
        assert outcome.startswith("quarantined") or fault not in QUARANTINE, (fault, seed, outcome)
        outcomes[fault][outcome] += 1
        station.proxy.reseed(seed)
        if board.state is State.QUARANTINED:
            with pytest.raises(DeviceQuarantined):
                board.run(artifact, 3, TIMEOUT_S)
            board.close()
            board = None
        elif outcome not in ("correct", "retried"):
            samples = board.run(artifact, 3, 20.0)  # the board goes on
            assert samples.metric("instructions") == pytest.approx(expected, abs=8)
    if board is not None:
        board.close()


def test_the_whole_matrix_ran(outcomes: Outcomes, capsys: pytest.CaptureFixture[str]) -> None:
    if len(outcomes) < len(MATRIX):
        return  # a part was selected
    with capsys.disabled():
        print("\nfault                          outcomes")
        for fault, counts in outcomes.items():
            print(f"{fault:30} {', '.join(f'{n} {outcome}' for outcome, n in counts.most_common())}")
    assert {name: sum(counts.values()) for name, counts in outcomes.items()} == {n: s for n, (_, s) in MATRIX.items()}
