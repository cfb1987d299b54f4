"""The text form of an mbconv candidate, which people can read and write.

``s16k3d2R|24d1R:k5e4,k3e1q+|64R`` is: a stem of 16 channels, kernel 3, stride 2 and relu6 (R; H is hardswish); a
stage of width 24 and stride 1 with two blocks, the second of kernel 3 and expansion 1 with squeeze-excite (q) and
residual (+); a head convolution to 64 channels (0 is none).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from hwnas.errors import CandidateError
from hwnas.spaces.mbconv_blocks import ACTIVATION_LETTER
from hwnas.spaces.mbconv_genes import MbconvGenes, SlotGenes, StageGenes

_LETTER_ACTIVATION = {letter: name for name, letter in ACTIVATION_LETTER.items()}
_NUMBER = "([1-9][0-9]{0,4})"
_STEM = re.compile(f"s{_NUMBER}k{_NUMBER}d{_NUMBER}([RH])")
_STAGE = re.compile(f"{_NUMBER}d{_NUMBER}([RH]):(.+)")
_BLOCK = re.compile(rf"k{_NUMBER}e{_NUMBER}(q?)(\+?)")
_HEAD = re.compile("(0|[1-9][0-9]{0,4})([RH]?)")
_FORM = "s16k3d2R|24d1R:k5e4,k3e1q+|64R"
MAX_TEXT = 4096


def encode(genes: MbconvGenes, genotype: np.ndarray) -> str:
    """The text of a canonical genotype (g integers)."""

    def value(gene: int) -> Any:
        return genes.choices[gene][genotype[gene]]

    def letter(gene: int) -> str:
        return ACTIVATION_LETTER[value(gene)]

    active = genes.active(genotype[None])[0]

    def block(slot: SlotGenes) -> str:
        squeeze = "q" if value(slot.squeeze) else ""
        add = "+" if active[slot.residual] and value(slot.residual) else ""
        return f"k{value(slot.kernel)}e{value(slot.expansion)}{squeeze}{add}"

    parts = [f"s{value(genes.STEM_WIDTH)}k{value(genes.STEM_KERNEL)}d{value(genes.STEM_STRIDE)}"]
    parts[0] += letter(genes.STEM_ACTIVATION)
    for stage in genes.stages:
        blocks = ",".join(block(slot) for slot in stage.slots[: value(stage.depth)])
        parts.append(f"{value(stage.width)}d{value(stage.stride)}{letter(stage.activation)}:{blocks}")
    width = value(genes.head_width)
    parts.append(f"{width}{letter(genes.head_activation) if width else ''}")
    return "|".join(parts)


def parse(genes: MbconvGenes, text: str) -> np.ndarray:
    """The canonical genotype of a text. Raises CandidateError that names the part and what is allowed there."""
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        raise CandidateError(f"{str(text)[:40]!r} is not the text of an mbconv candidate, which looks like {_FORM!r}")
    return _Reader(genes, text).genotype()


class _Reader:
    def __init__(self, genes: MbconvGenes, text: str) -> None:
        self._genes, self._text = genes, text
        self._row = np.zeros(len(genes.choices), np.int64)

    def genotype(self) -> np.ndarray:
        genes, parts = self._genes, self._text.split("|")
        if len(parts) != len(genes.stages) + 2:
            raise CandidateError(
                f"{self._text!r} has {len(parts)} parts between |, this space has {len(genes.stages) + 2}: "
                f"stem, {len(genes.stages)} stages, head, like {_FORM!r}"
            )
        width, kernel, stride, letter = self._match(_STEM, parts[0], "the stem")
        self._choose(genes.STEM_WIDTH, int(width))
        self._choose(genes.STEM_KERNEL, int(kernel))
        self._choose(genes.STEM_STRIDE, int(stride))
        self._choose(genes.STEM_ACTIVATION, _LETTER_ACTIVATION[letter])
        for number, (stage, part) in enumerate(zip(genes.stages, parts[1:-1]), 1):
            self._stage(number, stage, part)
        width, letter = self._match(_HEAD, parts[-1], "the head")
        if (width == "0") != (letter == ""):
            raise CandidateError(f"{self._text!r}: the head {parts[-1]!r} needs a width and an activation, or only 0")
        self._choose(genes.head_width, int(width))
        if letter:
            self._choose(genes.head_activation, _LETTER_ACTIVATION[letter])
        return self._row

    def _stage(self, number: int, stage: StageGenes, part: str) -> None:
        width, stride, letter, blocks = self._match(_STAGE, part, f"stage {number}")
        self._choose(stage.width, int(width))
        self._choose(stage.stride, int(stride))
        self._choose(stage.activation, _LETTER_ACTIVATION[letter])
        texts = blocks.split(",")
        self._choose(stage.depth, len(texts))
        for place, (slot, text) in enumerate(zip(stage.slots, texts), 1):
            kernel, expansion, squeeze, residual = self._match(_BLOCK, text, f"block {place} of stage {number}")
            self._choose(slot.kernel, int(kernel))
            self._choose(slot.expansion, int(expansion))
            self._choose(slot.squeeze, squeeze == "q")
            if self._genes.active(self._row[None])[0, slot.residual]:
                self._choose(slot.residual, residual == "+")
            elif residual:
                raise CandidateError(
                    f"{self._text!r}: block {place} of stage {number} changes the shape, which rules out a residual (+)"
                )

    def _match(self, form: re.Pattern[str], part: str, what: str) -> tuple[str, ...]:
        found = form.fullmatch(part)
        if found is None:
            raise CandidateError(f"{self._text!r}: {part!r} does not describe {what}; a candidate looks like {_FORM!r}")
        return found.groups()

    def _choose(self, gene: int, value: object) -> None:
        allowed = list(self._genes.choices[gene])
        if value not in allowed:
            name, options = self._genes.names[gene], ", ".join(map(str, allowed))
            raise CandidateError(f"{self._text!r}: {name} is {value}, this space allows {options}")
        self._row[gene] = allowed.index(value)
