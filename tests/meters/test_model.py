"""Energy by a published rule: a price, never a measurement; and a meter whose package is not here."""

from __future__ import annotations

import importlib.util

import pytest

from hwnas import registry
from hwnas.core.device import Protocol
from hwnas.core.interfaces import Loop
from hwnas.core.measurement import Fidelity
from hwnas.errors import ConfigError, DeviceUnavailable
from hwnas.graph.analysis import analyse
from hwnas.meters.joulescope import JoulescopeMeter
from hwnas.meters.model import ModelMeter
from hwnas.profiling.measure import EnergyMeter
from hwnas.testing import small_network

RULE = {"per_mac": "4.6 pJ", "per_byte": "160 pJ", "source": "Horowitz, ISSCC 2014, 45 nm: fp32 multiply and add; DRAM"}


def test_the_price_of_a_network_is_that_of_its_macs_and_bytes() -> None:
    found = analyse(small_network(), "ort")
    assert found.macs
    meter = ModelMeter(RULE)
    assert meter.price(small_network()) == pytest.approx(found.macs * 4.6e-12 + found.moved_bytes * 160e-12)


def test_a_window_is_runs_times_the_price_and_says_that_it_is_a_model() -> None:
    meter = ModelMeter(RULE)
    with meter.record() as trace:
        pass
    assert trace.window(Loop(10, 0.0, 2.0), 1.0, 1000) is None, "no network was named"
    meter.expect(small_network())
    with meter.record() as trace:
        pass
    window = trace.window(Loop(10, 0.0, 2.0), 1.0, 1000)
    assert window is not None
    assert window.net_j == pytest.approx(meter.price(small_network()))
    assert (window.samples, window.rails) == (0, ("model",))
    assert meter.fidelity is Fidelity.MODEL


@pytest.mark.parametrize("fidelity", [Fidelity.HARDWARE, Fidelity.INSTRUCTION_SIM, Fidelity.CYCLE_SIM])
def test_it_is_refused_beside_any_other_fidelity(fidelity: Fidelity) -> None:
    with pytest.raises(ConfigError, match=f"meter model gives energy of fidelity model, the device is {fidelity}"):
        EnergyMeter(ModelMeter(RULE), Protocol()).require(fidelity)
    EnergyMeter(ModelMeter(RULE), Protocol()).require(Fidelity.MODEL)


def test_the_source_of_the_rule_is_required() -> None:
    with pytest.raises(ConfigError, match="source: is required"):
        ModelMeter({"per_mac": "4.6 pJ", "per_byte": "160 pJ"})
    with pytest.raises(ConfigError, match="per_mac: .* has no unit"):
        ModelMeter({**RULE, "per_mac": 4.6e-12})


def test_every_other_meter_is_of_hardware() -> None:
    kinds = {name: registry.meters.load(name) for name in registry.meters.names()}
    assert {name for name, kind in kinds.items() if kind.fidelity is not Fidelity.HARDWARE} == {"model"}
    assert all(kind.name == name for name, kind in kinds.items())


def test_a_joulescope_without_its_package_names_it() -> None:
    meter = JoulescopeMeter({"trigger": "GPI0"})
    wanted = "pip install joulescope" if importlib.util.find_spec("joulescope") is None else "no Joulescope"
    with pytest.raises(DeviceUnavailable, match=wanted):
        meter.open()
    meter.close()
    with pytest.raises(ConfigError, match="did you mean trigger"):
        JoulescopeMeter({"triger": "GPI0"})
