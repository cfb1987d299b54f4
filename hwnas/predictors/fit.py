"""From a latency table to a predictor: workloads teach the trees, whole networks the correction."""

from __future__ import annotations

import numpy as np

from hwnas.core.device import Device
from hwnas.errors import ConfigError, TableConflict
from hwnas.predictors.memory import MemoryPredictor
from hwnas.predictors.network import NetworkPredictor
from hwnas.predictors.peak import PeakPredictor
from hwnas.predictors.workload import WorkloadPredictor
from hwnas.tables.table import LatencyTable

METRICS = ("latency", "energy", "instructions", "cycles")
"""What a row of a latency table may hold, or what follows from it by the rules in a device's YAML."""


def check_table(table: LatencyTable, device: Device) -> None:
    """Raises TableConflict unless the table is of this device and fidelity."""
    recipe = table.recipe
    if recipe.device != device.name:
        raise TableConflict(
            f"the table is of device {recipe.device!r}, not {device.name!r}; profile {device.name} first"
        )
    if recipe.fidelity != device.fidelity:
        raise TableConflict(
            f"the table holds {recipe.fidelity} rows, but {device.name} is of fidelity {device.fidelity}"
        )


def check_predictor(predictor: NetworkPredictor, device: Device, toolchain: str) -> None:
    """Raises TableConflict unless the predictor is of this device, fidelity and toolchain."""
    known = predictor.workloads
    if known.device != device.name:
        raise TableConflict(f"the predictor is of device {known.device!r}, not {device.name!r}; fit one for it first")
    if known.fidelity != device.fidelity:
        raise TableConflict(f"the predictor is of fidelity {known.fidelity}, but {device.name} is of {device.fidelity}")
    if known.toolchain not in (None, toolchain):
        raise TableConflict(f"the predictor is of toolchain {known.toolchain!r}, not {toolchain!r}: name that one")


def fit_workloads(table: LatencyTable, device: Device, metric: str | None = None, seed: int = 0) -> WorkloadPredictor:
    """A predictor of workloads from the table's valid rows.

    Raises TableConflict for a table of another device, ConfigError for a metric that tables do not hold.
    """
    metric = metric or device.metric
    if metric not in METRICS:
        raise ConfigError("tables hold no such metric", key="metric", given=metric, allowed=METRICS)
    check_table(table, device)
    values = known_values(table, device, metric)
    known = [table.workloads[k] for k in values if k in table.workloads]
    predictor = WorkloadPredictor(device, seed, table.recipe.toolchain, metric)
    predictor.fit(known, [values[w.id] for w in known])
    return predictor


def known_values(table: LatencyTable, device: Device, metric: str) -> dict[str, float]:
    """subject id -> what the table's valid rows say of a metric (SI), derived where the device says how."""
    if metric in device.derived:
        return table.values(metric, lambda samples: device.value(samples, metric))
    return table.values(metric)


def calibration(table: LatencyTable, device: Device, predictor: NetworkPredictor) -> tuple[np.ndarray, np.ndarray]:
    """The measured whole networks of a table: columns n x COLUMNS and values n in SI units."""
    values = known_values(table, device, predictor.metric)
    # A net energy below idle power is noise, and has no logarithm.
    measured = [network for k, network in table.networks.items() if values.get(k, 0.0) > 0]
    if not measured:
        return predictor.columns([], {}), np.array([])
    columns = predictor.columns([n.parts for n in measured], table.workloads)
    return columns, np.array([values[n.id] for n in measured])


def fit_network(table: LatencyTable, device: Device, metric: str | None = None, seed: int = 0) -> NetworkPredictor:
    """A predictor of whole networks: workloads first, then the correction on the table's whole networks.

    Without a metric it is of what a run is measured in on the device, and tells beside it what follows by the device's
    YAML: latency from cycles, energy from traffic.
    """
    memory, peak = MemoryPredictor.of(table), PeakPredictor.of(table)
    predictor = NetworkPredictor(fit_workloads(table, device, metric, seed), seed, memory, peak)
    predictor.fit(*calibration(table, device, predictor))
    if metric is None and device.accelerator is not None:
        if "latency" in device.derived:
            predictor.seconds_per = 1 / device.accelerator.clock
        if "energy" in device.derived and known_values(table, device, "energy"):
            predictor.beside["energy"] = fit_network(table, device, "energy", seed)
    return predictor
