"""Every error hwnas raises on purpose, by whose fault it is; the command line maps each class to an exit code.

Anything else that escapes is a bug of ours and shows a traceback (exit code 70).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from pathlib import Path

EXIT_OK = 0
EXIT_NO = 1
EXIT_USAGE = 2
EXIT_DEVICE = 3
EXIT_BUILD = 4
EXIT_BUG = 70
EXIT_INTERRUPTED = 130


def nearest(given: str, allowed: Iterable[str], n: int = 3) -> list[str]:
    """The allowed names closest to the one given, best first; empty when nothing is close."""
    return difflib.get_close_matches(given, sorted(allowed), n=n, cutoff=0.5)


class HwnasError(Exception):
    """The root of every error that is somebody's to fix; `exit_code` is what the command line returns."""

    exit_code = EXIT_USAGE


class ConfigError(HwnasError):
    """A value the user wrote is wrong: names the file, the key, what was given and what is allowed.

    A mistyped name is answered with the nearest allowed ones.
    """

    def __init__(
        self,
        message: str,
        *,
        path: Path | str | None = None,
        key: str | None = None,
        given: object = None,
        allowed: Iterable[str] = (),
    ) -> None:
        self.path, self.key, self.given, self.allowed = path, key, given, tuple(allowed)
        where = ": ".join(str(part) for part in (path, key) if part is not None)
        text = f"{where}: {message}" if where else message
        if isinstance(given, str) and self.allowed:
            close = nearest(given, self.allowed)
            text += f" (did you mean {' or '.join(close)}?)" if close else f" (allowed: {', '.join(self.allowed)})"
        super().__init__(text)


class CandidateError(ConfigError):
    """A candidate's text or genotype does not belong to the search space it was given to."""


class DataError(ConfigError):
    """A data set, model file or measurement file is missing, corrupt or not what it says it is."""


class UnsupportedOperator(HwnasError):
    """A network holds an operator that the toolchain or analysis does not support; names node and reason."""

    exit_code = EXIT_BUILD

    def __init__(self, node: str, reason: str) -> None:
        self.node, self.reason = node, reason
        super().__init__(f"unsupported operator {node}: {reason}")


class BuildError(HwnasError):
    """A toolchain could not build a network; keeps the stage and the tool's log."""

    exit_code = EXIT_BUILD

    def __init__(self, stage: str, log: str) -> None:
        self.stage, self.log = stage, log
        super().__init__(f"build failed in {stage}: {log}")


class DeviceError(HwnasError):
    """The device or the way to it failed."""

    exit_code = EXIT_DEVICE


class DeviceUnavailable(DeviceError):
    """The device could not be opened: absent, busy, or its runner is not installed."""


class DeviceTimeout(DeviceError):
    """The device did not answer within its deadline."""


class DeviceCrashed(DeviceError):
    """The program on the device ended while it ran."""


class NotMeasurable(DeviceError):
    """The device cannot run this very network, now or later; others it can."""


class LinkCorrupt(DeviceError):
    """Bytes on the link failed their check and could not be recovered."""


class DeviceQuarantined(DeviceError):
    """The board failed too often in a row; carries the first cause."""


class MeasurementInvalid(HwnasError):
    """A measurement broke the protocol (drift, throttling, too few samples): kept as a failure, never as a number."""

    exit_code = EXIT_DEVICE


class TrainingFailed(HwnasError):
    """A network could not be trained: its loss stopped being a number, its process died, or its deadline passed."""

    exit_code = EXIT_NO


class TableConflict(HwnasError):
    """Two tables, or a table and a device, cannot be combined: another device, fidelity, toolchain or content."""


class NoFeasibleCandidate(HwnasError):
    """Nothing found meets the budget; names the closest candidate and by how much it misses."""

    exit_code = EXIT_NO

    def __init__(self, closest: str, violations: dict[str, float]) -> None:
        self.closest, self.violations = closest, violations
        over = {name: v for name, v in violations.items() if v > 0}
        misses = ", ".join(
            f"{name} by {100 * v:.1f} %" if math.isfinite(v) else f"{name} (not measured)" for name, v in over.items()
        )
        super().__init__(f"no candidate meets the budget; the closest is {closest}" + (f", over {misses}" * bool(over)))


class Interrupted(HwnasError):
    """Work was stopped by the user after its state was saved; `resume` is the command that goes on."""

    exit_code = EXIT_INTERRUPTED

    def __init__(self, resume: str) -> None:
        self.resume = resume
        super().__init__(f"interrupted; everything recorded is kept. Go on with: {resume}")
