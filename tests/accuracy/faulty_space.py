"""A user's own search space, small and with faults to order: importable by training processes."""

from __future__ import annotations

import os
import time

import numpy as np

from hwnas.core.workload import Block, Candidate
from hwnas.errors import CandidateError

FAULTS = ("none", "raises", "dies", "hangs", "diverges")


class FaultySpace:
    """Genotype (width - 1, fault); one convolution of that width and a classifier, for the digits data set."""

    name = "faulty"
    id = "faulty-1"
    input_shape = (1, 1, 8, 8)
    classes = 10

    def candidate(self, width: int, fault: str = "none") -> Candidate:
        return Candidate(self.id, (width - 1, FAULTS.index(fault)))

    def sample(self, rng: np.random.Generator) -> Candidate:
        return self.candidate(int(rng.integers(1, 17)))

    def mutate(self, parent: Candidate, rng: np.random.Generator) -> Candidate:
        return self.sample(rng)

    def crossover(self, a: Candidate, b: Candidate, rng: np.random.Generator) -> Candidate:
        return a

    def encode(self, candidate: Candidate) -> str:
        return f"w{candidate.genotype[0] + 1}-{FAULTS[candidate.genotype[1]]}"

    def parse(self, text: str) -> Candidate:
        width, dash, fault = text.removeprefix("w").partition("-")
        if not dash:
            raise CandidateError(f"{text!r} is not a candidate", given=text)
        return self.candidate(int(width), fault)

    def decode(self, candidate: Candidate):
        from torch import nn

        width, fault = candidate.genotype[0] + 1, FAULTS[candidate.genotype[1]]
        if fault == "raises":
            raise RuntimeError("no such network")
        if fault == "dies":
            os._exit(7)
        if fault == "hangs":
            time.sleep(600)
        parts = [nn.Conv2d(1, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.1), nn.Flatten()]
        network = nn.Sequential(*parts, nn.Linear(16 * width, 10))
        if fault == "diverges":
            nn.init.constant_(network[-1].weight, float("inf"))
        return network

    def blocks(self, candidate: Candidate) -> tuple[Block, ...]:
        from onnx import TensorProto, helper

        width = candidate.genotype[0] + 1

        def build():
            shapes = {"x": [1, 1, 8, 8], "y": [1, width, 4, 4]}
            x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items())
            weight = helper.make_tensor("w", TensorProto.FLOAT, [width, 1, 3, 3], [0.0] * 9 * width)
            conv = helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1])
            relu = helper.make_node("Relu", ["c"], ["y"])
            graph = helper.make_graph([conv, relu], "block", [x], [y], [weight])
            return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])

        return (Block(f"conv{width}", build),)
