"""The zero-cost proxies: scores of an untrained network, higher is better."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hwnas.accuracy.proxies.passes import Passes


class SharedProxy:
    """A proxy that can be scored from passes that others made already; called with a network, it makes its own."""

    def __init__(self, score: Callable[[Passes], float]) -> None:
        self.score = score
        functools.update_wrapper(self, score)

    def __call__(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> float:
        return self.score(Passes(network, batch))


@SharedProxy
def params(passes: Passes) -> float:
    """Number of trainable parameters, those of dead parts included."""
    return float(sum(p.numel() for p in passes.network.parameters() if p.requires_grad))


@SharedProxy
def macs(passes: Passes) -> float:
    """Multiply-accumulates of one inference."""
    return float(passes.macs)


@SharedProxy
def grad_norm(passes: Passes) -> float:
    """Sum over layers of the Euclidean norm of the loss gradient, sum_l |dL/dw_l|_2.

    Source: Abdelfattah et al., 'Zero-cost proxies for lightweight NAS', ICLR 2021, section 3.2.
    """
    return float(sum(g.norm().item() for g in passes.gradients))


@SharedProxy
def snip(passes: Passes) -> float:
    """Connection sensitivity, sum |dL/dw * w|.

    Source: Lee et al., 'SNIP', ICLR 2019, equation 5 before normalisation; summed as by Abdelfattah et al. 2021.
    """
    return float(sum((g * w).abs().sum().item() for g, w in zip(passes.gradients, passes.weights)))


@SharedProxy
def synflow(passes: Passes) -> float:
    """Synaptic flow, log(1 + sum dR/dw * |w|), where R sums the outputs for an input of ones through |w|; no data.

    Source: Tanaka et al., 'Pruning neural networks without any data', NeurIPS 2020, equation 2. The logarithm is
    that of NAS-Bench-Suite-Zero (Krishnakumar et al. 2022), whose norms pass their input on, too.
    """
    weights, gradients = passes.flow
    return math.log1p(sum((g * w).abs().sum().item() for g, w in zip(gradients, weights)))


@SharedProxy
def nwot(passes: Passes) -> float:
    """Log determinant of the kernel of rectifier codes, log |K| with K_ij = units - Hamming(c_i, c_j); no labels.

    Source: Mellor et al., 'Neural architecture search without training', ICML 2021, equation 2. A network that
    gives two samples the same codes has no determinant: its score is minus infinity.
    """
    sign, value = torch.linalg.slogdet(passes.agreement.double())
    return float(value) if sign > 0 else -math.inf
