"""A session with one board as a state machine: every wait has a deadline, and what goes wrong climbs a ladder.

    closed -> booted -> ready -> measuring -> ready ... -> quarantined

Rungs: ask again (the exchange does), open and resynchronise the line, reset (by the firmware, from outside, by the modem
lines), power-cycle, quarantine. The rung is kept from one call to the next until a call succeeds; a quarantined board
remembers its first failure and answers nothing else.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol, TypeVar

from hwnas.errors import (
    DeviceCrashed,
    DeviceError,
    DeviceQuarantined,
    DeviceTimeout,
    DeviceUnavailable,
    HwnasError,
    LinkCorrupt,
)
from hwnas.firmware.codes import VERSION
from hwnas.firmware.protocol import Hello, Identity, Reset
from hwnas.runners.exchange import Clock, Exchange, Restarted, StillRunning, Timing
from hwnas.runners.links import Link, LinkLost

T = TypeVar("T")
Work = Callable[[Exchange, float], T]
"""What is asked of a board that has said who it is, by a deadline on the session's clock."""
RESTARTS = 3
"""A board that restarts more often than this during one call is not restarted by chance."""
RECONNECT_S = 0.05
LEAST_COMMAND_S = 1.0
"""What a command of the lab file is given even where the deadline is nearer."""
LEAST_BODY = 32
"""A firmware that takes less in a request is none of ours."""


class WrongBoard(DeviceUnavailable):
    """Another board than the expected one answers."""


class WrongFirmware(DeviceUnavailable):
    """The board runs something else than what was flashed."""


class Station(Protocol):
    """The desk around one board: its line, and the means to reset it and to switch it off and on."""

    place: str
    timing: Timing

    def connect(self) -> Link:
        """Open the line. Raises DeviceUnavailable."""
        ...

    def reset(self, timeout_s: float) -> bool:
        """Reset the board from outside; False where there is no way to. Raises DeviceError."""
        ...

    def power_cycle(self, timeout_s: float) -> bool:
        """Switch the board off and on; False where there is no way to. Raises DeviceError."""
        ...

    def diagnosis(self) -> str | None:
        """What the station itself knows to be wrong, for the error."""
        ...


class State(StrEnum):
    CLOSED = "closed"
    BOOTED = "booted"
    READY = "ready"
    MEASURING = "measuring"
    QUARANTINED = "quarantined"


class Session:
    """A conversation with the board at a station; `perform` is how anything is asked of it.

    expected_port: what the firmware's port must call itself.
    """

    def __init__(self, station: Station, expected_port: str, clock: Clock = time.monotonic) -> None:
        self._station, self._port, self._clock = station, expected_port, clock
        self._link: Link | None = None
        self._exchange: Exchange | None = None
        self._image: bytes | None = None
        self._board: bytes | None = None
        self._rung = self._seq = 0
        self._first: Exception | None = None
        self.state = State.CLOSED
        self.identity: Identity | None = None
        self._disturbances = 0

    @property
    def disturbances(self) -> int:
        """How often a request was sent again, the board restarted, or a rung was climbed."""
        return self._disturbances + (self._exchange.resent if self._exchange is not None else 0)

    def expect(self, image_id: bytes) -> None:
        """From now on the board has to run this image; what was known of it is asked again."""
        self.refuse_if_quarantined()
        self._image = image_id
        self.disconnect()

    def open(self) -> None:
        """Open the line, and keep others from it. Raises DeviceUnavailable."""
        self.refuse_if_quarantined()
        if self._exchange is None:
            self._connect(self._clock())

    def peek(self) -> Identity | None:
        """Who answers, if anybody does at once; no ladder, no expectation."""
        try:
            self.open()
            assert self._exchange is not None
            self._exchange.resync()
            return self._exchange.call(Hello(), self._clock() + self._station.timing.boot_s)
        except DeviceError:
            return None
        finally:
            self._lose()

    def perform(self, work: Work[T], timeout_s: float) -> T:
        """The result of `work`, done anew after each recovery, within `timeout_s` seconds.

        Raises DeviceQuarantined when the ladder ends, or the board is not the expected one; DeviceCrashed, DeviceTimeout
        and what `work` raises when that is the answer and the board goes on.
        """
        self.refuse_if_quarantined()
        deadline = self._clock() + timeout_s
        while True:
            try:
                self._climb(deadline)
                result = self._attempt(work, deadline)
            except DeviceQuarantined:
                raise
            except (WrongBoard, WrongFirmware) as error:
                self._first = error  # whatever led to asking again who answers, this is what is wrong
                raise self.quarantine(error) from error
            except StillRunning:
                self._recovered()
                self._stop()
                raise
            except DeviceCrashed:
                self._recovered()
                self._lose()
                raise
            except (LinkCorrupt, LinkLost, DeviceTimeout, Restarted) as error:
                self._fall(error, deadline)
            except HwnasError:  # the board answered, and the answer is no
                self._recovered()
                raise
            else:
                self._recovered()
                return result

    def quarantine(self, cause: Exception) -> DeviceQuarantined:
        """Give the board up; the error to raise carries the first cause."""
        self._first = self._first or cause
        self.state = State.QUARANTINED
        self._hang_up()
        return self._quarantined()

    def refuse_if_quarantined(self) -> None:
        """Raises DeviceQuarantined with the first cause, if it is."""
        if self.state is State.QUARANTINED:
            raise self._quarantined()

    def disconnect(self) -> None:
        """Close the line, for a flasher that needs it."""
        self._hang_up()

    def _quarantined(self) -> DeviceQuarantined:
        diagnosis = self._station.diagnosis()
        told = f"{type(self._first).__name__}: {self._first}" + (f" ({diagnosis})" if diagnosis else "")
        return DeviceQuarantined(f"{self._station.place} is quarantined; the first failure was {told}")

    def _attempt(self, work: Work[T], deadline: float) -> T:
        """Do the work once more each time the board restarts under it, a few times."""
        for left in reversed(range(RESTARTS)):
            exchange = self._ready(deadline)
            self.state = State.MEASURING
            try:
                result = work(exchange, deadline)
            except Restarted as error:
                self._disturbances += 1
                self._lose()
                if not left:
                    self._ready(deadline)  # it starts and stays up: what it runs ends it, not its supply
                    raise DeviceCrashed(f"the board restarted {RESTARTS} times while this ran: {error}") from error
            except HwnasError:
                self.state = State.READY  # unless `perform` finds that it is not
                raise
            else:
                self.state = State.READY
                return result
        raise AssertionError("the last restart raises")

    def _ready(self, deadline: float) -> Exchange:
        """The exchange with a board that has said who it is. Raises as `perform`."""
        if self._exchange is None:
            self._connect(min(deadline, self._clock() + self._station.timing.boot_s))
        assert self._exchange is not None
        if self.state in (State.CLOSED, State.BOOTED):
            self._exchange.resync()
            self._identify(self._exchange, min(deadline, self._clock() + self._station.timing.boot_s))
            self.state = State.READY
        return self._exchange

    def _connect(self, until: float) -> None:
        """Open the line; a board that enumerates anew takes a moment."""
        while True:
            try:
                self._link = self._station.connect()
                self._exchange = Exchange(self._link, self._station.timing, self._clock, self._seq)
                return
            except DeviceUnavailable as error:
                if self._clock() >= until or self._station.diagnosis() is not None:
                    raise LinkLost(str(error)) from error
                time.sleep(RECONNECT_S)

    def _identify(self, exchange: Exchange, until: float) -> None:
        """HELLO until somebody answers, then check who it is."""
        while True:
            try:
                identity = exchange.call(Hello(), until)
                break
            except (LinkCorrupt, DeviceTimeout) as error:
                if isinstance(error, LinkLost) or self._clock() >= until:
                    raise
        self.identity = identity
        self.state = State.BOOTED
        self._check(identity)

    def _check(self, said: Identity) -> None:
        where = self._station.place
        if said.protocol != VERSION:
            raise WrongFirmware(
                f"{where} speaks protocol {said.protocol} and hwnas {VERSION}; flash it with this hwnas"
            )
        if said.max_body < LEAST_BODY or not said.counter_hz:
            raise WrongFirmware(f"{where} takes bodies of {said.max_body} bytes and counts at {said.counter_hz} Hz")
        if said.port != self._port:
            raise WrongBoard(
                f"{where} is a board of port {said.port!r}, not {self._port!r}: is another plugged in there?"
            )
        if self._board is not None and said.board_id != self._board:
            raise WrongBoard(
                f"another board answers at {where}: its id is {said.board_id.hex()}, it was {self._board.hex()}"
            )
        if self._image is not None and said.image_id != self._image:
            version = ".".join(map(str, said.firmware))
            raise WrongFirmware(
                f"{where} runs image {said.image_id.hex()} (firmware {version}), not {self._image.hex()} that was flashed"
            )
        self._board = said.board_id

    def _fall(self, error: Exception, deadline: float) -> None:
        """After a failure: the next rung, or the end. Raises the error when the time is up, DeviceQuarantined at the top."""
        self._first = self._first or error
        self._lose()
        self._rung += 1
        if self._rung >= len(_LADDER):
            raise self.quarantine(error) from error
        if self._clock() >= deadline:
            if isinstance(error, DeviceTimeout | LinkCorrupt):
                raise error
            raise DeviceTimeout(f"the board did not come back in time: {error}") from error

    def _climb(self, deadline: float) -> None:
        """Do what the rung says. A rung that this station has no means for is passed over."""
        while self._rung and not _LADDER[self._rung](self, deadline):
            self._rung += 1
            if self._rung >= len(_LADDER):
                assert self._first is not None
                raise self.quarantine(self._first) from self._first
        self._disturbances += bool(self._rung)

    def _reopen(self, deadline: float) -> bool:
        """Open the line anew; the next HELLO begins with the bytes that resynchronise."""
        self._hang_up()
        return True

    def _ask_for_reset(self, deadline: float) -> bool:
        """Have the firmware restart the board."""
        with contextlib.suppress(DeviceError):
            if self._exchange is None:
                self._connect(self._clock())
            assert self._exchange is not None
            self._exchange.resync()
            self._exchange.call(Reset(), self._clock() + 2 * self._station.timing.slack_s)
            self._lose()
            return True
        return False

    def _reset(self, deadline: float) -> bool:
        """Restart the board from outside."""
        return self._try(self._station.reset, deadline)

    def _pulse_reset(self, deadline: float) -> bool:
        """Restart the board by the modem lines."""
        with contextlib.suppress(DeviceError):
            if self._link is None:
                self._connect(self._clock())
            return self._link is not None and self._link.pulse_reset()
        return False

    def _power_cycle(self, deadline: float) -> bool:
        self._hang_up()
        return self._try(self._station.power_cycle, deadline)

    def _try(self, means: Callable[[float], bool], deadline: float) -> bool:
        try:
            return means(max(LEAST_COMMAND_S, deadline - self._clock()))
        except DeviceError as error:
            self._first = self._first or error
            return False

    def _recovered(self) -> None:
        """The board answers: the next trouble begins at the foot of the ladder."""
        self._rung, self._first = 0, None

    def _stop(self) -> None:
        """End what outlived its deadline; where that does not work, the next call climbs."""
        try:
            if self._exchange is not None:
                self._exchange.stop()
            self.state = State.READY
        except DeviceError as error:
            self._first = self._first or error
            self._rung = max(self._rung, 1)
            self._lose()

    def _lose(self) -> None:
        """The board has to say who it is before anything else is asked of it."""
        if self.state is not State.QUARANTINED:
            self.state = State.CLOSED
        if self._exchange is not None:
            self._exchange.nonce = None

    def _hang_up(self) -> None:
        if self._exchange is not None:
            self._disturbances += self._exchange.resent
            self._seq = self._exchange.seq
        if self._link is not None:
            self._link.close()
        self._link = self._exchange = None
        if self.state is not State.QUARANTINED:
            self.state = State.CLOSED


_LADDER: tuple[Callable[[Session, float], bool], ...] = (
    lambda session, deadline: True,
    Session._reopen,
    Session._ask_for_reset,
    Session._reset,
    Session._pulse_reset,
    Session._power_cycle,
)
RUNGS = len(_LADDER)
