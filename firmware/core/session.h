/* What is in the arena, and what is being done: the state that requests and text commands share. */
#ifndef HWNAS_SESSION_H
#define HWNAS_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "hwnas_network.h"

enum { HWNAS_NOBODY = 0xFFFF };

typedef struct {
    uint16_t owner;         /* the network whose tensors the arena holds, or HWNAS_NOBODY */
    uint32_t written;       /* a bit for each input that was written since the last run */
    bool has_outputs;       /* the last thing that happened to the arena was a run of the owner */
    volatile bool measures; /* a RUN, a LOOP or an infer is under way */
    volatile bool stop;     /* and was asked to end */
    volatile uint8_t op;    /* what to say of it in ALIVE */
    volatile uint32_t done; /* runs so far */
} hwnas_session;

extern hwnas_session hwnas_now;

/* The network of that number, or NULL where there is none that the arena and the workspace can hold. */
const hwnas_network *hwnas_network_at(uint16_t number);

/* Put bytes into an input; the caller has checked that they fit. */
void hwnas_write_input(uint16_t number, uint8_t input, uint32_t offset, const uint8_t *from, uint32_t length);

/* True if every input of the network was written since the last run. */
bool hwnas_inputs_are_fresh(uint16_t number);

/* Called from the interrupt of the time base, and between runs: says ALIVE when it is time. */
void hwnas_on_period(void);

/* Begin and end what ALIVE tells of. */
void hwnas_session_begin(uint8_t op);
void hwnas_session_end(void);

#endif
