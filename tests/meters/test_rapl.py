"""RAPL counters in an emulated /sys."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwnas.emulators.hwmon import PowercapTree
from hwnas.emulators.load import Load
from hwnas.errors import ConfigError, DeviceUnavailable
from hwnas.meters.rapl import RaplMeter, find_packages
from hwnas.testing.meters import IDLE_S, Bench, MeterContract

RANGE_UJ = 262_143_328_850


@pytest.mark.timing
class TestRapl(MeterContract):
    tolerance = 0.03

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[Bench]:
        load = Load(2.0, 5.0)
        with PowercapTree(tmp_path, [load]):
            yield Bench(RaplMeter, {"root": str(tmp_path), "interval": "40 ms"}, load, 9.0)


@pytest.mark.timing
@pytest.mark.parametrize("before_wrap_j", [3.0, 12.0, 30.0])
def test_a_counter_that_starts_again(tmp_path: Path, before_wrap_j: float) -> None:
    load = Load(2.0, 5.0)
    with PowercapTree(tmp_path, [load], start_uj=RANGE_UJ - int(before_wrap_j * 1e6), range_uj=RANGE_UJ):
        wrapping = Bench(RaplMeter, {}, load, 9.0)
        trace, loop = wrapping.record(RaplMeter({"root": str(tmp_path), "interval": "40 ms"}), 0.6)
        window = trace.window(loop, IDLE_S, 5)
        assert window is not None
        assert window.net_j == pytest.approx(wrapping.net_j(loop), rel=0.04)


@pytest.mark.timing
def test_packages_are_summed_and_neither_subzones_nor_doubles(tmp_path: Path) -> None:
    first, second = Load(2.0, 5.0), Load(1.0, 5.0)
    with PowercapTree(tmp_path, [first, second]):
        assert list(find_packages(tmp_path)) == ["package-0", "package-1"]
        trace, loop = Bench(RaplMeter, {}, first, 9.0).record(
            RaplMeter({"root": str(tmp_path), "interval": "40 ms"}), 0.4
        )
        window = trace.window(loop, IDLE_S, 5)
        assert window is not None
        assert window.rails == ("package-0", "package-1")
        assert window.idle_w == pytest.approx(15.0, rel=0.15)  # a double or a subzone would add 10 or more


def test_a_package_that_is_not_there(tmp_path: Path) -> None:
    PowercapTree(tmp_path, [Load(1.0)])
    with pytest.raises(ConfigError, match=r"no package 'package-7' \(did you mean package-0"):
        RaplMeter({"root": str(tmp_path), "packages": ["package-7"]}).record()


def test_a_computer_without_counters(tmp_path: Path) -> None:
    with pytest.raises(DeviceUnavailable, match=r"no package under .*powercap \(RAPL is on x86 only"):
        RaplMeter({"root": str(tmp_path)}).record()


def test_a_counter_that_goes_away(tmp_path: Path) -> None:
    with (
        PowercapTree(tmp_path, [Load(1.0)]) as tree,
        pytest.raises(DeviceUnavailable, match="rapl was lost during the recording"),
        RaplMeter({"root": str(tmp_path)}).record(),
    ):
        time.sleep(0.05)
        tree.unplug("class/powercap/intel-rapl:0/energy_uj")
        time.sleep(0.1)


def test_counters_that_this_user_may_not_read(tmp_path: Path) -> None:
    tree = tmp_path / "sys"
    PowercapTree(tree, [Load(1.0)])
    (tree / "class/powercap/intel-rapl:0/energy_uj").chmod(0)
    for folder in (tmp_path, *tmp_path.parents):
        if os.access(folder, os.W_OK) and folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    code = (
        "import os, sys\n"
        "from hwnas.meters.rapl import RaplMeter\n"
        "os.geteuid() or os.setuid(65534)\n"
        f"meter = RaplMeter({{'root': {str(tree)!r}}})\n"
        "try:\n"
        "    meter.record().__enter__()\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("DeviceUnavailable")
    assert "for root" in done.stdout
    assert "chgrp GROUP" in done.stdout
