/* Runs of a network, timed from the first kernel to the last, with the trigger pin high meanwhile. */
#ifndef HWNAS_MEASURE_H
#define HWNAS_MEASURE_H

#include <stdint.h>

#include "hwnas_network.h"

enum { HWNAS_MAX_REPEATS = 24, HWNAS_FLAG_FILL = 1, HWNAS_FLAG_KERNELS = 2 };

typedef struct {
    uint16_t network, warmup, repeats;
    uint8_t flags;
} hwnas_run_plan;

typedef struct {
    uint16_t runs, interrupted;
    uint64_t overhead;
    uint32_t stack_bytes, workspace_bytes;
    uint64_t ticks[HWNAS_MAX_REPEATS];
    int32_t error;  /* of a kernel, or 0 */
} hwnas_run_report;

/* Run and time a network as planned; ends early on a kernel's error or a STOP. */
void hwnas_measure(const hwnas_run_plan *plan, hwnas_run_report *report);

/* Run back to back for some milliseconds, the trigger high; returns a kernel's error or 0. */
int32_t hwnas_loop(uint16_t network, uint32_t milliseconds, uint32_t *runs, uint64_t *ticks);

/* One run on the inputs that are there, untimed; returns a kernel's error or 0. */
int32_t hwnas_run_once(uint16_t network);

/* How many kernel times there are of the network since its last run that timed them. */
uint16_t hwnas_kernels_timed(uint16_t network);

#endif
