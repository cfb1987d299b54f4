"""A column of HW-NAS-Bench as calibration data: a few networks teach a stack, all the others judge it."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import kendalltau, rankdata

from hwnas.predictors.stack import NetworkStack
from hwnas.spaces.cell import CellSpace

CALIBRATION = 40


class Column(NamedTuple):
    """Genotypes, n x 6, and seconds (n), NaN where the benchmark could not measure."""

    space: CellSpace
    genotypes: np.ndarray
    seconds: np.ndarray


class Scores(NamedTuple):
    """How well the networks are predicted that were not calibrated on.

    tau (Kendall's b), mape and covered (by the one-sided 90 % bound) are of measurable networks, auc is of telling these
    from the others; `measured` counts the calibration networks that could be measured.
    """

    tau: float
    mape: float
    covered: float
    auc: float
    measured: int


def read_column(path: Path, column: str, space: CellSpace) -> Column:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(space.parse(row["net"]).genotype, float(row[column]) / 1e3) for row in csv.DictReader(file)]
    seconds = np.array([s if s > 0 else math.nan for _, s in rows])
    return Column(space, np.array([genotype for genotype, _ in rows]), seconds)


def split(column: Column, seed: int, n: int = CALIBRATION) -> Scores:
    """Calibrate on n random networks, whether they could be measured or not, and judge by all others."""
    order = np.random.default_rng(seed).permutation(len(column.seconds))
    taught, others = order[:n], order[n:]
    stack = NetworkStack(seed).fit(column.space, column.genotypes[taught], column.seconds[taught].tolist())
    runs = ~np.isnan(column.seconds[others])
    mean, _, high = stack.predict(column.genotypes[others][runs])
    truth = column.seconds[others][runs]
    return Scores(
        tau=float(kendalltau(mean, truth).statistic),
        mape=float(np.mean(np.abs(mean / truth - 1))),
        covered=float(np.mean(truth <= high)),
        auc=roc_auc(stack.measurable(column.genotypes[others]), runs),
        measured=int(np.sum(~np.isnan(column.seconds[taught]))),
    )


def roc_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The area under the ROC curve: how often a positive scores above a negative (Mann and Whitney 1947)."""
    ranks, p, n = rankdata(scores), int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - p * (p + 1) / 2) / (p * n))
