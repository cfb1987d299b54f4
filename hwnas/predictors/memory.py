"""Flash and RAM of a network, from what each kernel takes: code once, constants each time.

flash = firmware + code of every distinct kernel + constants of every kernel + functions that kernels share, once each
        - what each kernel brings as a network of its own
ram   = firmware and stack + arena (the fullest moment of any block) + workspace (the largest of any kernel)

A kernel alone is a network of one: its names and tables count among its constants. The firmware's own share (that of a
library's frame, where flash is a library), and what a kernel and a distinct kernel bring too much, is fitted to the
whole networks that were measured. RAM is told by images of microcontrollers alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hwnas.core.measurement import SHARED_CODE, Samples
from hwnas.core.workload import Workload
from hwnas.errors import DataError
from hwnas.predictors.features import kernel_class
from hwnas.tables.table import LatencyTable

FLASH_USES = ("code", "constants")
USES = (*FLASH_USES, "workspace")


class MemoryPredictor:
    """Bytes of kernels by use (`code`, `constants`, `workspace`), and the firmware's own flash and RAM."""

    def __init__(
        self,
        kernels: Mapping[str, Mapping[str, float]],
        classes: Mapping[str, str],
        shared: Mapping[str, Mapping[str, float]],
    ) -> None:
        """kernels: workload id -> bytes by use, as measured, but for shared code; classes: workload id -> its class of
        kernel; shared: workload id -> bytes of the functions in its code that others may share, by name."""
        self._kernels = {k: {use: float(v[use]) for use in USES} for k, v in kernels.items()}
        self._classes = dict(classes)
        self._shared = {k: {name: float(size) for name, size in v.items()} for k, v in shared.items()}
        if unknown := self._shared.keys() - self._kernels.keys():
            raise KeyError(f"shared functions of unknown kernels {sorted(unknown)[:3]}")
        self._typical = {
            kind: {
                use: float(np.median([v[use] for k, v in self._kernels.items() if self._classes[k] == kind]))
                for use in USES
            }
            for kind in {*self._classes.values()}
        }
        self.own_flash = np.zeros(3)
        """Bytes of the firmware, of each kernel, and of each distinct kernel, beside code and constants."""
        self.flash_error = 0.0
        """The largest share by which a measured network's flash exceeds its estimate."""
        self.ram_bytes: float | None = None
        """The firmware's RAM; None where no network told its RAM."""

    @classmethod
    def of(cls, table: LatencyTable) -> MemoryPredictor | None:
        """From a table's valid rows; None if no row of a kernel and of a whole network tells its flash."""
        found = {use: table.values(use) for use in (*USES, "flash", "ram", "arena")}
        known = [k for k in table.workloads if all(k in found[use] for use in FLASH_USES)]
        networks = [n for k, n in table.networks.items() if k in found["flash"]]
        if not known or not networks:
            return None
        functions = _shared_functions(table)
        shared = {k: functions[k] for k in known if k in functions}
        measured = {k: {use: found[use].get(k, 0.0) for use in USES} for k in known}
        for k, sizes in shared.items():
            measured[k]["code"] -= sum(sizes.values())
        self = cls(measured, {k: kernel_class(table.workloads[k]) for k in known}, shared)
        rows = {k: self.row(table.workloads[k]) for n in networks for k in n.parts}
        kernels = np.array([sum(rows[k][0] + c * rows[k][1] for k, c in n.parts.items()) for n in networks])
        kernels += [sum(self._once(n.parts).values()) for n in networks]
        flash = np.array([found["flash"][n.id] for n in networks])
        shape = np.array([[1, sum(n.parts.values()), len(n.parts)] for n in networks], dtype=float)
        self.own_flash = _least_squares(shape, flash - kernels)
        self.flash_error = float(max(0.0, (flash / (kernels + shape @ self.own_flash) - 1).max()))
        own_ram = [
            found["ram"][n.id] - found["arena"][n.id] - max(rows[k][2] for k in n.parts)
            for n in networks
            if n.id in found["ram"] and n.id in found["arena"]
        ]
        self.ram_bytes = float(np.median(own_ram)) if own_ram else None
        return self

    def row(self, workload: Workload) -> tuple[float, float, float]:
        """Code of its own, constants and workspace (bytes) of a kernel; what is typical of its class where it was not
        measured."""
        known = self._kernels.get(workload.id)
        if known is None:
            known = self._typical.get(kernel_class(workload), dict.fromkeys(USES, 0.0))
        return known["code"], known["constants"], known["workspace"]

    def rows(self, workloads: Sequence[Workload]) -> np.ndarray:
        """The rows of n kernels, n x 3."""
        return np.array([self.row(w) for w in workloads], dtype=float).reshape(len(workloads), len(USES))

    def shared(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Which of s shared functions each of n kernels needs (n x s, 0 or 1), and the bytes of each function (s)."""
        sizes = self._once(ids)
        names = sorted(sizes)
        needs = np.array([[name in self._shared.get(k, ()) for name in names] for k in ids], dtype=float)
        return needs.reshape(len(ids), len(names)), np.array([sizes[name] for name in names])

    def _once(self, ids: Iterable[str]) -> dict[str, float]:
        """The functions that some of the kernels share, by name."""
        return {name: size for k in ids for name, size in self._shared.get(k, {}).items()}

    def to_json(self) -> dict[str, Any]:
        """Everything `from_json` needs, as JSON."""
        return {
            "kernels": self._kernels,
            "classes": self._classes,
            "shared": self._shared,
            "flash": self.own_flash.tolist(),
            "ram": self.ram_bytes,
            "flash_error": self.flash_error,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> MemoryPredictor:
        """Read what `to_json` wrote. Raises DataError for anything else."""
        try:
            self = cls(document["kernels"], document["classes"], document["shared"])
            self.own_flash = np.array(document["flash"], dtype=float).reshape(3)
            self.flash_error = float(document["flash_error"])
            self.ram_bytes = None if document["ram"] is None else float(document["ram"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"is not a saved memory predictor ({error})") from error
        return self


def _shared_functions(table: LatencyTable) -> dict[str, dict[str, float]]:
    """subject id -> bytes of each function in its code that kernels share, from its last valid row that says so."""
    found: dict[str, dict[str, float]] = {}
    for row in table.measurements.values():
        if table.valid(row) and isinstance(row.result, Samples) and row.result.memory:
            functions = {
                use.removeprefix(SHARED_CODE): float(size)
                for use, size in row.result.memory.items()
                if use.startswith(SHARED_CODE)
            }
            if functions:
                found[row.subject] = functions
    return found


def _least_squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights of three columns, the first a constant; with too few rows to tell more, the constant alone."""
    if len(y) < 2 * x.shape[1]:
        return np.array([float(np.median(y)), 0.0, 0.0])
    return np.asarray(np.linalg.lstsq(x, y, rcond=None)[0])
