"""The order in which a job's numbers stream in and out of the core: one word is what moves in one cycle."""

from __future__ import annotations

import numpy as np

from hwnas.firmware.fpga.array import Array
from hwnas.firmware.fpga.job import Job
from hwnas.firmware.fpga.law import PARAMETER_BYTES


def activation_words(job: Job, array: Array) -> np.ndarray:
    """words x rows bytes: panel after panel of `rows` pixels, step after step; of each group in turn where grouped."""
    a = job.activations.view(np.uint8)
    groups = a.reshape(-1, *a.shape[-2:])
    g, m, k = groups.shape
    panels = -(-m // array.rows)
    padded = np.zeros((g, panels * array.rows, k), np.uint8)
    padded[:, :m] = groups
    ordered = padded.reshape(g, panels, array.rows, k).transpose(1, 0, 3, 2)
    return np.ascontiguousarray(ordered).reshape(-1, array.rows)


def weight_words(job: Job, array: Array) -> np.ndarray:
    """words x columns bytes: tile after tile of `columns` channels, step after step."""
    ordered = _tiled(job.weights.view(np.uint8).reshape(-1, *job.weights.shape[-2:]), array.columns).transpose(1, 0, 2)
    return np.ascontiguousarray(ordered).reshape(-1, array.columns)


def parameter_words(job: Job, array: Array) -> np.ndarray:
    """channels x 9 bytes, tile after tile: bias, multiplier with `even` in bit 31, shift - 1."""
    rule, n = job.requantisation, job.bias.size
    fields = np.zeros(n, np.dtype([("bias", "<i4"), ("multiplier", "<u4"), ("shift", "u1")]))
    fields["bias"] = job.bias.reshape(-1)
    fields["multiplier"] = np.broadcast_to(rule.multipliers, n) | (int(rule.even) << 31)
    fields["shift"] = np.broadcast_to(rule.shifts, n) - 1
    raw = fields.view(np.uint8).reshape(-1, job.bias.shape[-1], PARAMETER_BYTES)
    padded = np.zeros((raw.shape[0], _rounded(raw.shape[1], array.columns), PARAMETER_BYTES), np.uint8)
    padded[:, : raw.shape[1]] = raw
    return padded.reshape(-1, PARAMETER_BYTES)


def results(job: Job, array: Array, words: np.ndarray) -> np.ndarray:
    """The result of a job from words x columns bytes: m x n, grouped groups x m x n."""
    m, n = job.activations.shape[-2], job.weights.shape[-1]
    tiles = job.groups * -(-n // array.columns)
    full = m // array.rows * array.rows
    parts = [
        words[: full * tiles].reshape(-1, tiles, array.rows, array.columns),
        words[full * tiles :].reshape(-1, tiles, m - full, array.columns) if m > full else None,
    ]
    found = np.concatenate(
        [p.transpose(1, 0, 2, 3).reshape(tiles, -1, array.columns) for p in parts if p is not None], 1
    )
    if job.grouped:
        return np.ascontiguousarray(found[:, :, :n]).view(job.dtype)
    return np.ascontiguousarray(found.transpose(1, 0, 2).reshape(m, -1)[:, :n]).view(job.dtype)


def _rounded(n: int, to: int) -> int:
    return -(-n // to) * to


def _tiled(groups: np.ndarray, columns: int) -> np.ndarray:
    """groups x k x n as k x tiles x columns."""
    g, k, n = groups.shape
    padded = np.zeros((g, k, _rounded(n, columns)), np.uint8)
    padded[:, :, :n] = groups
    return padded.transpose(1, 0, 2).reshape(k, -1, columns)
