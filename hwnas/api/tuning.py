"""Tuned schedules: what can be tuned, and the tuning of a profile's networks before they are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hwnas.api.pieces import Profile
from hwnas.core.device import Device
from hwnas.errors import ConfigError
from hwnas.toolchains.schedules.tuning import Event
from hwnas.toolchains.tvm import TvmToolchain, tuning

TUNED_NETWORKS = 3
"""Networks of a space whose kernels are tuned."""
ONLY_HERE = (
    "candidates are timed in this process, so that only kernels for this computer's processor can be tuned: toolchain "
    "tvm with target: native, as device host has it"
)


def tunable(device: Device, toolchain: str | None = None) -> Device:
    """The device as builds with tuned schedules see it. Raises ConfigError for a device or toolchain without them."""
    name = TvmToolchain.name
    if toolchain not in (None, name):
        raise ConfigError(
            f"toolchain {toolchain} has no schedules of ours to tune; name --toolchain {name}, or leave --tune out",
            key="--tune",
        )
    if name not in device.toolchains:
        raise ConfigError(f"{device.name} has no toolchain {name}: {ONLY_HERE}", key="--tune")
    options = device.options.get(name, {})
    if device.runner != "local" or options.get("target", "native") != "native":
        raise ConfigError(
            f"{device.name} is not this computer: {ONLY_HERE}; profile {device.name} without --tune", key="--tune"
        )
    return device.model_copy(update={"options": {**device.options, name: {**options, "tuned": True}}})


def tune(todo: Profile, trials: int, stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
    """Spend up to so many trials on the heaviest kernels of a profile's networks; every result is kept at once.

    The profile is of a device that `tunable` gave. Raises ConfigError where it has no networks, BuildError.
    """
    networks = [subject.model() for subject in todo.subjects.networks[:TUNED_NETWORKS]]
    if not networks:
        raise ConfigError("needs whole networks, and there are none; name --networks 1 or more", key="--tune")
    return tuning(networks, todo.device, trials, todo.seed, stop)
