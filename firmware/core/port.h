/* What the core asks of a board. Every function here is the port's; cortex_m/ has most of them for all ports. */
#ifndef HWNAS_PORT_H
#define HWNAS_PORT_H

#include <stdbool.h>
#include <stdint.h>

enum hwnas_counter { HWNAS_DWT = 1, HWNAS_SYSTICK = 2, HWNAS_TIMER = 3 };

enum hwnas_cause {
    HWNAS_UNKNOWN = 0,
    HWNAS_POWER = 1,
    HWNAS_PIN = 2,
    HWNAS_SOFTWARE = 3,
    HWNAS_WATCHDOG = 4,
    HWNAS_FAULT = 5,
};

/* What a boot is known by. */
typedef struct {
    uint32_t nonce;
    uint8_t cause;     /* enum hwnas_cause */
    uint8_t counter;   /* enum hwnas_counter */
    uint32_t counter_hz;
    uint8_t board_id[12];
    const char *port;
} hwnas_boot;

extern hwnas_boot hwnas_this_boot;

/* Time: a counter that never wraps, and calls hwnas_on_period at least four times a second, from an interrupt. */
uint64_t hwnas_ticks(void);
/* Begin the period anew, so that the next interrupt of the time base is a whole period away. */
void hwnas_ticks_align(void);
/* How many interrupts there were. */
extern volatile uint32_t hwnas_interrupts;

/* The serial line. Reading gives -1 where nothing waits; writing waits for room, but never in an interrupt. */
int hwnas_serial_read(void);
bool hwnas_serial_waits(void);
void hwnas_serial_write(uint8_t byte);
uint16_t hwnas_serial_room(void);
/* Wait until the last byte has left. */
void hwnas_serial_flush(void);

/* Sleep until an interrupt, unless a byte waits already. */
void hwnas_idle(void);

void hwnas_trigger(bool high);
void hwnas_watchdog_kick(void);
_Noreturn void hwnas_restart(void);

/* The stack grows down from top to bottom. */
uint8_t *hwnas_stack_bottom(void);
uint8_t *hwnas_stack_top(void);
/* Paint what is free below the caller. */
void hwnas_stack_paint(void);

/* RAM that no section of the image has. */
uint8_t *hwnas_spare_memory(void);
uint32_t hwnas_spare_bytes(void);

#ifdef HWNAS_FAULTS
void hwnas_provoke_hard_fault(void);
void hwnas_mask_interrupts(void);
/* How many further boots shall end at once; kept over a restart. */
extern uint8_t hwnas_brownouts;
#endif

#endif
