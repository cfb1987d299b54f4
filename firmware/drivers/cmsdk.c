#include "cmsdk.h"

#include "port.h"
#include "registers.h"
#include "serial_ring.h"

enum {
    DATA = 0x00,
    STATE = 0x04,
    CTRL = 0x08,
    INTSTATUS = 0x0C,
    BAUDDIV = 0x10,
    TX_FULL = 1 << 0,
    RX_FULL = 1 << 1,
    TX_ENABLE = 1 << 0,
    RX_ENABLE = 1 << 1,
    TX_INTERRUPT = 1 << 2,
    RX_INTERRUPT = 1 << 3,
    TX_DONE = 1 << 0,
    RX_DONE = 1 << 1,
    WDOG_LOAD = 0x00,
    WDOG_CONTROL = 0x08,
    WDOG_INTCLR = 0x0C,
    WDOG_LOCK = 0xC00,
    WDOG_INTEN = 1 << 0,
    WDOG_RESEN = 1 << 1,
    WDOG_UNLOCK = 0x1ACCE551,
    PATIENCE = 100000,
};

void hwnas_cmsdk_uart_start(uint32_t base, uint32_t clock_hz, uint32_t baud) {
    HWNAS_REG(base + BAUDDIV) = clock_hz / baud;
    HWNAS_REG(base + CTRL) = TX_ENABLE | RX_ENABLE | TX_INTERRUPT | RX_INTERRUPT;
}

/* Acknowledge before reading: a byte that comes between the two raises the interrupt again; the other way round it
 * would be acknowledged unread. */
void hwnas_cmsdk_uart_received(uint32_t base) {
    hwnas_interrupts++;
    HWNAS_REG(base + INTSTATUS) = RX_DONE;
    while (HWNAS_REG(base + STATE) & RX_FULL) hwnas_serial_received((uint8_t)HWNAS_REG(base + DATA));
}

void hwnas_cmsdk_uart_sent(uint32_t base) {
    hwnas_interrupts++;
    HWNAS_REG(base + INTSTATUS) = TX_DONE;
    hwnas_cmsdk_uart_send(base);
}

void hwnas_cmsdk_uart_send(uint32_t base) {
    uint32_t before = hwnas_mask();
    if (!(HWNAS_REG(base + STATE) & TX_FULL)) {
        int byte = hwnas_serial_next();
        if (byte >= 0) HWNAS_REG(base + DATA) = (uint32_t)byte;
    }
    hwnas_unmask(before);
}

bool hwnas_cmsdk_uart_sending(uint32_t base) { return HWNAS_REG(base + STATE) & TX_FULL; }

void hwnas_cmsdk_uart_put(uint32_t base, uint8_t byte) {
    for (int i = 0; i < PATIENCE && HWNAS_REG(base + STATE) & TX_FULL; i++) {}
    HWNAS_REG(base + DATA) = byte;
}

void hwnas_cmsdk_watchdog_start(uint32_t base, uint32_t ticks) {
    HWNAS_REG(base + WDOG_LOCK) = WDOG_UNLOCK;
    HWNAS_REG(base + WDOG_LOAD) = ticks;
    HWNAS_REG(base + WDOG_CONTROL) = WDOG_INTEN | WDOG_RESEN;
}

void hwnas_cmsdk_watchdog_kick(uint32_t base) { HWNAS_REG(base + WDOG_INTCLR) = 1; }
