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

__all__ = [
    "NETWORKS",
    "TABLES",
    "Confirmed",
    "Found",
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
    "profile",
    "search",
    "verify",
    "with_cpu_fallback",
]
