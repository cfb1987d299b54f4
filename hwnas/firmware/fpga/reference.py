"""What a job's result is, in numpy: the core must give these very bits."""

from __future__ import annotations

import numpy as np

from hwnas.firmware.fpga.job import Job


def compute(job: Job) -> np.ndarray:
    """The result of a job: m x n, grouped groups x m x n."""
    centred = job.activations.astype(np.int64) - job.zero
    sums = centred @ job.weights.astype(np.int64) + job.bias.astype(np.int64)[..., None, :]
    sums = sums.astype(np.uint64).astype(np.uint32).astype(np.int32).astype(np.int64)  # accumulators wrap
    rule = job.requantisation
    shape = (*job.bias.shape[:-1], 1, job.bias.shape[-1])
    multipliers, shifts = (np.broadcast_to(v, job.bias.size).reshape(shape) for v in (rule.multipliers, rule.shifts))
    products = sums * multipliers
    halves = np.int64(1) << (shifts - 1)
    if rule.even:
        below = products + halves - 1
        rounded = (below + ((below >> shifts) & 1)) >> shifts
    else:
        rounded = (products + halves) >> shifts
    clipped: np.ndarray = np.clip(rounded + job.result_zero, job.low, job.high).astype(job.dtype)
    return clipped
