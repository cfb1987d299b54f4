"""The shapes of the Cortex-M bench, the peer's constants, and shapes drawn at random.

The peer is CMSIS-NN at commit 99f736a through its public wrapper functions, compiled by arm-none-eabi-gcc 12.2.1 with
-O3 and run by QEMU 7.2.22 with -icount shift=5: executed instructions, no time. They are counted per multiplication
(padding counted as well), per input element of pools, per output element of sums. `peer_cycles` are the peer's counts
weighted as in cortex_m_cycles.c, where they were taken. Where a shape was measured on the
Cortex-M4 alone, its figure stands for the Cortex-M7 too (`m7` is then None).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np

CORES = ("m3", "m4", "m7", "m55")


@dataclass(frozen=True, slots=True)
class Shape:
    """One operator on NHWC activations of `height` x `width` x `inputs`; `pads` are top, left, bottom, right.

    op: conv (1x1 and depthwise too: `groups`), dense, average, maximum, mean (global), add.
    """

    name: str
    op: str
    height: int
    width: int
    inputs: int
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    clamped: bool = False
    peer: dict[str, float | None] = field(default_factory=dict, compare=False)
    peer_cycles: dict[str, float] = field(default_factory=dict, compare=False)

    @property
    def result(self) -> tuple[int, int]:
        """Height and width of the result."""
        if self.op in ("mean", "dense"):
            return 1, 1
        if self.op == "add":
            return self.height, self.width
        size = []
        for k, extent in enumerate((self.height, self.width)):
            reach = self.dilations[k] * (self.kernel[k] - 1) + 1
            size.append((extent + self.pads[k] + self.pads[k + 2] - reach) // self.strides[k] + 1)
        return size[0], size[1]

    @property
    def units(self) -> int:
        """What instructions are counted per."""
        if self.op in ("conv", "dense"):
            return prod(self.result) * self.outputs * prod(self.kernel) * (self.inputs // self.groups)
        return self.height * self.width * self.inputs

    def constant(self, core: str) -> float | None:
        """The peer's instructions per unit on a core; None where it was not measured."""
        own = self.peer.get(core)
        return self.peer.get("m4") if own is None and core == "m7" else own


def _square(size: int, channels: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> dict[str, object]:
    pad = kernel // 2
    return {"height": size, "width": size, "inputs": channels, "outputs": outputs, "kernel": (kernel, kernel),
            "strides": (stride, stride), "pads": (pad, pad, pad, pad), "groups": groups}  # fmt: skip


def _peer(m3: float, m4: float, m55: float, m7: float | None = None) -> dict[str, float | None]:
    return {"m3": m3, "m4": m4, "m7": m7, "m55": m55}


def fixed() -> list[Shape]:
    """The shapes with a constant of the peer."""

    def conv(
        name: str, peer: dict[str, float | None], cycles: dict[str, float] | None = None, **given: object
    ) -> Shape:
        return Shape(name, "conv", peer=peer, peer_cycles=cycles or {}, **given)  # type: ignore[arg-type]

    def dense(
        name: str, inputs: int, outputs: int, peer: dict[str, float | None], cycles: dict[str, float] | None = None
    ) -> Shape:
        return Shape(name, "dense", 1, 1, inputs, outputs, peer=peer, peer_cycles=cycles or {})

    return [
        conv("3x3 16->16 32x32", _peer(3.33, 2.33, 0.388, 2.33), {"m4": 2.91, "m3": 4.73}, **_square(32, 16, 16, 3)),
        conv("1x1 32->64 16x16", _peer(3.66, 2.70, 0.615, 2.66), {"m4": 3.21, "m3": 4.93}, **_square(16, 32, 64, 1)),
        conv("dw3x3 32 16x16", _peer(9.84, 8.78, 2.69, 8.65), {"m4": 10.8}, **_square(16, 32, 32, 3, groups=32)),
        dense("dense 256->64", 256, 64, _peer(3.53, 2.08, 0.528, 2.08), {"m4": 2.58}),
        Shape("global average 8x8x64", "mean", 8, 8, 64, 64, peer=_peer(12.1, 6.48, 1.23, 6.48)),
        Shape("average 2x2 32x32x16", "average", 32, 32, 16, 16, (2, 2), (2, 2), peer=_peer(26.9, 11.4, 4.61)),
        Shape("add 32x32x16", "add", 32, 32, 16, 16, peer=_peer(84.0, 81.6, 13.8, 81.6),
              peer_cycles={"m4": 101.0}),
        conv("3x3 3->16 32x32", _peer(5.446, 4.824, 1.355), **_square(32, 3, 16, 3)),
        conv("3x3 s2 16->32 32x32", _peer(3.061, 2.136, 0.329), **_square(32, 16, 32, 3, 2)),
        conv("3x3 64->64 8x8", _peer(2.671, 1.761, 0.206), **_square(8, 64, 64, 3)),
        conv("1x1 16->96 24x24", _peer(4.798, 3.962, 1.054), **_square(24, 16, 96, 1)),
        conv("1x1 96->24 12x12", _peer(2.905, 1.868, 0.323), **_square(12, 96, 24, 1)),
        conv("1x1 40->240 10x10", _peer(3.453, 2.570, 0.558), **_square(10, 40, 240, 1)),
        conv("1x1 64->64 25x5", _peer(3.109, 2.088, 0.396), **_square(25, 64, 64, 1) | {"width": 5}),
        conv("dw3x3 96 12x12", _peer(9.535, 8.460, 2.170), **_square(12, 96, 96, 3, groups=96)),
        conv("dw3x3 s2 48 24x24", _peer(9.906, 8.769, 2.437), **_square(24, 48, 48, 3, 2, 48)),
        conv("dw5x5 72 12x12", _peer(17.163, 9.239, 1.698), **_square(12, 72, 72, 5, groups=72)),
        conv("dw3x3 64 25x5", _peer(9.366, 8.328, 2.318), **_square(25, 64, 64, 3, groups=64) | {"width": 5}),
        conv("10x4 s2 1->64 49x10", _peer(4.239, 3.464, 0.901), height=49, width=10, inputs=1, outputs=64,
             kernel=(10, 4), strides=(2, 2), pads=(4, 1, 4, 1)),
        dense("dense 64->10", 64, 10, _peer(4.470, 2.891, 1.152)),
        dense("dense 256->128", 256, 128, _peer(3.524, 2.072, 0.523)),
    ]  # fmt: skip


KINDS = ("conv", "1x1", "depthwise", "first", "dense", "average", "maximum", "mean", "add")


def drawn(count: int, seed: int) -> list[Shape]:
    """Shapes of every kind in turn: odd sizes, strides, dilations, one-sided borders, any number of channels."""
    rng = np.random.default_rng(seed)
    return [_draw(rng, KINDS[k % len(KINDS)], k) for k in range(count)]


def _draw(rng: np.random.Generator, kind: str, number: int) -> Shape:
    def among(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    clamped = bool(rng.integers(2))
    height, width = among(1, 17), among(1, 17)
    if kind == "dense":
        inputs, outputs = among(1, 150), among(1, 40)
        return Shape(f"{number} dense {inputs}->{outputs}", "dense", 1, 1, inputs, outputs, clamped=clamped)
    channels = among(1, 40)
    if kind in ("mean", "add"):
        name = f"{number} {kind} {height}x{width}x{channels}"
        return Shape(name, kind, height, width, channels, channels, clamped=clamped)
    pooled = kind in ("average", "maximum")
    kernel, strides, dilations, pads = (1, 1), (1, 1), (1, 1), (0, 0, 0, 0)
    if kind == "1x1":
        strides = (1, 1) if rng.integers(3) else (2, 2)
    else:
        square = rng.integers(4) > 0
        first = among(1, 5)
        kernel = (first, first if square else among(1, 5))
        strides = (among(1, 2), among(1, 2))
        if not pooled and not rng.integers(4):
            dilations = (among(1, 2), among(1, 2))
        # a window of a pool that lies in the border alone would have no element
        most = [max(0, (k - 1) // 2) if pooled else max(0, k - 1) for k in kernel]
        pads = (among(0, most[0]), among(0, most[1]), among(0, most[0]), among(0, most[1]))
    for axis, extent in enumerate((height, width)):
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        grown = max(extent, reach)
        if axis == 0:
            height = grown
        else:
            width = grown
    inputs = among(1, 4) if kind == "first" else channels
    outputs = channels if pooled or kind == "depthwise" else among(1, 40)
    groups = channels if kind == "depthwise" else 1
    geometry = (
        f"{kernel[0]}x{kernel[1]} s{strides[0]}{strides[1]} d{dilations[0]}{dilations[1]} p{','.join(map(str, pads))}"
    )
    return Shape(
        f"{number} {kind} {geometry} {inputs}->{outputs} {height}x{width}", kind if pooled else "conv", height, width,
        inputs, outputs, kernel, strides, pads, dilations, groups, clamped,
    )  # fmt: skip
