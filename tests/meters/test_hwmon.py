"""INA monitors in an emulated /sys."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwnas.emulators.hwmon import HwmonTree
from hwnas.emulators.load import Load
from hwnas.errors import ConfigError, DeviceUnavailable
from hwnas.meters.hwmon import HwmonMeter
from hwnas.meters.rails import find_rails, listing_script, texts_here, texts_in
from hwnas.testing.meters import IDLE_S, Bench, MeterContract

UPDATE_MS = 20


def jetson(tree: HwmonTree) -> Load:
    """The rails of an Orin Nano: the total, and two that it contains."""
    total = Load(0.8, 5.0)
    tree.add_chip("ina3221", {"VDD_IN": total, "VDD_CPU_GPU_CV": Load(0.3, 5.0), "VDD_SOC": Load(0.2, 5.0)})
    return total


@pytest.mark.timing
class TestIna219(MeterContract):
    tolerance = 0.03

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[Bench]:
        load = Load(0.4, 5.0)
        with HwmonTree(tmp_path, UPDATE_MS) as tree:
            tree.add_chip("ina219", [load])
            yield Bench(HwmonMeter, {"root": str(tmp_path)}, load, 1.9)


@pytest.mark.timing
class TestIna3221OfAJetson(MeterContract):
    tolerance = 0.03

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[Bench]:
        with HwmonTree(tmp_path, UPDATE_MS) as tree:
            load = jetson(tree)
            yield Bench(HwmonMeter, {"root": str(tmp_path)}, load, 2.4)


@pytest.mark.timing
class TestBehindACommand(MeterContract):
    """As over ssh, with a shell in its place."""

    tolerance = 0.04

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[Bench]:
        with HwmonTree(tmp_path, UPDATE_MS) as tree:
            load = jetson(tree)
            yield Bench(HwmonMeter, {"root": str(tmp_path), "via": ["sh", "-c"]}, load, 2.4)


def test_a_listing_made_by_a_shell_is_read_as_the_files_are(tmp_path: Path) -> None:
    jetson(HwmonTree(tmp_path, UPDATE_MS))
    done = subprocess.run(["sh", "-c", listing_script(tmp_path)], capture_output=True, text=True, check=True)
    assert texts_in(done.stdout) == texts_here(tmp_path)


@pytest.mark.parametrize(
    ("via", "message"),
    [
        (["sh", "-c", "echo no route to host >&2; exit 255"], "no route to host"),
        (["/no/such/ssh", "board"], "No such file"),
        (["true"], "is not under .* of true"),
    ],
)
def test_a_board_that_cannot_be_reached(tmp_path: Path, via: list[str], message: str) -> None:
    jetson(HwmonTree(tmp_path, UPDATE_MS))
    with pytest.raises(DeviceUnavailable, match=message):
        HwmonMeter({"root": str(tmp_path), "via": via}).record()


def test_a_board_that_is_lost_during_a_recording(tmp_path: Path) -> None:
    with HwmonTree(tmp_path, UPDATE_MS) as tree:
        jetson(tree)
        meter = HwmonMeter({"root": str(tmp_path), "via": ["sh", "-c"]})
        with pytest.raises(DeviceUnavailable, match=r"ended: .*curr1_input"), meter.record():
            time.sleep(0.2)
            tree.unplug("class/hwmon/hwmon0/curr1_input")
            time.sleep(0.3)


def test_a_board_that_prints_something_else(tmp_path: Path) -> None:
    shell = tmp_path / "shell"
    shell.write_text('#!/bin/sh\ncase "$1" in while*) echo Welcome to Ubuntu; sleep 5;; *) exec sh -c "$1";; esac\n')
    shell.chmod(0o755)
    jetson(HwmonTree(tmp_path, UPDATE_MS))
    meter = HwmonMeter({"root": str(tmp_path), "via": [str(shell)]})
    with pytest.raises(DeviceUnavailable, match="printed b'Welcome to Ubuntu' instead of readings"), meter.record():
        pass


@pytest.mark.timing
def test_the_total_rail_is_the_default_and_no_rail_counts_twice(tmp_path: Path) -> None:
    with HwmonTree(tmp_path, UPDATE_MS) as tree:
        load = jetson(tree)
        trace, loop = Bench(HwmonMeter, {}, load, 2.4).record(HwmonMeter({"root": str(tmp_path)}), 0.4)
        window = trace.window(loop, IDLE_S, 5)
        assert window is not None
        assert window.rails == ("VDD_IN",)
        assert window.idle_w == pytest.approx(0.8 * 5.0)
        with pytest.raises(ConfigError, match="VDD_IN contains VDD_SOC: summed, their energy would count twice"):
            HwmonMeter({"root": str(tmp_path), "rails": ["VDD_SOC", "VDD_IN"]}).record()


@pytest.mark.timing
def test_named_rails_are_summed(tmp_path: Path) -> None:
    with HwmonTree(tmp_path, UPDATE_MS) as tree:
        load = Load(1.0, 5.0)
        tree.add_chip("ina3221", {"VDD_GPU_SOC": load, "VDD_CPU_CV": Load(0.5, 5.0), "NC": Load(9.9, 5.0)})
        tree.add_chip("ina3221", {"NC": Load(9.9, 5.0), "VIN_SYS_5V0": Load(0.2, 5.0)})
        rails = ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]
        meter = HwmonMeter({"root": str(tmp_path), "rails": rails})
        trace, loop = Bench(HwmonMeter, {}, load, 3.0).record(meter, 0.4)
        window = trace.window(loop, IDLE_S, 5)
        assert window is not None
        assert window.rails == tuple(rails)
        assert window.idle_w == pytest.approx(1.7 * 5.0)


@pytest.mark.parametrize(
    ("rails", "message"),
    [
        (None, r"none of the rails VDD_A, VDD_B is known to be the total: name those to sum"),
        (["VDD_C"], r"rails: no rail 'VDD_C' \(did you mean VDD_"),
        (["VDD_A", "VDD_A"], "name each rail once"),
        ([], "at least one"),
    ],
)
def test_rails_that_are_unclear(tmp_path: Path, rails: list[str] | None, message: str) -> None:
    tree = HwmonTree(tmp_path, UPDATE_MS)
    tree.add_chip("ina3221", {"VDD_A": Load(0.1), "VDD_B": Load(0.1)})
    with pytest.raises(ConfigError, match=message):
        HwmonMeter({"root": str(tmp_path), "rails": rails}).record()


def test_rails_are_named_by_label_or_channel_and_those_that_are_off_are_left_out(tmp_path: Path) -> None:
    tree = HwmonTree(tmp_path, 7)
    tree.add_chip("ina226", [Load(0.1)])
    tree.add_chip("ina226", [Load(0.1)])
    folder = tree.add_chip("ina3221", {"VDD_IN": Load(0.1), "VDD_SOC": Load(0.1), "NC": Load(0.1)})
    tree.write(f"{folder}/in2_enable", "0")
    tree.write(f"{folder}/curr4_input", "12345")  # the sum of the three
    tree.write(f"{folder}/in4_input", "12345")  # a shunt voltage
    tree.add_chip("coretemp", [Load(0.1)])
    texts = texts_here(tmp_path)
    rails = find_rails(texts)
    assert list(rails) == ["ina226.1", "ina226.1@hwmon1", "VDD_IN"]
    assert list(find_rails(texts, "ina3221")) == ["VDD_IN"]
    assert rails["VDD_IN"].interval_s == pytest.approx(0.007)


def test_a_computer_without_monitors(tmp_path: Path) -> None:
    with pytest.raises(DeviceUnavailable, match="an INA monitor .* is not under"):
        HwmonMeter({"root": str(tmp_path)}).record()
    with pytest.raises(DeviceUnavailable, match="the chip ina999 is not under"):
        HwmonMeter({"root": str(tmp_path), "chip": "ina999"}).record()


def test_a_chip_that_goes_away_during_a_recording(tmp_path: Path) -> None:
    with HwmonTree(tmp_path, UPDATE_MS) as tree:
        folder = tree.add_chip("ina219", [Load(0.4, 5.0)])
        with (
            pytest.raises(DeviceUnavailable, match="hwmon was lost during the recording"),
            HwmonMeter({"root": str(tmp_path)}).record(),
        ):
            time.sleep(0.1)
            tree.unplug(f"{folder}/power1_input")
            time.sleep(0.2)


def test_a_file_that_holds_no_number(tmp_path: Path) -> None:
    tree = HwmonTree(tmp_path, UPDATE_MS)
    folder = tree.add_chip("ina219", [Load(0.4, 5.0)])
    tree.write(f"{folder}/power1_input", "n/a")
    with pytest.raises(DeviceUnavailable, match="holds no number"), HwmonMeter({"root": str(tmp_path)}).record():
        pass
