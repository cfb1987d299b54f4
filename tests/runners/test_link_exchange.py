"""Request and reply in simulated time: what is asked again, what is waited for, and what is told when it fails."""

from __future__ import annotations

import struct

import pytest

from hwnas.errors import DeviceCrashed, DeviceError, DeviceTimeout, LinkCorrupt
from hwnas.firmware.codes import Op, Status
from hwnas.firmware.frames import RESYNC, Frame, encode
from hwnas.firmware.protocol import Fault, Hello, Info, Request, Reset, Run
from hwnas.runners.crash import describe
from hwnas.runners.exchange import (
    Exchange,
    InputUsed,
    KernelError,
    Refused,
    Restarted,
    StillRunning,
    Timing,
)
from tests.runners.simulator import SimulatedLink, Simulator, Time, alive_event

TIMING = Timing()
RUN = Run(0, 1, 3)


def pair(**settings: object) -> tuple[Simulator, Exchange]:
    simulator = Simulator(Time(), **settings)  # type: ignore[arg-type]
    return simulator, Exchange(SimulatedLink(simulator), TIMING, simulator.time)


def losing(simulator: Simulator, lost: int) -> None:
    """The work is done, and the first replies are lost."""
    state = {"left": lost}

    def rule(request: Frame) -> list[tuple[float, bytes]] | None:
        if state["left"] and request.op == Op.RUN:
            state["left"] -= 1
            if simulator.last is None or simulator.last[0] != request:
                simulator.executed.append(request)
                simulator.last = (request, simulator.work(request))
            return []
        return None

    simulator.rule = rule


def test_a_reply_comes_at_once() -> None:
    simulator, exchange = pair()
    identity = exchange.call(Hello(), 10.0)
    assert (identity.port, identity.counter_hz) == ("mps2", 100_000_000)
    assert exchange.nonce == simulator.nonce
    assert simulator.time.now == 0.0


def test_a_lost_reply_is_asked_for_again_and_the_work_is_done_once() -> None:
    simulator, exchange = pair()
    losing(simulator, 2)
    assert exchange.call(RUN, 20.0, long=True).ticks == (1010,) * 3
    assert [f.op for f in simulator.executed] == [Op.RUN]
    assert len({f.seq for f in simulator.received}) == 1
    assert exchange.resent == 2


def test_no_answer_at_all_ends_after_the_retries() -> None:
    simulator, exchange = pair(mute=True)
    with pytest.raises(DeviceTimeout, match="no answer to HELLO, asked 4 times"):
        exchange.call(Hello(), 100.0)
    assert len(simulator.received) == 4
    assert simulator.time.now < 4 * 0.25


def test_no_wait_goes_beyond_the_deadline() -> None:
    simulator, exchange = pair(mute=True)
    with pytest.raises(DeviceTimeout, match="asked 1 times"):
        exchange.call(Hello(), 0.05)
    assert simulator.time.now == pytest.approx(0.05)


def test_heartbeats_keep_a_long_run_alive() -> None:
    simulator, exchange = pair(run_s=30.0)
    assert exchange.call(RUN, 60.0, long=True).runs == 3
    assert simulator.time.now == pytest.approx(30.0)
    assert len(simulator.received) == 1


def test_a_run_that_outlives_its_deadline_is_told_from_a_silent_one() -> None:
    simulator, exchange = pair(run_s=30.0)
    with pytest.raises(StillRunning, match="RUN had not ended by its deadline"):
        exchange.call(RUN, 5.0, long=True)
    assert simulator.time.now == pytest.approx(5.0)
    simulator, exchange = pair(run_s=30.0, beat_s=0.0)
    with pytest.raises(DeviceTimeout, match="no answer to RUN") as error:
        exchange.call(RUN, 60.0, long=True)
    assert not isinstance(error.value, StillRunning)
    assert simulator.time.now < 4 * (TIMING.silence_s + 0.3)


def test_heartbeats_of_something_else_keep_nothing_alive() -> None:
    simulator, exchange = pair()
    exchange.call(Hello(), 1.0)
    began = simulator.time.now
    simulator.rule = lambda request: [(0.1 * i, alive_event(Op.LOOP, i)) for i in range(100)]
    with pytest.raises(DeviceTimeout):
        exchange.call(RUN, 100.0, long=True)
    assert simulator.time.now - began < 4 * (TIMING.silence_s + 0.3)


def test_the_reply_to_an_earlier_request_is_not_taken_for_this_one() -> None:
    simulator, exchange = pair()
    late: list[Frame] = []

    def rule(request: Frame) -> list[tuple[float, bytes]] | None:
        if request.op == Op.INFO:
            late.append(request)
            return []
        return None

    simulator.rule = rule
    with pytest.raises(DeviceTimeout):
        exchange.call(Info(0), 10.0)
    simulator.send(simulator.reply(late[0], b"stale"))
    assert exchange.call(RUN, 20.0, long=True).runs == 3


def test_sequence_numbers_come_round_and_leave_out_that_of_events() -> None:
    simulator, exchange = pair()
    for _ in range(600):
        exchange.call(Hello(), 10.0)
    seqs = [f.seq for f in simulator.received]
    assert seqs[:3] == [1, 2, 3]
    assert seqs[254:257] == [255, 1, 2]
    assert 0 not in seqs


def test_a_changed_nonce_means_a_restart_wherever_it_is_seen() -> None:
    simulator, exchange = pair()
    exchange.call(Hello(), 1.0)
    simulator.restart(announce=False)
    with pytest.raises(Restarted, match="restarted by itself"):
        exchange.call(Reset(), 2.0)
    simulator, exchange = pair(run_s=5.0)
    exchange.call(Hello(), 1.0)
    simulator.rule = lambda request: [(1.0, encode(Frame(0, Op.BOOT, struct.pack("<IB", 77, 4))))]
    with pytest.raises(Restarted, match=r"by itself \(watchdog\)"):
        exchange.call(RUN, 20.0, long=True)
    with pytest.raises(Restarted, match=r"\(cause 9\)"):
        raise Restarted(9)


def test_the_announcement_of_the_boot_that_is_known_means_nothing() -> None:
    simulator, exchange = pair()
    exchange.call(Hello(), 1.0)
    simulator.send(encode(Frame(0, Op.BOOT, struct.pack("<IB", simulator.nonce, 1))))
    assert exchange.call(RUN, 20.0, long=True).runs == 3


def test_events_before_anybody_was_asked_mean_nothing() -> None:
    simulator, exchange = pair()
    simulator.send(encode(Frame(0, Op.FAULT, struct.pack("<BIIIII", 1, 2, 3, 0x10000, 5, 6))))
    simulator.send(encode(Frame(0, Op.BOOT, struct.pack("<IB", 3, 1))))
    assert exchange.call(Hello(), 1.0).port == "mps2"


def test_a_fault_ends_the_wait_and_is_told_in_words() -> None:
    simulator, exchange = pair()
    exchange.call(Hello(), 1.0)
    fault = encode(Frame(0, Op.FAULT, struct.pack("<BIIIII", 1, 0x08001234, 0x08001001, 1 << 25, 1 << 30, 0)))
    simulator.rule = lambda request: [(0.2, fault)]
    with pytest.raises(DeviceCrashed, match=r"hard fault: a division by zero \(pc 0x08001234, lr 0x08001001"):
        exchange.call(RUN, 20.0, long=True)
    assert simulator.time.now == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(1, 0, 0, 0x8200, 0, 0x60000000), "hard fault: a bus fault on a data access, at address 0x60000000"),
        (Fault(1, 0, 0, 1 << 19, 0, 0), "no coprocessor: floating-point code on a core without an FPU"),
        (Fault(2, 0, 0, 0, 0, 0), "the board stopped: stack overflow (pc"),
        (Fault(3, 0x100, 0, 0, 0, 0), "the board stopped: watchdog, because it hung (pc 0x00000100"),
        (Fault(9, 0, 0, 0, 0, 0), "fault of unknown kind 9"),
    ],
)
def test_faults_in_words(fault: Fault, words: str) -> None:
    assert words in describe(fault)


def test_noise_alone_asks_whether_the_baud_rate_is_right() -> None:
    simulator, exchange = pair()
    simulator.rule = lambda request: [(0.01, b"\0\x81\x40\xfe\x13\0\x99\0")]
    with pytest.raises(LinkCorrupt, match=r"nothing but noise .* to HELLO: is the baud rate right\?"):
        exchange.call(Hello(), 10.0)


def test_a_corrupt_reply_is_asked_for_again_without_waiting_long() -> None:
    simulator, exchange = pair()
    exchange.call(Hello(), 1.0)
    spoiled = {"left": 2}

    def rule(request: Frame) -> list[tuple[float, bytes]] | None:
        if spoiled["left"]:
            spoiled["left"] -= 1
            return [(0.0, b"\0\x05nois\0")]
        return None

    simulator.rule = rule
    exchange.call(Hello(), 10.0)
    assert exchange.resent == 2
    assert simulator.time.now < 0.15
    simulator.rule = lambda request: [(0.0, b"\0\x05nois\0")]
    with pytest.raises(LinkCorrupt, match="no good reply to HELLO, and 4 corrupt ones"):
        exchange.call(Hello(), 10.0)


def test_a_length_that_lies_is_asked_for_anew_under_another_number() -> None:
    simulator, exchange = pair()
    lies = {"left": 1}

    def rule(request: Frame) -> list[tuple[float, bytes]] | None:
        if request.op == Op.RUN and lies["left"]:
            lies["left"] -= 1
            simulator.last = (request, [(0.0, simulator.reply(request, b"\1\2\3"))])
            return simulator.last[1]
        return None

    simulator.rule = rule
    assert exchange.call(RUN, 20.0, long=True).runs == 3
    assert len({f.seq for f in simulator.received}) == 2
    lies["left"] = 100
    with pytest.raises(LinkCorrupt, match="the reply to RUN ends after 3 bytes; its fields need more"):
        exchange.call(RUN, 40.0, long=True)


@pytest.mark.parametrize(
    ("status", "rest", "kind", "words"),
    [
        (Status.UNKNOWN_OP, b"", Refused, "RESET was refused: the firmware does not know it"),
        (Status.OUT_OF_RANGE, b"offset", Refused, "RESET was refused: out of range offset"),
        (Status.NO_NETWORK, b"", Refused, "there is no such network in the image"),
        (Status.INPUT_USED, b"", InputUsed, "used up"),
        (Status.KERNEL_ERROR, struct.pack("<i", -3), KernelError, "a kernel reported error -3"),
        (Status.STOPPED, b"", DeviceTimeout, "RESET was stopped"),
        (99, b"", Refused, "RESET was refused: 99"),
    ],
)
def test_refusals_are_told(status: int, rest: bytes, kind: type[DeviceError], words: str) -> None:
    simulator, exchange = pair()
    simulator.rule = lambda request: [(0.0, simulator.reply(request, rest, status))]
    with pytest.raises(kind, match=words):
        exchange.call(Reset(), 10.0)
    assert len(simulator.received) == 1


def test_resynchronising_forgets_what_had_arrived_and_bears_a_babbler() -> None:
    simulator, exchange = pair()
    exchange.call(Hello(), 1.0)
    for i in range(1000):
        simulator.send(RESYNC + b"babble", 0.01 * i)
    began = simulator.time.now
    exchange.resync()
    assert exchange.nonce is None
    assert simulator.time.now - began < 1.0


def test_a_request_without_a_parser_is_a_mistake_of_ours() -> None:
    with pytest.raises(NotImplementedError):
        Request().parse(b"")
