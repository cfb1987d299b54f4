#ifndef HWNAS_COUNTER_H
#define HWNAS_COUNTER_H

#include <stdint.h>

/* Start the time base and look for a cycle counter; returns which one counts (enum hwnas_counter). */
uint8_t hwnas_counter_start(void);

void hwnas_systick_interrupt(void);

#endif
