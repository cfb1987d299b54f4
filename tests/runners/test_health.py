"""What the files of a Linux board say of its health, on trees as a Pi, a Jetson and a laptop show them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hwnas.config import load_device
from hwnas.runners.health import FIRMWARE, LIST_COMMAND, HealthReader, parse_listing, read_health, read_here
from hwnas.runners.local import LocalBoard

CPU, THERMAL = "/sys/devices/system/cpu", "/sys/class/thermal"
PI = {
    f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "1500000",
    f"{CPU}/cpu3/cpufreq/scaling_cur_freq": "1800000",
    f"{CPU}/cpu0/cpufreq/scaling_governor": "performance",
    f"{CPU}/cpu3/cpufreq/scaling_governor": "performance",
    f"{THERMAL}/thermal_zone0/type": "cpu-thermal",
    f"{THERMAL}/thermal_zone0/temp": "61342",
    FIRMWARE: "0",
}
JETSON = {
    f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "1510400",
    f"{CPU}/cpu0/cpufreq/scaling_governor": "schedutil",
    "/var/lib/nvpmodel/status": "pmode:0002",
    f"{THERMAL}/thermal_zone0/type": "cpu-thermal",
    f"{THERMAL}/thermal_zone0/temp": "48500",
    f"{THERMAL}/thermal_zone0/trip_point_0_type": "critical",
    f"{THERMAL}/thermal_zone0/trip_point_0_temp": "104500",
    f"{THERMAL}/thermal_zone0/trip_point_1_type": "passive",
    f"{THERMAL}/thermal_zone0/trip_point_1_temp": "99000",
    f"{THERMAL}/thermal_zone2/type": "cv0-thermal",
    f"{THERMAL}/thermal_zone2/temp": "-256000",
    f"{THERMAL}/thermal_zone8/type": "tj-thermal",
    f"{THERMAL}/thermal_zone8/temp": "51250",
    "/sys/class/hwmon/hwmon3/oc1_event_cnt": "0",
    "/sys/class/hwmon/hwmon3/oc3_event_cnt": "37",
}
LAPTOP = {
    f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "12",
    f"{CPU}/cpu1/thermal_throttle/core_throttle_count": "30",
    f"{CPU}/cpu0/thermal_throttle/package_throttle_count": "44",
    f"{THERMAL}/cooling_device0/type": "Processor",
    f"{THERMAL}/cooling_device0/cur_state": "0",
    f"{THERMAL}/cooling_device0/max_state": "3",
    f"{THERMAL}/cooling_device1/type": "intel_powerclamp",
    f"{THERMAL}/cooling_device1/cur_state": "-1",
    f"{THERMAL}/cooling_device2/type": "pwm-fan",
    f"{THERMAL}/cooling_device2/cur_state": "4",
    "/proc/cpuinfo": "processor\t: 0\ncpu MHz\t\t: 2400.123\n",
}


def test_a_healthy_pi() -> None:
    health = read_health(PI.get)
    assert health.clock_hz == 1.8e9
    assert health.governor == "performance"
    assert health.temperature_c == pytest.approx(61.342)
    assert health.complaints == ()


@pytest.mark.parametrize(
    ("flags", "complaints"),
    [
        ("50005", ("under-voltage", "throttled")),
        ("f", ("under-voltage", "clock capped", "throttled", "soft temperature limit")),
        ("50000", ()),
        ("80008", ("soft temperature limit",)),
        ("nonsense", ()),
    ],
)
def test_flags_of_the_pi_that_hold_now(flags: str, complaints: tuple[str, ...]) -> None:
    assert read_health({**PI, FIRMWARE: flags}.get).complaints == complaints
    command = {k: v for k, v in PI.items() if k != FIRMWARE} | {"vcgencmd get_throttled": f"throttled=0x{flags}"}
    assert read_health(command.get).complaints == complaints


def test_what_happened_to_a_pi_between_two_looks() -> None:
    texts = dict(PI) | {FIRMWARE: "10000"}  # under-voltage at some time before
    reader = HealthReader(texts.get)
    assert reader.health().complaints == ()
    texts[FIRMWARE] = "50000"
    assert reader.now().complaints == ()
    assert reader.health().complaints == ("throttled occurred since the last look",)
    assert reader.health().complaints == ()


def test_a_healthy_jetson_names_its_power_mode() -> None:
    health = read_health(JETSON.get)
    assert health.governor == "schedutil, power mode 0002"
    assert health.temperature_c == pytest.approx(51.25), "the zone that is off shows -256 °C"
    assert health.complaints == ()


def test_a_jetson_over_its_trip() -> None:
    [complaint] = read_health({**JETSON, f"{THERMAL}/thermal_zone0/temp": "99500"}.get).complaints
    assert complaint == "cpu-thermal is at 99.5 °C, over its passive trip of 99.0 °C"


def test_over_current_of_a_jetson_since_the_last_look() -> None:
    texts = dict(JETSON)
    reader = HealthReader(texts.get)
    texts["/sys/class/hwmon/hwmon3/oc3_event_cnt"] = "38"
    [complaint] = reader.health().complaints
    assert complaint == "clocks were throttled by instantaneous over-current (oc3) since the last look"


def test_a_laptop_by_its_throttle_counts() -> None:
    texts = dict(LAPTOP)
    reader = HealthReader(texts.get)
    assert reader.health().complaints == ()
    assert reader.health().clock_hz == pytest.approx(2.400123e9)
    texts[f"{CPU}/cpu1/thermal_throttle/core_throttle_count"] = "31"
    assert reader.health().complaints == ("the core was throttled by heat since the last look",)
    texts[f"{THERMAL}/cooling_device0/cur_state"] = "2"
    assert reader.health().complaints == ("clock held down by heat (Processor at state 2 of 3)",)


def test_a_board_that_tells_nothing() -> None:
    health = read_health(lambda name: None)
    assert (health.clock_hz, health.governor, health.temperature_c, health.complaints) == (None, None, None, ())


def test_texts_that_are_no_numbers() -> None:
    garbled = dict.fromkeys({**PI, **JETSON, **LAPTOP}, "garbage")
    assert read_health(garbled.get).temperature_c is None
    assert HealthReader(garbled.get).health().complaints == ()


def tree(root: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        path = root / name[1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_the_local_board_reads_its_own_tree(tmp_path: Path) -> None:
    board = LocalBoard(load_device("host"), tree(tmp_path, PI))
    try:
        facts = board.facts()
        assert (facts["clock_hz"], facts["governor"]) == (1.8e9, "performance")
        assert facts["temperature_c"] == pytest.approx(61.342)
        tree(tmp_path, {FIRMWARE: "4"})
        assert board.health().complaints == ("throttled",)
    finally:
        board.close()


def test_a_listing_made_by_a_shell_is_read_as_the_files_are(tmp_path: Path) -> None:
    tree(tmp_path, {**JETSON, FIRMWARE: "5"})
    command = LIST_COMMAND.replace("/sys/", f"{tmp_path}/sys/").replace("/var/", f"{tmp_path}/var/")
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    read = parse_listing(done.stdout.replace(str(tmp_path), ""))
    assert read_health(read) == read_health(read_here(tmp_path))
    assert read_health(read).complaints == ("under-voltage", "throttled")
