"""Errors say whose fault it is, what was given and what is allowed; each class has its exit code."""

from __future__ import annotations

import inspect
import math

import pytest

from hwnas import errors
from hwnas.errors import ConfigError, HwnasError, Interrupted, NoFeasibleCandidate, nearest


def test_a_wrong_name_is_answered_with_the_nearest_or_with_all() -> None:
    assert nearest("hots", ["host", "pi4", "jetson"]) == ["host"]
    assert "did you mean host?" in str(ConfigError("no device 'hots'", given="hots", allowed=["host", "pi4"]))
    assert "(allowed: host, pi4)" in str(ConfigError("no device 'xyzzy'", given="xyzzy", allowed=["host", "pi4"]))


def test_file_and_key_come_first() -> None:
    error = ConfigError("is required", path="run.yaml", key="budget.latency")
    assert str(error) == "run.yaml: budget.latency: is required"
    assert (error.path, error.key) == ("run.yaml", "budget.latency")


def test_nothing_feasible_names_the_closest_and_by_how_much() -> None:
    text = str(NoFeasibleCandidate("s8k3", {"latency": 0.5, "flash": -0.2, "energy": math.inf}))
    assert "closest is s8k3" in text
    assert "latency by 50.0 %" in text
    assert "energy (not measured)" in text
    assert "flash" not in text
    assert str(NoFeasibleCandidate("unknown", {})).endswith("the closest is unknown")


def test_an_interruption_says_how_to_go_on() -> None:
    assert "hwnas search run.yaml --resume" in str(Interrupted("hwnas search run.yaml --resume"))


CODES = {
    "ConfigError": 2, "CandidateError": 2, "DataError": 2, "TableConflict": 2, "HwnasError": 2,
    "UnsupportedOperator": 4, "BuildError": 4,
    "DeviceError": 3, "DeviceUnavailable": 3, "DeviceTimeout": 3, "DeviceCrashed": 3, "NotMeasurable": 3,
    "LinkCorrupt": 3, "DeviceQuarantined": 3, "MeasurementInvalid": 3,
    "TrainingFailed": 1, "NoFeasibleCandidate": 1, "Interrupted": 130,
}  # fmt: skip


def test_every_class_has_the_exit_code_of_its_kind() -> None:
    classes = {
        name: kind.exit_code
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, HwnasError)
    }
    assert classes == CODES


@pytest.mark.parametrize("name", [n for n in CODES if n.startswith("Device")])
def test_device_errors_are_caught_as_one(name: str) -> None:
    assert issubclass(getattr(errors, name), errors.DeviceError)
