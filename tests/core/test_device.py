"""Devices: what a YAML must say, and what contradicts itself."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from hwnas import api
from hwnas.core.device import Device


def test_an_emulated_device_says_what_a_second_of_the_roofline_stands_for() -> None:
    body = api.load_device("cortex-m4-qemu").model_dump(mode="json", by_alias=True)
    assert Device.model_validate(body).metric == "instructions"
    body["compute"]["instructions_per_s"] = None
    with pytest.raises(ValidationError, match=r"instruction-sim needs compute\.instructions_per_s, such as 25 M/s"):
        Device.model_validate(body)
