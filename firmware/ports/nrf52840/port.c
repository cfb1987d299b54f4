/* nRF52840 on Nordic's development kit: 64 MHz from the 32 MHz crystal, UART0 on P0.06 and P0.08 to the serial port of
 * the on-board J-Link, trigger on P0.03 (Arduino A0). Registers: nRF52840 Product Specification v1.7; pins: the kit's
 * hardware files (PCA10056). */
#include "chip.h"
#include "port.h"
#include "registers.h"
#include "serial_ring.h"
#include "startup.h"

#if HWNAS_CLOCK_HZ != 64000000
#error "the nRF52840 runs at 64 MHz; give the device `clock: 64 MHz`"
#endif

enum {
    CLOCK_HFCLKSTART = 0x40000000,
    CLOCK_HFCLKSTARTED = 0x40000100,
    POWER_RESETREAS = 0x40000400,
    POWER_DCDCEN = 0x40000578,
    APPROTECT_DISABLE = 0x40000558,
    NVMC_ICACHECNF = 0x4001E540,
    P0_OUTSET = 0x50000508,
    P0_OUTCLR = 0x5000050C,
    P0_DIRSET = 0x50000518,
    P0_PIN_CNF = 0x50000700,
    FICR_DEVICEID = 0x10000060,
    UART_STARTRX = 0x40002000,
    UART_STARTTX = 0x40002008,
    UART_RXDRDY = 0x40002108,
    UART_TXDRDY = 0x4000211C,
    UART_ERROR = 0x40002124,
    UART_INTENSET = 0x40002304,
    UART_ERRORSRC = 0x40002480,
    UART_ENABLE = 0x40002500,
    UART_PSELTXD = 0x4000250C,
    UART_PSELRXD = 0x40002514,
    UART_RXD = 0x40002518,
    UART_TXD = 0x4000251C,
    UART_BAUDRATE = 0x40002524,
    WDT_START = 0x40010000,
    WDT_CRV = 0x40010504,
    WDT_RREN = 0x40010508,
    WDT_CONFIG = 0x4001050C,
    WDT_RR0 = 0x40010600,
};

enum {
    UART_INTERRUPT = 2,
    INT_RXDRDY = 1 << 2,
    INT_TXDRDY = 1 << 7,
    INT_ERROR = 1 << 9,
    RESETREAS_PIN = 1 << 0,
    RESETREAS_DOG = 1 << 1,
    RESETREAS_SREQ = 1 << 2,
    RELOAD = 0x6E524635,
    PIN_TXD = 6,
    PIN_RXD = 8,
    TRIGGER = 3,
    PULL_UP = 3 << 2,
    PATIENCE = 100000,
};

/* 16 MHz x value / 2^32, in steps of 2^12. */
#define BAUDRATE ((uint32_t)((((uint64_t)HWNAS_BAUD << 32) / 16000000 + 0x800) & ~0xFFFull))

const char hwnas_chip_name[] = "nrf52840";

static volatile bool sending;

static void uart(void) {
    hwnas_interrupts++;
    while (HWNAS_REG(UART_RXDRDY)) {
        HWNAS_REG(UART_RXDRDY) = 0; /* first, or a byte that comes meanwhile would be forgotten */
        hwnas_serial_received((uint8_t)HWNAS_REG(UART_RXD));
    }
    if (HWNAS_REG(UART_ERROR)) { /* noise on the line: the frame's CRC tells */
        HWNAS_REG(UART_ERROR) = 0;
        HWNAS_REG(UART_ERRORSRC) = HWNAS_REG(UART_ERRORSRC);
    }
    if (HWNAS_REG(UART_TXDRDY)) {
        HWNAS_REG(UART_TXDRDY) = 0;
        int byte = hwnas_serial_next();
        sending = byte >= 0;
        if (sending) HWNAS_REG(UART_TXD) = (uint32_t)byte;
    }
}

HWNAS_VECTOR_TABLE = {HWNAS_CORE_VECTORS, [16 + UART_INTERRUPT] = uart};

void hwnas_chip_start(void) {
    HWNAS_REG(APPROTECT_DISABLE) = 0x5A; /* from revision 3 on, a debugger is locked out until firmware lets it in */
    HWNAS_REG(NVMC_ICACHECNF) = 1;
    HWNAS_REG(POWER_DCDCEN) = 1; /* the kit has the coil that the converter needs */
    HWNAS_REG(CLOCK_HFCLKSTART) = 1;
    for (int i = 0; i < PATIENCE && !HWNAS_REG(CLOCK_HFCLKSTARTED); i++) {}
    HWNAS_REG(P0_OUTCLR) = 1 << TRIGGER;
    HWNAS_REG(P0_OUTSET) = 1 << PIN_TXD;
    HWNAS_REG(P0_DIRSET) = 1 << TRIGGER | 1 << PIN_TXD;
    HWNAS_REG(P0_PIN_CNF + 4 * PIN_RXD) = PULL_UP;
    HWNAS_REG(UART_PSELTXD) = PIN_TXD;
    HWNAS_REG(UART_PSELRXD) = PIN_RXD;
    HWNAS_REG(UART_BAUDRATE) = BAUDRATE;
    HWNAS_REG(UART_ENABLE) = 4;
    HWNAS_REG(UART_STARTTX) = 1;
    HWNAS_REG(UART_STARTRX) = 1;
    HWNAS_REG(UART_INTENSET) = INT_RXDRDY | INT_TXDRDY | INT_ERROR;
    hwnas_enable_interrupt(UART_INTERRUPT);
}

void hwnas_port_send(void) {
    uint32_t before = hwnas_mask();
    if (!sending) {
        int byte = hwnas_serial_next();
        sending = byte >= 0;
        if (sending) HWNAS_REG(UART_TXD) = (uint32_t)byte;
    }
    hwnas_unmask(before);
}

bool hwnas_port_sending(void) { return sending; }

void hwnas_chip_put(uint8_t byte) {
    for (int i = 0; i < PATIENCE && sending && !HWNAS_REG(UART_TXDRDY); i++) {}
    HWNAS_REG(UART_TXDRDY) = 0;
    HWNAS_REG(UART_TXD) = byte;
    sending = true;
}

/* It goes on while the core sleeps and stops while a debugger halts it. */
void hwnas_chip_watchdog_start(void) {
    HWNAS_REG(WDT_CONFIG) = 1;
    HWNAS_REG(WDT_CRV) = HWNAS_WATCHDOG_S * 32768 - 1;
    HWNAS_REG(WDT_RREN) = 1;
    HWNAS_REG(WDT_START) = 1;
}

void hwnas_watchdog_kick(void) { HWNAS_REG(WDT_RR0) = RELOAD; }

uint8_t hwnas_chip_reset_cause(void) {
    uint32_t reason = HWNAS_REG(POWER_RESETREAS);
    HWNAS_REG(POWER_RESETREAS) = reason;
    if (!reason) return HWNAS_POWER;
    if (reason & RESETREAS_DOG) return HWNAS_WATCHDOG;
    if (reason & RESETREAS_SREQ) return HWNAS_SOFTWARE;
    return reason & RESETREAS_PIN ? HWNAS_PIN : HWNAS_UNKNOWN;
}

void hwnas_trigger(bool high) { HWNAS_REG(high ? P0_OUTSET : P0_OUTCLR) = 1 << TRIGGER; }

void hwnas_chip_board_id(uint8_t id[12]) {
    for (int i = 0; i < 12; i++) id[i] = i < 8 ? (uint8_t)(HWNAS_REG(FICR_DEVICEID + (i & ~3)) >> 8 * (i & 3)) : 0;
}
