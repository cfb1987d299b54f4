"""The parameters of the systolic core in firmware/fpga: how large its array is and how much its buffers hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hwnas.errors import ConfigError

MOST_CELLS_A_SIDE: Final = 64


@dataclass(frozen=True, slots=True)
class Array:
    """ROWS x COLUMNS cells: `rows` pixels and `columns` output channels are worked on at once.

    steps: the longest sum of products (K) that a panel of activations may have. words: rows of weights, of `columns`
    bytes each, that are held on chip. tiles: how many times `columns` channels the parameters of are held.
    Raises ConfigError for what the core is not written for.
    """

    rows: int = 8
    columns: int = 8
    steps: int = 1024
    words: int = 4096
    tiles: int = 64

    def __post_init__(self) -> None:
        for name, low, high in (("rows", 2, MOST_CELLS_A_SIDE), ("columns", 2, MOST_CELLS_A_SIDE)):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ConfigError(f"must be an integer from {low} to {high}, not {value!r}", key=name, given=value)
        for name, low, high in (("steps", 16, 2**14), ("words", 16, 2**16), ("tiles", 2, 2**10)):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high or value & (value - 1):
                raise ConfigError(f"must be a power of two from {low} to {high}, not {value!r}", key=name, given=value)

    @property
    def parameters(self) -> dict[str, int]:
        """The Verilog parameters of hwnas_core."""
        return {
            "ROWS": self.rows,
            "COLUMNS": self.columns,
            "STEPS": self.steps,
            "WORDS": self.words,
            "TILES": self.tiles,
        }

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"
