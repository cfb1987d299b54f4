"""The training engine: one network, one data set, one plan, one seed; the same result in every process.

It trains on one thread (two networks on one thread each finish far sooner than one on two), keeps every epoch's loss
and accuracy, and stops and resumes at epoch borders with the result of an undisturbed run. It knows nothing of
candidates, spaces or tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hwnas.accuracy.checkpoint import Checkpoint
from hwnas.accuracy.datasets.dataset import Dataset, Part
from hwnas.accuracy.optimiser import AdamW
from hwnas.accuracy.threads import one_thread
from hwnas.digest import content_id
from hwnas.errors import TrainingFailed

if TYPE_CHECKING:
    from torch import Tensor, nn

ENGINE = 1
"""Part of every plan's digest: raise it when the engine changes results, so that no older row is mistaken for a new one."""
EVALUATION_BATCH = 200


class TrainingPlan(BaseModel):
    """How a network is trained: AdamW under a one-cycle learning rate (Smith and Topin, arXiv:1708.07120).

    The rate rises as a half cosine to `learning_rate` during the share `warmup` of all steps, then falls to zero.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=3, ge=1, le=10_000)
    batch: int = Field(default=64, ge=2, le=65_536)
    learning_rate: float = Field(default=4e-3, gt=0, le=1)
    warmup: float = Field(default=0.3, gt=0, lt=1, description="share of all steps")
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    ema: float | None = Field(
        default=None, gt=0, lt=1, description="decay a step of averaged weights; None: the last weights"
    )
    patience: int | None = Field(
        default=None, ge=1, description="stop after so many epochs without a better validation"
    )
    augment: Literal["none", "shift"] = "none"
    fit_on: Literal["train", "train+val"] = "train"

    @model_validator(mode="after")
    def _consistent(self) -> TrainingPlan:
        if self.patience is not None and self.fit_on == "train+val":
            raise ValueError("patience needs a validation part, so fit_on must be 'train'")
        return self

    @property
    def digest(self) -> str:
        """Content id of everything that decides a result, but for network, data and seed."""
        return content_id([ENGINE, self.model_dump(mode="json")])


@dataclass(frozen=True, slots=True)
class Training:
    """What training gave so far: a value an epoch in each tuple; `complete` once the plan has run or stopped early.

    losses: mean training loss. val_accuracies: fractions, empty where the plan has no validation part.
    val_accuracy, test_accuracy: of the weights that training ends with (val: so far); None where not known.
    seconds: time on one thread.
    """

    losses: tuple[float, ...] = ()
    val_accuracies: tuple[float, ...] = ()
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    seconds: float = 0.0
    complete: bool = False

    @property
    def epochs(self) -> int:
        return len(self.losses)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Training:
        """A record from its JSON form, where tuples are lists. Raises TypeError for an unknown field."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
        return cls(**fields)


def train(
    network: nn.Module,
    dataset: Dataset,
    plan: TrainingPlan,
    seed: int,
    checkpoint: Path | None = None,
    until_epoch: int | None = None,
) -> Training:
    """Train a network in place, from its checkpoint if that has one of this very training, until `until_epoch`.

    The plan's learning rates do not depend on `until_epoch`: going on later, from the checkpoint, costs and gives the
    same as never having stopped. Raises TrainingFailed when the loss stops being a number.
    """
    import torch

    shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
    key = content_id([dataset.digest, plan.digest, seed, shapes])
    store = Checkpoint(checkpoint, key) if checkpoint else None
    # channels last is about twice as fast on a CPU for these networks; it is undone below, for exporters
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with one_thread(), torch.random.fork_rng(devices=[]):
        run = _Run(network, dataset, plan, seed)
        if store is not None and (found := store.load()) is not None:
            run.restore(*found)
        last = plan.epochs if until_epoch is None else min(until_epoch, plan.epochs)
        while run.so_far.epochs < last and not run.so_far.complete:
            run.epoch()
            if store is not None:
                store.save(*run.state())
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return run.so_far


class _Run:
    """The moving parts of one training between two epochs.

    The network holds the weights that the optimiser moves, until the plan is complete; then those it is judged with.
    """

    def __init__(self, network: nn.Module, dataset: Dataset, plan: TrainingPlan, seed: int) -> None:
        import torch

        self.network, self.plan, self.seed, self.dataset = network, plan, seed, dataset
        self.part = dataset.train if plan.fit_on == "train" else dataset.train_val
        self.labels = torch.tensor(self.part.labels)
        self.optimiser = AdamW(network, plan.weight_decay)
        self.averaged = _weights(network) if plan.ema is not None else None
        self.best: dict[str, Tensor] | None = None
        self.so_far = Training()

    def epoch(self) -> None:
        """One pass over the training part, then the accuracies."""
        import torch

        started, number = perf_counter(), self.so_far.epochs
        # every epoch has generators of its own, so a resumed run needs no generator state
        rng = np.random.default_rng([self.seed, number])
        torch.manual_seed(int(rng.integers(2**62)))
        inputs = shifted(self.part.inputs, rng) if self.plan.augment == "shift" else self.part.inputs
        loss = self._pass(torch.tensor(inputs).contiguous(memory_format=torch.channels_last), rng)
        if not math.isfinite(loss):
            raise TrainingFailed(f"the loss is {loss} in epoch {number + 1} of {self.plan.epochs}")
        now = replace(self.so_far, losses=(*self.so_far.losses, loss))
        if self.plan.fit_on == "train":
            now = self._validated(now)
        if now.epochs == self.plan.epochs or self._is_stale(now):
            if (final := self.best or self.averaged) is not None:
                self.network.load_state_dict(final)
            now = replace(now, test_accuracy=accuracy(self.network, self.dataset.test), complete=True)
        self.so_far = replace(now, seconds=now.seconds + perf_counter() - started)

    def _pass(self, samples: Tensor, rng: np.random.Generator) -> float:
        import torch
        from torch.nn.functional import cross_entropy

        self.network.train()
        # chunks of near-equal size: none is left with the single sample that batch normalisation cannot take
        steps = math.ceil(len(samples) / self.plan.batch)
        order = torch.tensor(rng.permutation(len(samples)))
        total = 0.0
        for step, chosen in enumerate(torch.tensor_split(order, steps), start=self.so_far.epochs * steps):
            rate = one_cycle(step / (self.plan.epochs * steps), self.plan.warmup)
            outputs = self.network(samples[chosen])
            loss = cross_entropy(outputs, self.labels[chosen], label_smoothing=self.plan.label_smoothing)
            self.optimiser.step(loss, self.plan.learning_rate * rate)
            total += loss.item() * len(chosen)
            self._average()
        return total / len(samples)

    def _average(self) -> None:
        if self.averaged is None or self.plan.ema is None:
            return
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.averaged[name].lerp_(value, 1 - self.plan.ema)
            else:
                self.averaged[name].copy_(value)

    def _validated(self, now: Training) -> Training:
        live = _weights(self.network) if self.averaged is not None else None
        if self.averaged is not None:
            self.network.load_state_dict(self.averaged)
        reached = accuracy(self.network, self.dataset.val)
        if self.plan.patience is not None and reached > max(now.val_accuracies, default=-1.0):
            self.best = _weights(self.network)
        if live is not None:
            self.network.load_state_dict(live)
        # with patience the best epoch's weights are the ones kept; without, the last
        kept = max((*now.val_accuracies, reached)) if self.plan.patience is not None else reached
        return replace(now, val_accuracies=(*now.val_accuracies, reached), val_accuracy=kept)

    def _is_stale(self, now: Training) -> bool:
        if self.plan.patience is None:
            return False
        return now.epochs - 1 - now.val_accuracies.index(max(now.val_accuracies)) >= self.plan.patience

    def state(self) -> tuple[dict[str, Tensor], Training]:
        """Named tensors and the record that `restore` takes; a complete run needs its weights alone."""
        import torch

        tensors = {f"network/{k}": v for k, v in self.network.state_dict().items()}
        if not self.so_far.complete:
            for group, weights in (("averaged", self.averaged), ("best", self.best)):
                tensors |= {f"{group}/{k}": v for k, v in (weights or {}).items()}
            tensors |= {"optimiser/mean": self.optimiser.mean, "optimiser/square": self.optimiser.square}
            tensors["optimiser/steps"] = torch.tensor(self.optimiser.steps)
        return tensors, self.so_far

    def restore(self, tensors: dict[str, Tensor], so_far: Training) -> None:
        """Go on from a state of this very training."""
        groups: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            group, _, rest = name.partition("/")
            groups.setdefault(group, {})[rest] = value
        self.network.load_state_dict(groups["network"])
        self.averaged = groups.get("averaged", self.averaged)
        self.best = groups.get("best")
        if not so_far.complete:
            moments = groups["optimiser"]
            self.optimiser.mean, self.optimiser.square = moments["mean"], moments["square"]
            self.optimiser.steps = int(moments["steps"])
        self.so_far = so_far


def accuracy(network: nn.Module, part: Part) -> float:
    """The share of a part that the network classifies rightly (fraction 0..1); leaves it in evaluation mode."""
    import torch

    network.eval()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(part), EVALUATION_BATCH):
            stop = start + EVALUATION_BATCH
            inputs = torch.tensor(part.inputs[start:stop]).contiguous(memory_format=torch.channels_last)
            right += int((network(inputs).argmax(1) == torch.tensor(part.labels[start:stop])).sum())
    return right / len(part)


def one_cycle(progress: float, warmup: float, start: float = 0.04) -> float:
    """The factor on the learning rate at a share of all steps: `start` to 1 over `warmup`, then to 0, half cosines."""
    if progress < warmup:
        return 1 - (1 - start) * (1 + math.cos(math.pi * progress / warmup)) / 2
    return (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2


def shifted(inputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every sample of n x c x h x w moved by up to a fourteenth of each side (at least one element), zeros moved in.

    A side of one element, as of signals, does not move.
    """
    n, _, height, width = inputs.shape
    reach = [0 if side == 1 else max(1, side // 14) for side in (height, width)]
    padded = np.pad(inputs, ((0, 0), (0, 0), (reach[0], reach[0]), (reach[1], reach[1])))
    down = rng.integers(0, 2 * reach[0] + 1, n)
    right = rng.integers(0, 2 * reach[1] + 1, n)
    moved = np.empty_like(inputs)
    for y in range(2 * reach[0] + 1):
        for x in range(2 * reach[1] + 1):
            chosen = np.flatnonzero((down == y) & (right == x))
            moved[chosen] = padded[chosen, :, y : y + height, x : x + width]
    return moved


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
