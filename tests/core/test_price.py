"""Prices of runs: written beside an artifact, hostile until checked when they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hwnas.core.price import MAX_BYTES, PRICE, Layer, Price, read_price, write_price
from hwnas.errors import DataError


def price() -> Price:
    return Price(
        unit="cycles",
        parts={"accelerator": 900.0, "cpu": 80.0, "transfer": 20.0},
        macs=1e6,
        traffic={"sram": 10.0},
        tool="a law",
        crossings=2,
        layers=(Layer(name="conv", op="Conv2D", where="accelerator", cost=900.0, macs=1e6),),
    )


def test_it_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    write_price(price(), tmp_path)
    assert read_price(tmp_path) == price() and price().total == 1000.0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"parts": {"accelerator": 0.0}}, "cannot cost nothing"),
        ({"parts": {"accelerator": -1.0}}, "greater than or equal to 0"),
        ({"parts": {"gpu": 1.0}}, "accelerator"),
        ({"macs": "nan"}, "finite number"),
        ({"unit": "minutes"}, "cycles"),
        ({"surprise": 1}, "not permitted"),
        ({"crossings": -1}, "greater than or equal to 0"),
    ],
)
def test_what_is_no_price_is_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    (tmp_path / PRICE).write_text(json.dumps({**price().model_dump(mode="json"), **change}))
    with pytest.raises(DataError, match=reason):
        read_price(tmp_path)


def test_a_missing_and_an_endless_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"price\.json: cannot be read: No such file"):
        read_price(tmp_path)
    (tmp_path / PRICE).write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(DataError, match="is larger than"):
        read_price(tmp_path)
    (tmp_path / PRICE).write_bytes(b"\xff{")
    with pytest.raises(DataError, match="is not a price"):
        read_price(tmp_path)
