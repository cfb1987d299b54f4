"""Proxies of many candidates: one batch for all, one network and one pass for each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from hwnas import registry
from hwnas.accuracy.candidates import initialised
from hwnas.accuracy.datasets.dataset import Dataset
from hwnas.accuracy.proxies.measures import SharedProxy
from hwnas.accuracy.proxies.passes import Passes
from hwnas.accuracy.threads import one_thread
from hwnas.core.interfaces import SearchSpace
from hwnas.core.workload import Candidate
from hwnas.errors import ConfigError

BATCH = 64


def score_proxies(
    space: SearchSpace, candidates: Sequence[Candidate], dataset: Dataset, names: Sequence[str], seed: int = 0
) -> np.ndarray:
    """Scores of n candidates by p proxies, n x p; NaN where a proxy gives no finite number.

    All are scored on the same training samples, drawn by `seed`, and a candidate's weights depend on it and `seed`
    alone. Raises ConfigError for an unknown proxy, or a data set that does not fit the space.
    """
    if dataset.input_shape[1:] != tuple(space.input_shape)[1:]:
        raise ConfigError(
            f"data set {dataset.name!r} is {dataset.input_shape}, the space {space.input_shape}", key="data"
        )
    proxies = [registry.proxies.load(name) for name in names]
    chosen = np.random.default_rng(seed).permutation(len(dataset.train))[:BATCH]
    batch = torch.tensor(dataset.train.inputs[chosen]), torch.tensor(dataset.train.labels[chosen])
    scores = np.full((len(candidates), len(proxies)), np.nan)
    with one_thread():
        for row, candidate in zip(scores, candidates):
            network = initialised(space, candidate, seed)
            passes = Passes(network, batch)
            for column, proxy in enumerate(proxies):
                value = proxy.score(passes) if isinstance(proxy, SharedProxy) else proxy(network, batch)
                row[column] = value if math.isfinite(value) else np.nan
    return scores
