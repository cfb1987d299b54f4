"""Splits a quantised network between an accelerator and the CPU beside it, by the accelerator's own support rules."""

from hwnas.toolchains.partition.execute import run_partition
from hwnas.toolchains.partition.kernels import Placed
from hwnas.toolchains.partition.rules import Condition, Rule, Supported, support_table
from hwnas.toolchains.partition.stages import (
    Crossing,
    Partition,
    Rest,
    Segment,
    partition,
    require_integers,
    require_whole,
)

__all__ = [
    "Condition",
    "Crossing",
    "Partition",
    "Placed",
    "Rest",
    "Rule",
    "Segment",
    "Supported",
    "partition",
    "require_integers",
    "require_whole",
    "run_partition",
    "support_table",
]
