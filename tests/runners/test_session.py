"""The session's states and ladder, in simulated time."""

from __future__ import annotations

import time

import pytest

from hwnas.errors import DeviceCrashed, DeviceQuarantined, DeviceTimeout
from hwnas.firmware.codes import Op
from hwnas.firmware.frames import Frame
from hwnas.firmware.protocol import Reset, Run, RunReport
from hwnas.runners.exchange import Exchange, Refused, StillRunning
from hwnas.runners.session import Session, State
from tests.runners.simulator import IMAGE, PORT, SimulatedStation, Simulator, Time


@pytest.fixture(autouse=True)
def no_real_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def session_of(mends: str | None = None, **settings: object) -> tuple[Simulator, SimulatedStation, Session]:
    simulator = Simulator(Time(), **settings)  # type: ignore[arg-type]
    station = SimulatedStation(simulator, mends)
    session = Session(station, PORT, simulator.time)
    session.expect(IMAGE)
    return simulator, station, session


def run(exchange: Exchange, deadline: float) -> RunReport:
    return exchange.call(Run(0, 0, 3), deadline, long=True)


def test_states_from_closed_to_ready() -> None:
    simulator, _, session = session_of()
    seen: list[State] = [session.state]

    def work(exchange: Exchange, deadline: float) -> None:
        seen.append(session.state)

    session.perform(work, 5.0)
    assert [*seen, session.state] == [State.CLOSED, State.MEASURING, State.READY]
    assert session.identity is not None
    assert [f.op for f in simulator.received] == [Op.HELLO]
    session.perform(work, 5.0)
    assert len(simulator.received) == 1  # who answers is asked once
    session.disconnect()
    assert session.state is State.CLOSED


@pytest.mark.parametrize(("mends", "rungs"), [
    ("connect", ["connect", "connect"]),
    ("reset", ["connect", "connect", "reset"]),
    ("power", ["connect", "connect", "reset", "power", "connect"]),
])  # fmt: skip
def test_the_ladder_is_climbed_until_something_helps(mends: str, rungs: list[str]) -> None:
    simulator, station, session = session_of(mends)
    if mends == "connect":
        session.open()
    else:
        session.perform(run, 5.0)
    simulator.mute = True
    assert session.perform(run, 120.0).runs == 3
    assert station.done == rungs
    assert session.state is State.READY
    assert session.disturbances > 0


def test_a_board_that_nothing_mends_is_quarantined_and_remembers_why() -> None:
    simulator, station, session = session_of(mute=True)
    with pytest.raises(
        DeviceQuarantined, match="bench-1 is quarantined; the first failure was DeviceTimeout: no answer to HELLO"
    ):
        session.perform(run, 500.0)
    assert station.done[-2:] == ["power", "connect"]
    assert session.state is State.QUARANTINED
    simulator.mute = False
    asked = len(simulator.received)
    for ask in (lambda: session.perform(run, 5.0), session.open, lambda: session.expect(IMAGE)):
        with pytest.raises(DeviceQuarantined, match="no answer to HELLO"):
            ask()
    assert len(simulator.received) == asked


def test_the_deadline_ends_a_climb_and_the_next_call_goes_on_there() -> None:
    simulator, station, session = session_of("power")
    session.perform(run, 5.0)
    simulator.mute = True
    began = simulator.time.now
    with pytest.raises(DeviceTimeout):
        session.perform(run, 8.0)
    assert simulator.time.now - began < 8.5
    assert "power" not in station.done
    assert session.perform(run, 60.0).runs == 3
    assert station.done.count("power") == 1


def test_a_line_that_went_away_is_waited_for() -> None:
    simulator, station, session = session_of()
    session.perform(run, 5.0)
    session.disconnect()
    station.absent = True
    with pytest.raises(DeviceQuarantined, match="LinkLost: /dev/ttyACM0 cannot be opened"):
        session.perform(run, 500.0)
    assert simulator.time.now < 60.0


def test_what_was_measured_across_a_restart_is_measured_again() -> None:
    simulator, _, session = session_of()
    session.perform(run, 5.0)
    left = {"restarts": 2}
    done: list[int] = []

    def work(exchange: Exchange, deadline: float) -> RunReport:
        done.append(simulator.nonce)
        if left["restarts"]:
            left["restarts"] -= 1
            simulator.restart()
        return run(exchange, deadline)

    assert session.perform(work, 60.0).runs == 3
    assert len(set(done)) == 3


def test_what_restarts_the_board_each_time_is_a_crash_and_the_board_goes_on() -> None:
    simulator, _, session = session_of()
    session.perform(run, 5.0)

    def work(exchange: Exchange, deadline: float) -> RunReport:
        simulator.restart(cause=4)
        return run(exchange, deadline)

    with pytest.raises(DeviceCrashed, match=r"restarted 3 times while this ran: .*\(watchdog\)"):
        session.perform(work, 60.0)
    assert session.perform(run, 5.0).runs == 3


def test_a_run_that_outlives_its_deadline_is_stopped() -> None:
    simulator, station, session = session_of(run_s=30.0)
    with pytest.raises(StillRunning):
        session.perform(run, 3.0)
    assert simulator.received[-1].op == Op.STOP
    assert session.state is State.READY
    simulator.run_s = 0.0
    assert session.perform(run, 5.0).runs == 3
    assert station.done == ["connect"]


def test_a_run_that_does_not_stop_is_recovered_from_by_the_next_call() -> None:
    simulator, station, session = session_of("reset", run_s=30.0)

    def rule(request: Frame) -> list[tuple[float, bytes]] | None:
        if request.op == Op.STOP:
            simulator.mute = True
            return []
        return None

    simulator.rule = rule
    with pytest.raises(StillRunning):
        session.perform(run, 3.0)
    simulator.run_s = 0.0
    assert session.perform(run, 60.0).runs == 3
    assert station.done == ["connect", "connect", "reset"]


def test_a_refusal_leaves_the_board_ready() -> None:
    simulator, station, session = session_of()
    session.perform(run, 5.0)
    simulator.rule = lambda request: [(0.0, simulator.reply(request, b"no", 2))]
    with pytest.raises(Refused):
        session.perform(lambda exchange, deadline: exchange.call(Reset(), deadline), 5.0)
    assert session.state is State.READY
    assert station.done == ["connect"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"protocol": 2}, "WrongFirmware: bench-1 speaks protocol 2 and hwnas 1; flash it with this hwnas"),
        ({"counter_hz": 0}, "WrongFirmware: bench-1 takes bodies of 240 bytes and counts at 0 Hz"),
        (
            {"port": "stm32f4"},
            "WrongBoard: bench-1 is a board of port 'stm32f4', not 'mps2': is another plugged in there?",
        ),
        (
            {"image": b"image-9999"},
            r"WrongFirmware: bench-1 runs image [0-9a-f]{20} \(firmware 1.0\), not [0-9a-f]{20} that",
        ),
    ],
)
def test_another_board_or_firmware_is_named_and_quarantined(settings: dict[str, object], words: str) -> None:
    _, station, session = session_of(**settings)
    with pytest.raises(DeviceQuarantined, match=words):
        session.perform(run, 60.0)
    assert station.done == ["connect"]  # a reset does not make another board of it


def test_a_board_that_is_exchanged_during_the_session_is_noticed() -> None:
    simulator, _, session = session_of()
    session.perform(run, 5.0)
    simulator.board = b"board-000002"
    simulator.restart()
    with pytest.raises(DeviceQuarantined, match="WrongBoard: another board answers at bench-1: its id is 626f"):
        session.perform(run, 60.0)


def test_an_answer_of_no_after_a_recovery_is_no_reason_for_another() -> None:
    simulator, station, session = session_of("reset")
    session.perform(run, 5.0)
    simulator.mute = True

    def work(exchange: Exchange, deadline: float) -> RunReport:
        if "reset" in station.done:
            raise Refused("no")
        return run(exchange, deadline)

    with pytest.raises(Refused):
        session.perform(work, 60.0)
    assert session.perform(run, 5.0).runs == 3
    assert station.done.count("reset") == 1


def test_a_board_that_is_exchanged_while_it_is_silent_is_named_for_what_it_is() -> None:
    simulator, _, session = session_of("reset")
    session.perform(run, 5.0)
    simulator.mute, simulator.board = True, b"board-000002"
    with pytest.raises(DeviceQuarantined, match="first failure was WrongBoard"):
        session.perform(run, 60.0)
    assert session.peek() is None
    assert session.state is State.QUARANTINED


def test_numbers_go_on_over_a_new_line_so_that_no_late_reply_is_taken_for_another() -> None:
    simulator, _, session = session_of()
    for _ in range(3):
        session.perform(run, 5.0)
        session.disconnect()
    seqs = [f.seq for f in simulator.received]
    assert seqs == list(range(1, 7))


def test_peeking_expects_nothing_and_climbs_nothing() -> None:
    simulator, station, session = session_of(image=b"image-9999")
    identity = session.peek()
    assert identity is not None
    assert identity.image_id == b"image-9999"
    simulator.mute = True
    assert session.peek() is None
    station.absent = True
    session.disconnect()
    assert session.peek() is None
    assert "reset" not in station.done
