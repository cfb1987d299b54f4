/* The first sixteen entries of every vector table; the port's interrupts follow. */
#ifndef HWNAS_STARTUP_H
#define HWNAS_STARTUP_H

#include "counter.h"
#include "faults.h"

typedef void (*hwnas_vector)(void);

extern uint8_t hwnas_stack_end[]; /* of the linker script */
_Noreturn void hwnas_reset_exception(void);

/* The port defines it; it may be longer than its declaration says. */
extern const hwnas_vector hwnas_vectors[];

#define HWNAS_VECTOR_TABLE __attribute__((section(".vectors"), used)) const hwnas_vector hwnas_vectors[]

#define HWNAS_CORE_VECTORS                                                                                         \
    (hwnas_vector)(uintptr_t)hwnas_stack_end, (hwnas_vector)hwnas_reset_exception, hwnas_watchdog_exception,        \
        hwnas_fault_exception, hwnas_fault_exception, hwnas_fault_exception, hwnas_fault_exception,                 \
        hwnas_fault_exception, 0, 0, 0, hwnas_fault_exception, hwnas_fault_exception, 0, hwnas_fault_exception,     \
        hwnas_systick_interrupt

#endif
