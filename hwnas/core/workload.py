"""Workloads and blocks: what a latency table measures, and what a search space is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hwnas.digest import content_id, digest_bytes

if TYPE_CHECKING:
    import scipy.sparse
    from onnx import ModelProto


@dataclass(frozen=True, slots=True)
class Workload:
    """One fused kernel as a weight-free ONNX subgraph in canonical form; the unit that a table row measures.

    `onnx` is the deterministic serialisation that `hwnas.graph.workloads` makes (weights keep shape and type and
    lose their values); `op` names the fused operators, such as ``Conv+Clip``. `id` is the hash of `onnx`.
    """

    onnx: bytes = field(repr=False)
    op: str
    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", digest_bytes(self.onnx))


@dataclass(frozen=True, slots=True)
class Network:
    """A whole network as a multiset of workloads: what a measurement of a whole network is compared with.

    `parts` maps workload ids to how often each occurs; `label` says what it is for people (a candidate's text, a
    file name). `id` hashes label, digest of the weight-free ONNX, and parts.
    """

    label: str
    onnx_digest: str
    parts: Mapping[str, int]
    space: str | None = None

    @property
    def id(self) -> str:
        return content_id(
            {"label": self.label, "onnx": self.onnx_digest, "parts": dict(self.parts), "space": self.space}
        )


@dataclass(frozen=True, slots=True)
class Block:
    """A distinct piece of a search space, whose workloads are found once and counted in every candidate.

    `key` names it within its space; `build()` returns its ONNX graph (fp32, static shapes). The multiset of
    workloads of a candidate's blocks equals that of its exported network.
    """

    key: str
    build: Callable[[], ModelProto] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class BlockCounts:
    """How often each block occurs in each of n candidates: `counts` is n x b, sparse, in the order of `blocks`."""

    blocks: tuple[Block, ...]
    counts: scipy.sparse.csr_matrix


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """A genotype of a search space. `space` is the space's id, so a candidate never meets a foreign space unseen."""

    space: str
    genotype: tuple[int, ...]

    @property
    def id(self) -> str:
        return content_id([self.space, list(self.genotype)])


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a toolchain built: `path` is a folder that a runner of `runner_format` can load by itself.

    Names all that decides its speed: toolchain, version, options and schedule. `kernels` counts the distinct compiled
    ones where the toolchain knows them, `uncovered` lists those that no schedule rule covers, with the reason, and
    `layout_transforms` counts calls that only permute dimensions; `code` names the micro-kernels and other code that
    were chosen, each once. `flash_bytes` is the size on the device, code and
    constants; `memory` tells more where the toolchain knows it: bytes by use, as in `Samples.memory`.
    """

    path: str
    toolchain: str
    version: str
    options: Mapping[str, Any]
    schedule: str
    flash_bytes: int | None = None
    uncovered: tuple[str, ...] = ()
    memory: Mapping[str, int] = field(default_factory=dict)
    kernels: int | None = None
    layout_transforms: int = 0
    code: tuple[str, ...] = ()
