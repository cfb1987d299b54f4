"""What proxies look at, computed once: one forward and one backward pass of an untrained network on one batch.

Passes run on copies of what they would change (weights, running statistics), so proxies leave no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Linear)
"""Layers whose weights are scored, as in the published code of these proxies."""
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_LAYERS = frozenset({"conv1d", "conv2d", "linear"})
_RECTIFIERS = frozenset({"relu", "relu_", "relu6", "hardtanh", "hardswish", "silu", "gelu", "leaky_relu"})


class Passes:
    """The passes of a network on a batch (inputs n x ..., labels n), each made when first asked for."""

    def __init__(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        self.network = network
        self.inputs, self.labels = batch

    @property
    def weights(self) -> list[Tensor]:
        """Weights of convolutions and linear layers, without biases."""
        return [m.weight for m in self.network.modules() if isinstance(m, WEIGHTED)]

    @cached_property
    def gradients(self) -> list[Tensor]:
        """Gradient of the cross-entropy by each of `weights`, zero for weights that nothing uses."""
        return self._forward_backward[0]

    @cached_property
    def agreement(self) -> Tensor:
        """n x n: in how many rectifiers two samples are on the same side of zero, over the whole network."""
        return self._forward_backward[1]

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one sample, in convolutions and matrix products."""
        with _mode(self.network, training=False), torch.no_grad(), FlopCounterMode(display=False) as counter:
            self.network(self.inputs[:1])
        return int(counter.get_total_flops()) // 2

    @cached_property
    def flow(self) -> tuple[list[Tensor], list[Tensor]]:
        """(|weights|, gradients by them) of the sum of outputs, for an input of ones through absolute weights.

        Batch norms pass their input on unchanged, and numbers are doubles: sums of products of hundreds of layers.
        """
        values = {k: v.detach().double() if v.is_floating_point() else v for k, v in self._state().items()}
        for name, _ in self.network.named_parameters():
            values[name] = values[name].abs().requires_grad_()
        ones = torch.ones(1, *self.inputs.shape[1:], dtype=torch.float64)
        with _mode(self.network, training=False), _identity_norms(self.network):
            outputs = functional_call(self.network, values, (ones,))
        weights = [values[name] for name in self._weight_names()]
        return [w.detach() for w in weights], _gradients(outputs.sum(), weights)

    @cached_property
    def _forward_backward(self) -> tuple[list[Tensor], Tensor]:
        # copies of the buffers take the update of the running statistics
        buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        with _mode(self.network, training=True):
            with _Rectifiers(len(self.inputs)) as rectifiers:
                outputs = functional_call(self.network, buffers, (self.inputs,))
            loss = nn.functional.cross_entropy(outputs, self.labels)
        return _gradients(loss, self.weights), rectifiers.agreement

    def _state(self) -> dict[str, Tensor]:
        return {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}

    def _weight_names(self) -> list[str]:
        return [
            f"{name}.weight" if name else "weight"
            for name, m in self.network.named_modules()
            if isinstance(m, WEIGHTED)
        ]


def _gradients(value: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(value, weights, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found)]


class _Rectifiers(TorchFunctionMode):
    """Sums the agreement of samples over every rectifier that runs, be it a module or a function call.

    A rectifier that feeds several layers counts once for each: in published networks each layer has one of its own.
    """

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.agreement = torch.zeros(samples, samples)
        self._known: dict[int, tuple[Tensor, Tensor, bool]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _LAYERS and (known := self._known.get(id(args[0]))) is not None:
            output, agreement, fed = known
            if fed:
                self.agreement += agreement
            self._known[id(output)] = (output, agreement, True)
        result = func(*args, **(kwargs or {}))
        if name in _RECTIFIERS:
            with torch.no_grad():
                # for +-1 codes of m units: equal - different = dot product, and equal + different = m
                codes = (result.flatten(1) > 0).float() * 2 - 1
                agreement = (codes @ codes.T + codes.shape[1]) / 2
            self.agreement += agreement
            self._known[id(result)] = (result, agreement, False)  # holding the result keeps its id its own
        return result


@contextmanager
def _mode(network: nn.Module, training: bool) -> Iterator[None]:
    before = [(module, module.training) for module in network.modules()]
    network.train(training)
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


@contextmanager
def _identity_norms(network: nn.Module) -> Iterator[None]:
    hooks = [
        module.register_forward_hook(lambda _module, inputs, _output: inputs[0])
        for module in network.modules()
        if isinstance(module, NORMS)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
