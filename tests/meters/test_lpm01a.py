"""The LPM01A meter against an emulated one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.core.interfaces import Loop
from hwnas.emulators.load import Load
from hwnas.emulators.lpm01a import Lpm01aEmulator, decimal
from hwnas.emulators.ppk2 import Ppk2Emulator
from hwnas.errors import ConfigError, DeviceUnavailable, MeasurementInvalid
from hwnas.meters import lpm01a
from hwnas.meters.lpm01a import Lpm01aMeter
from hwnas.testing.meters import IDLE_S, Bench, MeterContract

IDLE_A, ACTIVE_A = 1.5e-3, 8e-3


def bench(emulator: Lpm01aEmulator, load: Load, **more: Any) -> Bench:
    return Bench(Lpm01aMeter, {"port": emulator.port, "voltage": "3.3 V", **more}, load, ACTIVE_A)


class TestLpm01aByLevel(MeterContract):
    @pytest.fixture
    def bench(self) -> Iterator[Bench]:
        load = Load(IDLE_A)
        with Lpm01aEmulator(load) as emulator:
            yield bench(emulator, load, trigger="level")


class TestLpm01aByPulses(MeterContract):
    @pytest.fixture
    def bench(self) -> Iterator[Bench]:
        load = Load(IDLE_A)
        with Lpm01aEmulator(load, pulses=True) as emulator:
            yield bench(emulator, load, trigger="pulses", samples_per_s=5000)


class TestLpm01aByClock(MeterContract):
    @pytest.fixture
    def bench(self) -> Iterator[Bench]:
        load = Load(IDLE_A)
        with Lpm01aEmulator(load) as emulator:
            yield bench(emulator, load)


def test_lost_samples_are_counted_by_the_stamps() -> None:
    load = Load(IDLE_A)
    with Lpm01aEmulator(load, skip={3300: 25, 4400: 3}) as emulator:
        lossy = bench(emulator, load, samples_per_s=5000)
        meter = Lpm01aMeter(lossy.settings)
        trace, loop = lossy.record(meter, 0.9)
        meter.close()
        window = trace.window(loop, IDLE_S, 1000)
        assert window is not None
        assert window.lost == 28
        assert window.net_j == pytest.approx(lossy.net_j(loop), rel=0.01)


def test_many_lost_samples_are_no_measurement() -> None:
    load = Load(IDLE_A)
    with Lpm01aEmulator(load, skip={3200: 600}) as emulator:
        lossy = bench(emulator, load, samples_per_s=5000)
        meter = Lpm01aMeter(lossy.settings)
        trace, loop = lossy.record(meter, 0.9)
        meter.close()
        with pytest.raises(MeasurementInvalid, match="lost 600 of"):
            trace.window(loop, IDLE_S, 1000)


def test_a_trigger_that_is_not_wired() -> None:
    load = Load(IDLE_A)
    with Lpm01aEmulator(load) as emulator:
        unwired = bench(emulator, load, trigger="level")
        meter = Lpm01aMeter(unwired.settings)
        with meter.record() as trace:
            time.sleep(0.4)
            began = load.draw(ACTIVE_A, trigger=False)
            time.sleep(0.3)
            ended = load.draw(IDLE_A)
            time.sleep(0.4)
        meter.close()
        with pytest.raises(MeasurementInvalid, match="D7 was not raised"):
            trace.window(Loop(1, began, ended), IDLE_S, 10)


def test_a_fault_of_the_meter_is_named() -> None:
    load = Load(IDLE_A)
    with Lpm01aEmulator(load, error_at=100) as emulator:
        meter = Lpm01aMeter(bench(emulator, load).settings)
        with pytest.raises(DeviceUnavailable, match="reports: Voltage drop"), meter.record():
            time.sleep(0.4)
        meter.close()


def test_the_plug_is_pulled_during_a_recording() -> None:
    load = Load(IDLE_A)
    with Lpm01aEmulator(load) as emulator:
        meter = Lpm01aMeter(bench(emulator, load).settings)
        with pytest.raises(DeviceUnavailable, match="lpm01a"), meter.record():
            time.sleep(0.2)
            emulator.unplug()
            time.sleep(0.2)
        meter.close()


def test_it_takes_control_and_hands_it_back() -> None:
    load = Load(IDLE_A)
    with Lpm01aEmulator(load) as emulator:
        meter = Lpm01aMeter(bench(emulator, load, voltage="1.8 V", trigger="level").settings)
        with meter.record():
            time.sleep(0.05)
        meter.close()
        commands = emulator.behaviour.commands
        assert commands[0] == "htc"
        assert {"volt 1800m", "output energy", "freq 1k", "eventsrc d7 fal", "pwr on nostatus"} < set(commands)
        assert commands[-4:] == ["start", "stop", "pwr off", "hrc"]


def test_another_instrument_at_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lpm01a, "ANSWER_S", 0.3)
    with Ppk2Emulator(Load(IDLE_A)) as emulator:
        meter = Lpm01aMeter({"port": emulator.port, "voltage": "3.3 V"})
        with pytest.raises(DeviceUnavailable, match=r"no answer to 'htc'.* is it an LPM01A"):
            meter.open()


def test_a_port_that_is_not_there() -> None:
    meter = Lpm01aMeter({"port": "/dev/serial/by-id/none", "voltage": "3.3 V"})
    with pytest.raises(DeviceUnavailable, match=r"by-id/none cannot be opened"):
        meter.open()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"port": "x", "voltage": "5 V"}, "voltage: .*less than or equal to 3.3"),
        ({"port": "x", "voltage": "3.3 V", "samples_per_s": 10_000}, "samples_per_s"),
        ({"port": "x", "voltage": "3.3 V", "trigger": "D7"}, "'level' or 'pulses'"),
        ({"voltage": "3.3 V"}, "port: is required"),
    ],
)
def test_settings_that_are_wrong(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Lpm01aMeter(settings)


def decoded(text: str, rate_hz: int = 1000) -> Any:
    found = lpm01a._Decoded(rate_hz)
    for line in text.split("\r\n"):
        found.feed(line)
    return found


def test_the_example_of_the_manual() -> None:
    assert decoded("6409-07\r\n").energy_j == pytest.approx([640.9e-6])


@given(st.floats(1e-12, 1e-2))
def test_a_number_and_back(value: float) -> None:
    assert decoded(decimal(value)).energy_j[0] == pytest.approx(value, rel=5e-4)


def test_what_is_no_sample_is_none_and_the_summary_is_not_either() -> None:
    found = decoded(
        "1000-06\r\n10\x00-06\r\n6409-0\r\n\r\nend\r\nsummary begin\r\n1000-06\r\n2000-06\r\nsummary end\r\n"
    )
    assert len(found.energy_j) == 1
    assert found.ended


def test_a_stamp_after_the_clock_of_the_meter_started_again() -> None:
    found = decoded("")
    found.next_index = 999_999
    found.feed("1000-06")
    found.feed("TimeStamp: 000s 000ms, buff 00%")
    assert (found.next_index, found.pending) == (1_000_000, 0)
    found.feed("TimeStamp: 000s 005ms, buff 00%")
    assert (found.next_index, found.pending) == (1_000_005, 5)
