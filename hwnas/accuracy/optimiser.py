"""AdamW over all weights of a network as one vector.

torch.optim spends more time in Python on these networks of a hundred small tensors than in arithmetic, and its first
use imports torch's compiler, which takes seconds in every training process.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101, algorithm 2).

    While it lives, the network's parameters are views of `weights`: move them only through it.
    """

    def __init__(self, network: nn.Module, weight_decay: float) -> None:
        import torch

        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.weight_decay = weight_decay
        self.steps = 0
        self.weights = torch.cat([_flat(p.detach()) for p in self.parameters])
        self.mean, self.square = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        start = 0
        for parameter in self.parameters:
            stop = start + parameter.numel()
            parameter.data = _shaped(self.weights[start:stop], parameter)
            start = stop

    def step(self, loss: Tensor, learning_rate: float) -> None:
        """Move the weights one step down the gradient of a loss; a parameter it does not depend on only decays."""
        import torch

        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        gradient = torch.cat(
            [_flat(torch.zeros_like(p) if g is None else g) for g, p in zip(gradients, self.parameters)]
        )
        self.steps += 1
        with torch.no_grad():
            self.mean.lerp_(gradient, 1 - BETA1)
            self.square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
            scale = self.square.sqrt().div_(math.sqrt(1 - BETA2**self.steps)).add_(EPSILON)
            self.weights.mul_(1 - learning_rate * self.weight_decay)
            self.weights.addcdiv_(self.mean, scale, value=-learning_rate / (1 - BETA1**self.steps))


def _flat(tensor: Tensor) -> Tensor:
    """The values as a vector, images' weights in channels-last order so that no copy is needed."""
    return tensor.permute(0, 2, 3, 1).reshape(-1) if tensor.dim() == 4 else tensor.reshape(-1)


def _shaped(vector: Tensor, like: Tensor) -> Tensor:
    """A view of a vector that `_flat` made, in the shape that the tensor `like` has."""
    if like.dim() != 4:
        return vector.view(like.shape)
    outputs, inputs, height, width = like.shape
    return vector.view(outputs, height, width, inputs).permute(0, 3, 1, 2)
