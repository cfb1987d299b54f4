"""Workloads with a made-up law of how long they take, so that a predictor's error is known exactly."""

from __future__ import annotations

from functools import cache

import numpy as np

from hwnas import api
from hwnas.core.interfaces import BatchSpace
from hwnas.core.workload import Workload
from hwnas.predictors.features import CLASSES, kernel_class, work
from hwnas.profiling.subjects import space_subjects


@cache
def space() -> BatchSpace:
    """A small mbconv space: 8 x 8 inputs, two stages."""
    found = api.load_space(
        "mbconv",
        resolution=8,
        stem={"widths": [8], "kernels": [3], "strides": [1, 2]},
        stages=[
            {"widths": [8, 16], "depths": [1, 2], "strides": [1], "kernels": [3, 5], "expansions": [1, 2]},
            {"widths": [16, 24], "depths": [1], "strides": [2], "kernels": [3], "expansions": [1, 2]},
        ],
        head={"widths": [0, 16]},
    )
    assert isinstance(found, BatchSpace)
    return found


@cache
def workloads() -> tuple[Workload, ...]:
    """The workloads of mbconv-micro, sorted by id."""
    known = space_subjects(api.load_space("mbconv-micro"), "ort", 0).known
    return tuple(known[k] for k in sorted(known))


SPEED = dict(zip(CLASSES, (2e10, 1e10, 1e9, 2e9, 5e9, 1e9, 1e9, 1e9)))
"""Multiply-accumulates a second of each kind of kernel."""


def law(subjects: tuple[Workload, ...] | list[Workload]) -> np.ndarray:
    """Seconds of n workloads: a call, work at a speed that depends on the kind of kernel, and traffic."""
    macs, moved = work(subjects)
    speed = np.array([SPEED[kernel_class(w)] for w in subjects])
    return np.asarray(2e-6 + macs / speed + moved / 2e10)
