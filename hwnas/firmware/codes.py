"""The numbers of the binary dialect: operations, statuses, events and their kinds (firmware/PROTOCOL.md)."""

from __future__ import annotations

from enum import IntEnum

VERSION = 1
MAX_BODY = 240
MAX_REPEATS = 24
REPLY = 0x80
EVENT_SEQ = 0


class Op(IntEnum):
    """Operations; a request's reply has REPLY set as well."""

    HELLO = 0x01
    INFO = 0x02
    WRITE = 0x03
    CHECK = 0x04
    RUN = 0x05
    READ = 0x06
    KERNELS = 0x07
    LOOP = 0x08
    RESET = 0x09
    STOP = 0x0A
    NAME = 0x0B
    PROVOKE = 0x3E
    BOOT = 0x40
    ALIVE = 0x41
    FAULT = 0x42


class Status(IntEnum):
    """The first byte of a reply."""

    DONE = 0
    UNKNOWN_OP = 1
    OUT_OF_RANGE = 2
    NO_NETWORK = 3
    INPUT_USED = 4
    KERNEL_ERROR = 5
    STOPPED = 6


class Counter(IntEnum):
    """What counts ticks."""

    DWT = 1
    SYSTICK = 2
    TIMER = 3


class ResetCause(IntEnum):
    """Why the board started last."""

    UNKNOWN = 0
    POWER = 1
    PIN = 2
    SOFTWARE = 3
    WATCHDOG = 4
    FAULT = 5


class FaultKind(IntEnum):
    """What stopped the firmware."""

    HARD_FAULT = 1
    STACK = 2
    WATCHDOG = 3


class Provocation(IntEnum):
    """What PROVOKE makes a firmware built for tests do."""

    HARD_FAULT = 1
    HANG = 2
    HANG_INTERRUPTS_OFF = 3
    RESTART = 4
    LYING_LENGTH = 5
    BROWN_OUT = 6
