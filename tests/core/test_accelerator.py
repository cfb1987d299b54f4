"""Accelerators: what their YAML must say, and which metrics follow from a row by it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hwnas import api
from hwnas.core.device import Device
from hwnas.core.measurement import Fidelity, Samples
from hwnas.errors import ConfigError


def body(name: str = "ethos-u55-128") -> dict[str, Any]:
    return api.load_device(name).model_dump(mode="json", by_alias=True)


def test_latency_is_cycles_over_the_clock_and_energy_a_rule_over_traffic() -> None:
    device = api.load_device("ethos-u55-128")
    run = Samples(cycles=(50_000.0,), macs=1e6, traffic={"sram": 1000.0, "flash": 200.0})
    assert device.metric == "cycles" and device.derived == ("latency", "energy")
    assert device.value(run, "cycles") == 50_000.0
    assert device.value(run, "latency") == pytest.approx(100e-6)
    assert device.value(run, "energy") == pytest.approx(1e6 * 0.3e-12 + 1000 * 6e-12 + 200 * 20e-12 + 5e-3 * 100e-6)


def test_what_a_row_does_not_tell_is_not_derived() -> None:
    device = api.load_device("ethos-u55-128")
    assert device.value(Samples(latency_s=(1.0,)), "latency") is None
    assert device.value(Samples(cycles=(1.0,)), "energy") is None
    assert device.value(Samples(cycles=(1.0,), memory={"sram": 7}), "sram") == 7.0


def test_a_byte_without_a_price_is_an_error_and_never_free() -> None:
    run = Samples(cycles=(1.0,), macs=0.0, traffic={"dram": 1.0})
    with pytest.raises(ConfigError, match=r"ethos-u55-128 does not price a byte of 'dram'"):
        api.load_device("ethos-u55-128").value(run, "energy")


def test_without_an_energy_rule_there_is_no_energy() -> None:
    document = body()
    document["accelerator"]["energy"] = None
    assert Device.model_validate(document).derived == ("latency",)


def test_a_cycle_simulator_needs_a_clock() -> None:
    document = body()
    document["accelerator"] = None
    with pytest.raises(ValidationError, match="fidelity cycle-sim needs an accelerator: section"):
        Device.model_validate(document)


def test_the_digest_of_other_devices_knows_nothing_of_accelerators() -> None:
    host, npu = api.load_device("host"), api.load_device("ethos-u55-128")
    assert host.digest == Device.model_validate(host.model_dump(mode="json", by_alias=True)).digest
    faster = npu.model_copy(
        update={"accelerator": npu.accelerator and npu.accelerator.model_copy(update={"clock": 1e9})}
    )
    assert npu.digest != faster.digest


def test_on_hardware_a_meter_tells_energy_and_no_rule_stands_in_for_it() -> None:
    board = Device.model_validate({**body("coral-edgetpu"), "fidelity": "hardware"})
    assert api.load_device("coral-edgetpu").derived == ("energy",) and board.derived == ()
    run = Samples(latency_s=(1e-3,), macs=1e6, traffic={})
    assert board.value(run, "latency") == 1e-3 and board.value(run, "energy") is None


def test_energy_beside_simulated_cycles_is_a_model() -> None:
    assert Fidelity.CYCLE_SIM.of("energy") is Fidelity.MODEL and Fidelity.CYCLE_SIM.of("latency") is Fidelity.CYCLE_SIM
    assert Fidelity.HARDWARE.of("energy") is Fidelity.HARDWARE
    words = [f.participle for f in (Fidelity.HARDWARE, Fidelity.CYCLE_SIM, Fidelity.INSTRUCTION_SIM, Fidelity.MODEL)]
    assert words == ["measured", "simulated", "simulated", "modelled"]
