"""How well the host's whole networks are predicted: profile `mbconv-micro`, then networks the predictor never saw.

    python tests/bench/bench_network_predictor.py [--networks 120] [--held-out 120] [--toolchains ort tvm]

Prints one table: Spearman, mean absolute percentage error, and coverage of the one-sided 90 % bound on held-out
networks; and next to them the plain sum of isolated workloads, which is what a latency table alone would say.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from hwnas import api
from hwnas.cli.render import print_table
from hwnas.core.measurement import Fidelity
from hwnas.predictors.features import CLASSES
from hwnas.predictors.fit import calibration, fit_workloads
from hwnas.predictors.network import NetworkPredictor
from hwnas.tables.table import LatencyTable


def row(toolchain: str, networks: int, held_out: int, tables: Path, seed: int) -> list[str]:
    device, space = api.load_device("host"), api.load_space("mbconv-micro")
    start = time.monotonic()
    plan = api.plan_profile(device, space, toolchain=toolchain, networks=networks + held_out, tables=tables, seed=seed)
    for _ in plan.events():
        pass
    took = time.monotonic() - start
    table = LatencyTable.read(plan.table)
    assert table.recipe.fidelity is Fidelity.HARDWARE
    predictor = NetworkPredictor(fit_workloads(table, device, seed=seed), seed)
    columns, values = calibration(table, device, predictor)
    order = np.random.default_rng(seed).permutation(len(values))
    fitted, unseen = order[:networks], order[networks:]
    predictor.fit(columns[fitted], values[fitted])
    mean, _, high = predictor.predict_columns(columns[unseen]).T
    truth = values[unseen]
    plain = columns[unseen][:, : len(CLASSES)].sum(1)
    return [
        toolchain,
        str(len(table.workloads)),
        f"{len(fitted)}/{len(unseen)}",
        f"{np.median(truth) * 1e6:.0f} us",
        f"{spearmanr(mean, truth).statistic:.3f}",
        f"{100 * np.mean(np.abs(mean / truth - 1)):.1f} %",
        f"{np.mean(truth <= high):.3f}",
        f"{np.mean(high / mean):.2f}",
        f"{spearmanr(plain, truth).statistic:.3f}",
        f"{100 * np.mean(np.abs(plain / truth - 1)):.0f} %",
        f"{took:.0f} s",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=120, help="networks to calibrate on")
    parser.add_argument("--held-out", type=int, default=120, help="networks to judge on")
    parser.add_argument("--toolchains", nargs="+", default=["ort", "tvm"])
    parser.add_argument("--tables", type=Path, help="keep the tables here (default: a temporary folder)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        tables = arguments.tables or Path(scratch)
        rows = [row(t, arguments.networks, arguments.held_out, tables, arguments.seed) for t in arguments.toolchains]
    columns = (
        "toolchain",
        "workloads",
        "fit/unseen",
        "median",
        "Spearman",
        "MAPE",
        "covered",
        "bound",
        "sum: Spearman",
        "sum: MAPE",
        "took",
    )
    print_table("whole mbconv-micro networks on this host", columns, rows, right=columns[1:])


if __name__ == "__main__":
    main()
