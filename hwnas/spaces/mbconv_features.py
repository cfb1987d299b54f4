"""Features of mbconv genotypes for accuracy predictors: the shape of the network, stage by stage."""

from __future__ import annotations

import numpy as np

from hwnas.spaces.mbconv_genes import MbconvGenes

_STAGE = (
    "log2_width", "depth", "log2_stride", "hardswish", "mean_log2_expansion", "max_log2_expansion", "mean_kernel",
    "squeezes", "residuals", "log2_widest",
)  # fmt: skip


def feature_names(genes: MbconvGenes) -> tuple[str, ...]:
    """What each column of `features` is."""
    stem = ("stem.log2_width", "stem.kernel", "stem.log2_stride", "stem.hardswish")
    stages = tuple(f"stage{n}.{name}" for n in range(1, len(genes.stages) + 1) for name in _STAGE)
    whole = ("head.log2_width", "depth", "squeezes", "residuals", "log2_stride", "log2_params", "log2_macs")
    return (*stem, *stages, *whole)


def features(genes: MbconvGenes, rows: np.ndarray, params: np.ndarray, macs: np.ndarray) -> np.ndarray:
    """n x f features of n canonical genotypes; params and macs are n numbers each."""

    def value(gene: int) -> np.ndarray:
        return genes.values(rows, gene)

    def log2(gene: int) -> np.ndarray:
        logarithms: np.ndarray = np.log2(value(gene))
        return logarithms

    active = genes.active(rows)
    stride = log2(genes.STEM_STRIDE)
    columns = [log2(genes.STEM_WIDTH), value(genes.STEM_KERNEL), stride, value(genes.STEM_ACTIVATION) == "hardswish"]
    inputs = value(genes.STEM_WIDTH)
    whole = {name: np.zeros(len(rows)) for name in ("depth", "squeezes", "residuals")}
    for stage in genes.stages:
        width, depth = value(stage.width), value(stage.depth)
        present = np.stack([depth > k for k in range(len(stage.slots))])
        expansions = np.where(present, np.stack([log2(s.expansion) for s in stage.slots]), 0)
        kernels = np.where(present, np.stack([value(s.kernel) for s in stage.slots]), 0)
        squeezes = (present & np.stack([value(s.squeeze) for s in stage.slots])).sum(0)
        residuals = np.stack([active[:, s.residual] & value(s.residual) for s in stage.slots]).sum(0)
        entering = np.stack([inputs, *[width] * (len(stage.slots) - 1)])
        widest = np.where(present, np.log2(entering) + expansions, 0).max(0)
        columns += [np.log2(width), depth, log2(stage.stride), value(stage.activation) == "hardswish"]
        columns += [expansions.sum(0) / depth, expansions.max(0), kernels.sum(0) / depth, squeezes, residuals, widest]
        for name, part in (("depth", depth), ("squeezes", squeezes), ("residuals", residuals)):
            whole[name] += part
        stride, inputs = stride + log2(stage.stride), width
    columns += [np.log2(value(genes.head_width) + 1), *whole.values(), stride, np.log2(params), np.log2(macs)]
    return np.stack([np.asarray(c, float) for c in columns], 1)
