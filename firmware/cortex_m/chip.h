/* What a port gives to cortex_m/: the chip behind the core. */
#ifndef HWNAS_CHIP_H
#define HWNAS_CHIP_H

#include <stdint.h>

/* Clocks, pins, serial line and its interrupts, trigger pin low. The core's clock is HWNAS_CLOCK_HZ afterwards. */
void hwnas_chip_start(void);

/* Starts the watchdog; it bites HWNAS_WATCHDOG_S seconds after the last kick. */
void hwnas_chip_watchdog_start(void);
enum { HWNAS_WATCHDOG_S = 8 };

/* Why the chip says that it started (enum hwnas_cause), and forget it. HWNAS_UNKNOWN where it does not say. */
uint8_t hwnas_chip_reset_cause(void);

void hwnas_chip_board_id(uint8_t id[12]);

/* Send a byte without interrupts, by waiting for a bounded time: for the fault handler. */
void hwnas_chip_put(uint8_t byte);

extern const char hwnas_chip_name[];

#endif
