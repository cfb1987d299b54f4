"""The PPK2 meter against an emulated one, driven by the unmodified ppk2-api."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from ppk2_api.ppk2_api import PPK2_API

from hwnas.core.interfaces import Loop
from hwnas.emulators.load import Load
from hwnas.emulators.lpm01a import Lpm01aEmulator
from hwnas.emulators.ppk2 import Ppk2Emulator
from hwnas.errors import ConfigError, DeviceUnavailable, MeasurementInvalid
from hwnas.meters.ppk2 import Ppk2Meter, count_samples, currents_a
from hwnas.testing.meters import IDLE_S, Bench, MeterContract

IDLE_A, ACTIVE_A = 1.5e-3, 8e-3


def bench(emulator: Ppk2Emulator, load: Load, **more: object) -> Bench:
    settings = {"port": emulator.port, "mode": "source", "voltage": "3.3 V", "trigger": "D0", **more}
    return Bench(Ppk2Meter, settings, load, ACTIVE_A)


class TestPpk2ByTrigger(MeterContract):
    @pytest.fixture
    def bench(self) -> Iterator[Bench]:
        load = Load(IDLE_A)
        with Ppk2Emulator(load) as emulator:
            yield bench(emulator, load)


class TestPpk2ByClock(MeterContract):
    @pytest.fixture
    def bench(self) -> Iterator[Bench]:
        load = Load(IDLE_A)
        with Ppk2Emulator(load, channel=None) as emulator:
            yield bench(emulator, load, trigger=None, mode="ampere")


def test_known_pulses_one_after_another() -> None:
    load = Load(IDLE_A)
    with Ppk2Emulator(load, channel=3) as emulator:
        pulses = bench(emulator, load, trigger="D3")
        meter = Ppk2Meter(pulses.settings)
        loops = []
        with meter.record() as trace:
            for _ in range(4):
                time.sleep(0.15)
                began = time.monotonic()
                with load.gate(ACTIVE_A):
                    time.sleep(0.2)
                loops.append(Loop(5, began, time.monotonic()))
            time.sleep(0.15)
        meter.close()
        for loop in loops:
            window = trace.window(loop, 0.1, 1000)
            assert window is not None
            assert window.net_j == pytest.approx(pulses.net_j(loop), rel=0.01)


def test_lost_samples_are_counted_by_the_counter() -> None:
    load = Load(IDLE_A)
    with Ppk2Emulator(load, skip={80_000: 7, 100_000: 40}) as emulator:
        pulses = bench(emulator, load)
        meter = Ppk2Meter(pulses.settings)
        trace, loop = pulses.record(meter, 0.8)
        meter.close()
        window = trace.window(loop, IDLE_S, 1000)
        assert window is not None
        assert window.lost == 47
        assert window.net_j == pytest.approx(pulses.net_j(loop), rel=0.01)


def test_a_loss_that_the_counter_cannot_show_is_seen_by_the_clock() -> None:
    load = Load(IDLE_A)
    with Ppk2Emulator(load, skip={90_000: 64 * 200}, channel=None) as emulator:
        pulses = bench(emulator, load, trigger=None)
        meter = Ppk2Meter(pulses.settings)
        trace, loop = pulses.record(meter, 0.8)
        meter.close()
        with pytest.raises(MeasurementInvalid, match=r"lost 1[23]\d\d\d of"):
            trace.window(loop, IDLE_S, 1000)


def test_a_trigger_that_is_not_wired() -> None:
    load = Load(IDLE_A)
    with Ppk2Emulator(load, channel=1) as emulator:
        pulses = bench(emulator, load)
        meter = Ppk2Meter(pulses.settings)
        trace, loop = pulses.record(meter, 0.3)
        meter.close()
        with pytest.raises(MeasurementInvalid, match="D0 was not raised during the loop; is it wired"):
            trace.window(loop, IDLE_S, 1000)


def test_a_gate_of_another_length() -> None:
    load = Load(IDLE_A)
    with Ppk2Emulator(load) as emulator:
        pulses = bench(emulator, load)
        meter = Ppk2Meter(pulses.settings)
        trace, loop = pulses.record(meter, 0.3)
        meter.close()
        with pytest.raises(MeasurementInvalid, match=r"raised for 0\.3"):
            trace.window(Loop(loop.runs, loop.began_s - 0.2, loop.ended_s), IDLE_S, 1000)


def test_the_plug_is_pulled_during_a_recording() -> None:
    load = Load(IDLE_A)
    with Ppk2Emulator(load) as emulator:
        meter = Ppk2Meter(bench(emulator, load).settings)
        with pytest.raises(DeviceUnavailable, match="ppk2"), meter.record():
            time.sleep(0.2)
            emulator.unplug()
            time.sleep(0.2)
        meter.close()


def test_it_feeds_the_board_until_it_is_closed() -> None:
    load = Load(IDLE_A)
    with Ppk2Emulator(load) as emulator:
        meter = Ppk2Meter(bench(emulator, load, voltage="1.8 V").settings)
        meter.open()
        time.sleep(0.05)
        assert emulator.behaviour.commands[-3:] == [b"\x11\x02", b"\x0d\x07\x08", b"\x0c\x01"]
        meter.close()
        time.sleep(0.05)
        assert emulator.behaviour.commands[-1] == b"\x0c\x00"


def test_a_port_that_is_not_there() -> None:
    meter = Ppk2Meter({"port": "/dev/serial/by-id/none", "mode": "source", "voltage": "3.3 V"})
    with pytest.raises(DeviceUnavailable, match=r"by-id/none cannot be opened"):
        meter.open()


def test_another_instrument_at_the_port() -> None:
    with Lpm01aEmulator(Load(IDLE_A)) as emulator:
        meter = Ppk2Meter({"port": emulator.port, "mode": "source", "voltage": "3.3 V"})
        with pytest.raises(DeviceUnavailable, match="does not answer as a PPK2"):
            meter.open()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"port": "x", "voltage": "3.3 V"}, "mode: is required"),
        ({"port": "x", "mode": "source", "voltage": 3.3}, "write it like '3.3 V'"),
        ({"port": "x", "mode": "source", "voltage": "12 V"}, "voltage: .*less than or equal to 5"),
        ({"port": "x", "mode": "source", "voltage": "3.3 V", "trigger": "D9"}, "trigger"),
        ({"port": "x", "mode": "source", "volt": "3.3 V"}, "did you mean voltage"),
    ],
)
def test_settings_that_are_wrong(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Ppk2Meter(settings)


def test_currents_are_those_of_ppk2_api() -> None:
    rng = np.random.default_rng(0)
    with Ppk2Emulator(Load(IDLE_A)) as emulator:
        api = PPK2_API(emulator.port, timeout=1)
        api.get_modifiers()
        api.set_source_voltage(3300)
        for key, scale in (("O", 3.0), ("S", 1e-7), ("I", 1e-8), ("GS", 0.05)):
            api.modifiers[key] = {str(i): float(rng.normal(0, scale)) for i in range(5)}
        for key in ("GI", "UG"):
            api.modifiers[key] = {str(i): float(rng.normal(1, 0.01)) for i in range(5)}
        for measuring_range in range(5):
            words = (rng.integers(0, 2**14, 500) | measuring_range << 14).astype("<u4")
            api.prev_range = None
            expected, _ = api.get_samples(words.tobytes())
            np.testing.assert_allclose(currents_a(words, api.modifiers, 3.3) * 1e6, expected, rtol=1e-9, atol=1e-12)
        api.ser.close()


def test_a_change_of_range_is_left_out() -> None:
    words = np.asarray([100, 100, 5000 | 1 << 14, 4000 | 1 << 14, 3000 | 1 << 14, 200 | 1 << 14, 200 | 1 << 14], "<u4")
    modifiers = {k: dict.fromkeys("01234", v) for k, v in
                 {"R": 10.0, "O": 0, "GS": 0, "GI": 1, "S": 0, "I": 0, "UG": 1}.items()}  # fmt: skip
    ratio = currents_a(words, modifiers, 3.3) / currents_a(words, modifiers, 3.3)[0]
    np.testing.assert_allclose(ratio, [1, 1, 2, 2, 2, 2, 2])


def test_the_counter_wraps_and_shows_gaps() -> None:
    index = np.asarray([0, 1, 2, 60, 61, 63, 64, 65, 127, 128])
    found, lost = count_samples(((index & 63) << 18).astype("<u4"))
    assert found.tolist() == index.tolist()
    assert lost.tolist() == [0, 0, 0, 57, 0, 1, 0, 0, 61, 0]
