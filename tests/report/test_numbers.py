"""How numbers are said: intervals against known values, units, fidelity labels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.core.measurement import Fidelity
from hwnas.report import numbers


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_equals_published_values(hits: int, n: int, low: float, high: float) -> None:
    """Newcombe (1998), Statistics in Medicine 17, table I, method 3."""
    assert numbers.wilson_interval(hits / n, n) == pytest.approx((low, high), abs=6e-5)


@given(st.integers(1, 10**7), st.floats(0, 1))
def test_wilson_interval_holds_the_share(n: int, share: float) -> None:
    low, high = numbers.wilson_interval(share, n)
    assert 0 <= low <= share + 1e-12 and share - 1e-12 <= high <= 1


def test_fidelity_is_said_unless_it_is_hardware() -> None:
    assert numbers.metric_label("latency", Fidelity.HARDWARE) == "latency"
    assert numbers.metric_label("latency", Fidelity.MODEL) == "latency (model)"
    assert numbers.axis_title("cycles", Fidelity.CYCLE_SIM, "millions") == "cycles (cycle-sim) in millions"
    assert numbers.metric_label("flash", Fidelity.MODEL) == "flash"


@given(st.sampled_from(["latency", "energy", "flash", "cycles"]), st.lists(st.floats(1e-12, 1e12), max_size=9))
def test_axis_scale_is_positive(metric: str, values: list[float]) -> None:
    scale, unit = numbers.axis_scale(metric, values)  # type: ignore[arg-type]
    assert scale > 0 and isinstance(unit, str)


def test_axis_scale_follows_the_typical_value() -> None:
    assert numbers.axis_scale("latency", [3e-4, 4e-4, 2e-3]) == (1e-6, "µs")
    assert numbers.axis_scale("flash", [65536.0, 2**21, 70000.0]) == (1024.0, "KiB")


def test_acting_characters_are_made_visible() -> None:
    assert numbers.visible("a\u202eb\x00c\ud800d\n") == "a\ufffdb\ufffdc\ufffdd\n"
