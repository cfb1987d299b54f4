"""Recording in the background: a thread that polls a meter between the entry and the exit of a context.

What goes wrong in the thread is raised at the exit, unless something else is already on its way out.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Protocol

from hwnas.core.interfaces import Loop
from hwnas.core.measurement import EnergyWindow
from hwnas.errors import DeviceUnavailable, HwnasError
from hwnas.meters.trace import PowerTrace

JOIN_S = 10.0


class Source(Protocol):
    """What a meter does for a recording."""

    def begin(self) -> None:
        """Start sampling. Raises DeviceUnavailable."""
        ...

    def poll(self) -> float:
        """Take what there is, and say how long (s) to wait before the next poll. Raises DeviceError or OSError."""
        ...

    def end(self) -> None:
        """Stop sampling and take what is left. Raises DeviceError or OSError."""
        ...

    def trace(self) -> PowerTrace:
        """What was recorded."""
        ...


class Recording:
    """A context that records; it is the trace, complete after the exit."""

    def __init__(self, name: str, source: Source) -> None:
        self._name, self._source = name, source
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"meter-{name}", daemon=True)
        self._error: Exception | None = None
        self._trace: PowerTrace | None = None

    def __enter__(self) -> Recording:
        try:
            self._source.begin()
        except OSError as error:
            raise DeviceUnavailable(f"meter {self._name}: {error}") from error
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(JOIN_S)
        try:
            if self._thread.is_alive():
                raise DeviceUnavailable(f"meter {self._name} does not answer any more")
            self._source.end()
            if self._error is not None:
                raise self._error
            self._trace = self._source.trace()
        except (HwnasError, OSError) as fault:
            if kind is None:
                raise _named(self._name, self._error or fault) from fault

    def window(self, loop: Loop, idle_s: float, least_samples: int) -> EnergyWindow | None:
        """The energy of a loop, as `PowerTrace.window`. Raises MeasurementInvalid; RuntimeError before the exit."""
        if self._trace is None:
            raise RuntimeError("the recording has not ended well; a trace is complete after the exit of record()")
        return self._trace.window(loop, idle_s, least_samples)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if (wait_s := self._source.poll()) > 0:
                    self._stop.wait(wait_s)
        except Exception as error:  # of a thread, which nobody would see: it is raised at the exit
            self._error = error


class Ticks:
    """Times of a periodic poll that do not drift."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._next_s = time.monotonic()

    def wait_s(self) -> float:
        """How long until the next poll is due; a poll that is late by whole intervals skips them."""
        now = time.monotonic()
        while self._next_s <= now:
            self._next_s += self._interval_s
        return self._next_s - now


def _named(name: str, error: Exception) -> Exception:
    if isinstance(error, HwnasError):
        return error
    return DeviceUnavailable(f"meter {name} was lost during the recording: {error}")
