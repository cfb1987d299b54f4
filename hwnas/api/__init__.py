"""The Python interface: the same steps as the command line, as functions."""

from hwnas.api.found import Confirmed, Found, Verified, search, verify
from hwnas.api.pieces import (
    NETWORKS,
    TABLES,
    Profile,
    breakdown,
    estimate,
    estimator,
    fit,
    fit_measurements,
    load_device,
    load_space,
    load_toolchain,
    plan_profile,
    profile,
    with_cpu_fallback,
)
from hwnas.api.pricing import Priced, price

__all__ = [
    "NETWORKS",
    "TABLES",
    "Confirmed",
    "Found",
    "Priced",
    "Profile",
    "Verified",
    "breakdown",
    "estimate",
    "estimator",
    "fit",
    "fit_measurements",
    "load_device",
    "load_space",
    "load_toolchain",
    "plan_profile",
    "price",
    "profile",
    "search",
    "verify",
    "with_cpu_fallback",
]
