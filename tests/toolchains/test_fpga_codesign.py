"""The example that searches array and network together: every pair is priced, and what it prints is not beaten."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from hwnas.core.estimate import Budget
from hwnas.registry import spaces

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "fpga-codesign.py"
ARRAYS = [{"rows": 4, "columns": 4}, {"rows": 16, "columns": 16}]


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("fpga_codesign", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def found(example: Any) -> list[Any]:
    space = spaces.load("mbconv-micro")()
    known = example.trained_networks(space)
    assert len(known) == 60
    few = dict(list(known.items())[:6])
    pairs: list[Any] = example.pairs(space, few, ARRAYS)
    return pairs


def test_a_larger_array_is_faster_and_takes_more_multipliers(found: list[Any]) -> None:
    small, large = ({pair.network: pair for pair in found if pair.array == name} for name in ("4x4", "16x16"))
    assert small.keys() == large.keys()
    assert len(small) == 6
    for network, pair in small.items():
        other = large[network]
        assert other.price.parts["accelerator"] < pair.price.parts["accelerator"]
        assert other.price.parts["cpu"] == pair.price.parts["cpu"]
        assert other.dsp >= 256 > pair.dsp >= 16


def test_the_front_is_not_beaten_and_beats_the_rest(example: Any, found: list[Any]) -> None:
    front = example.front(found)
    assert front
    for pair in found:
        beaten = any(all(a <= b for a, b in zip(o.goals, pair.goals)) and o.goals != pair.goals for o in found)
        assert (pair in front) is not beaten


def test_the_picture_shows_every_pair_and_names_the_front(example: Any, found: list[Any]) -> None:
    front = example.front(found)
    drawn = ElementTree.fromstring(example.picture(found, front, Budget(latency="0.3 ms", dsp="128")))
    names = [element.text for element in drawn.iter() if element.tag.endswith("title")]
    assert len(names) == len(front)
    assert all(any(pair.network in (name or "") for name in names) for pair in front)
    counts = {pair.dsp for pair in found}
    assert sum(element.tag.endswith("circle") for element in drawn.iter()) == len(found) + len(front) + len(counts)
