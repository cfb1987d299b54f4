"""Quantities: text with a unit in, SI out."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas import units
from hwnas.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("15 ms", "time", 0.015),
        ("15ms", "time", 0.015),
        ("2h", "time", 7200.0),
        ("1 MiB", "bytes", 2**20),
        ("40 mJ", "energy", 0.04),
        ("6 M", "count", 6e6),
        (12, "count", 12.0),
        ("10 %", "ratio", 0.1),
        (0.9, "ratio", 0.9),
        ("4 GiB/s", "bandwidth", 4 * 2**30),
        ("2 G/s", "rate", 2e9),
        ("80 MHz", "frequency", 8e7),
    ],
)
def test_text_becomes_si(text: object, kind: units.Kind, value: float) -> None:
    assert units.parse(text, kind) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (15, "time", "has no unit; write it like '15 ms'"),
        ("15", "time", "has no unit"),
        ("15 kg", "time", "is not a quantity of time"),
        ("fast", "bytes", "write it like '256 KiB'"),
        ("-3 ms", "time", "not negative"),
        ("3 q", "count", "write it like '6 M'"),
        ("5 ms", "ratio", "write it like '10 %'"),
        (True, "count", "is not a quantity"),
        (None, "time", "is not a quantity"),
        ("1e999 s", "time", "must be finite"),
        ("2 G", "rate", "write it like '2 G/s'"),
        ("__import__('os')", "time", "is not a quantity"),
        ("1 s + 1 s", "time", "is not a quantity"),
    ],
)
def test_what_is_no_quantity_is_an_error_that_shows_the_fix(text: object, kind: units.Kind, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        units.parse(text, kind)


@given(st.floats(1e-9, 1e4))
def test_what_is_shown_can_be_read_again(seconds: float) -> None:
    assert units.parse(units.show(seconds, "time"), "time") == pytest.approx(seconds, rel=6e-3)


@given(st.integers(0, 2**40))
def test_bytes_round_trip(size: int) -> None:
    assert units.parse(units.show(size, "bytes"), "bytes") == pytest.approx(size, rel=1e-3)


def test_not_measured_is_never_zero() -> None:
    assert units.show(None, "energy") == "not measured"
    assert units.show(0.0, "energy") == "0 J"
    assert units.show(3e-5, "time") == "30 µs"
    assert not math.isnan(units.parse("0 s", "time"))
