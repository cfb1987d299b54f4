"""What a Cortex-M says of its own crash, in words (Armv7-M Architecture Reference Manual B3.2.15 and B3.2.16)."""

from __future__ import annotations

from hwnas.firmware.codes import FaultKind
from hwnas.firmware.protocol import Fault

CFSR = {
    0: "an instruction was fetched from memory that holds none",
    1: "a memory access violated a protected region",
    3: "a memory fault while returning from an exception",
    4: "a memory fault while entering an exception",
    5: "a memory fault while saving floating-point registers",
    8: "a bus fault on an instruction fetch",
    9: "a bus fault on a data access",
    10: "an imprecise bus fault on a data access",
    11: "a bus fault while returning from an exception",
    12: "a bus fault while entering an exception: the stack left the RAM",
    13: "a bus fault while saving floating-point registers",
    16: "an undefined instruction",
    17: "an invalid state: a jump to an address that is no Thumb code",
    18: "an invalid return from an exception",
    19: "no coprocessor: floating-point code on a core without an FPU, or the FPU is off",
    20: "a stack overflow",
    24: "an unaligned access",
    25: "a division by zero",
}
BFAR_VALID = 1 << 15
KINDS = {
    FaultKind.HARD_FAULT: "hard fault",
    FaultKind.STACK: "stack overflow",
    FaultKind.WATCHDOG: "watchdog, because it hung",
}


def describe(fault: Fault) -> str:
    """One sentence for a fault event: what happened, where, and the registers that say so."""
    kind = KINDS[FaultKind(fault.kind)] if fault.kind in list(FaultKind) else f"fault of unknown kind {fault.kind}"
    reasons = [text for bit, text in CFSR.items() if fault.cfsr >> bit & 1]
    if fault.cfsr & BFAR_VALID:
        reasons.append(f"at address 0x{fault.bfar:08x}")
    what = f"{kind}: {', '.join(reasons)}" if reasons else kind
    registers = f"pc 0x{fault.pc:08x}, lr 0x{fault.lr:08x}, cfsr 0x{fault.cfsr:08x}, hfsr 0x{fault.hfsr:08x}"
    return f"the board stopped: {what} ({registers})"
