"""From a candidate and a seed to a network with its first weights, the same in every process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwnas.core.interfaces import SearchSpace
from hwnas.core.workload import Candidate
from hwnas.digest import content_id

if TYPE_CHECKING:
    from torch import nn


def initialised(space: SearchSpace, candidate: Candidate, seed: int) -> nn.Module:
    """The candidate's network, its weights drawn for this candidate and seed; torch's generator stays as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(content_id([candidate.id, seed])[:15], 16))
        return space.decode(candidate)
