"""Whole networks on accelerators, estimated from their kernels, against compiler, simulator or law.

    python tests/bench/bench_accelerators.py [DEVICE ...] [--networks 40] [--held-out 100] [--seed 0]

Every workload of mbconv-micro is priced, the correction is learned on some whole networks and judged on others.
Nothing here was measured: each row names its fidelity.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from hwnas import api
from hwnas.core.device import Device
from hwnas.predictors.features import CLASSES
from hwnas.predictors.fit import calibration, fit_workloads, known_values
from hwnas.predictors.network import NetworkPredictor
from hwnas.predictors.peak import PeakPredictor
from hwnas.tables.table import LatencyTable

DEVICES = ("ethos-u55-128", "coral-edgetpu", "fpga-systolic-16x16")
HEAD = f"{'device':22}{'metric':10}{'fidelity':11}{'unseen':>7}{'Spearman':>10}{'mean error':>12}{'covered':>9}{'plain sum':>11}"


def row(
    device: Device, metric: str, fidelity: str, truth: np.ndarray, bounds: np.ndarray, plain: np.ndarray | None
) -> str:
    error, covered = np.mean(np.abs(bounds[:, 0] / truth - 1)), np.mean(truth <= bounds[:, 1] * (1 + 1e-9))
    alone = "" if plain is None else f"{np.mean(np.abs(plain / truth - 1)):.2%}"
    rank = spearmanr(bounds[:, 0], truth)[0]
    return f"{device.name:22}{metric:10}{fidelity:11}{len(truth):7}{rank:10.4f}{error:12.3%}{covered:9.2f}{alone:>11}"


def judged(device: Device, networks: int, held_out: int, tables: Path, seed: int) -> list[str]:
    space = api.load_space("mbconv-micro")
    start = time.monotonic()
    plan = api.plan_profile(device, space, networks=networks + held_out, tables=tables, seed=seed)
    for _ in plan.events():
        pass
    took = time.monotonic() - start
    table = LatencyTable.read(plan.table)
    order = np.random.default_rng(seed).permutation(networks + held_out)
    seen, unseen = order[:networks], order[networks:]
    lines = []
    for metric in (device.metric, *device.derived):
        if metric == "latency" and device.metric == "cycles":
            continue  # cycles over the clock
        predictor = NetworkPredictor(fit_workloads(table, device, metric, seed), seed)
        columns, values = calibration(table, device, predictor)
        predictor.fit(columns[seen], values[seen])
        bounds = predictor.predict_columns(columns[unseen])[:, [0, 2]]
        fidelity = "model" if metric == "energy" else str(device.fidelity)
        lines.append(row(device, metric, fidelity, values[unseen], bounds, columns[unseen][:, : len(CLASSES)].sum(1)))
    sram = known_values(table, device, "sram")
    whole = [n for n in table.networks.values() if n.id in sram]
    if len(whole) == networks + held_out:
        known = [whole[i] for i in seen]
        peak = PeakPredictor.of(reduced(table, {n.id for n in known}))
        assert peak is not None
        largest = [np.sort(peak.rows([table.workloads[k] for k in whole[i].parts]))[::-1][:2] for i in unseen]
        bounds = peak.predict(np.array([a[0] for a in largest]), np.array([a[-1] for a in largest]))
        lines.append(
            row(device, "sram", str(device.fidelity), np.array([sram[whole[i].id] for i in unseen]), bounds, None)
        )
    return [
        *lines,
        f"{'':22}{len(table.workloads)} workloads and {len(whole) or len(order)} networks priced in {took:.0f} s",
    ]


def reduced(table: LatencyTable, networks: set[str]) -> LatencyTable:
    """The table without the other whole networks."""
    other = LatencyTable(table.recipe)
    other.contexts.update(table.contexts)
    other.checks.update(table.checks)
    other.workloads.update(table.workloads)
    other.networks.update({k: n for k, n in table.networks.items() if k in networks})
    kept = {*table.workloads, *networks}
    other.measurements.update({k: m for k, m in table.measurements.items() if m.subject in kept})
    return other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("devices", nargs="*", default=DEVICES)
    parser.add_argument("--networks", type=int, default=40)
    parser.add_argument("--held-out", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    print(HEAD)
    for name in wanted.devices:
        with tempfile.TemporaryDirectory(prefix="hwnas-bench-") as folder:
            for line in judged(api.load_device(name), wanted.networks, wanted.held_out, Path(folder), wanted.seed):
                print(line, flush=True)


if __name__ == "__main__":
    main()
