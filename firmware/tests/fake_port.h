/* A board made of variables: what the core sends is kept, what it is to receive is put in, time passes by asking. */
#ifndef HWNAS_FAKE_PORT_H
#define HWNAS_FAKE_PORT_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FAKE_STACK = 1024, FAKE_SPARE = 256 };

typedef struct {
    uint8_t sent[1 << 16];
    size_t sent_length;
    uint8_t waiting[1024]; /* bytes that come in while a network runs */
    size_t waiting_length, waiting_taken;
    uint64_t ticks;
    uint32_t step;         /* ticks that pass with each reading */
    uint32_t spare;        /* bytes of RAM left over */
    uint32_t kicks, patience; /* after so many kicks of the watchdog a STOP comes by itself; 0: never */
    uint32_t rises;        /* of the trigger */
    bool trigger;
    uint32_t restarts;
    jmp_buf restarted;
} fake_board;

extern fake_board fake;

/* A board as after power-up, nothing sent or received. */
void fake_clear(void);

/* Forget what was sent. */
void fake_forget(void);

/* Give the core a frame; returns the length of its reply's frame, decoded to `reply` (seq, op, status, nonce, rest), or
 * 0 where there was none. A restart counts in fake.restarts. */
size_t fake_ask(uint8_t seq, uint8_t op, const void *body, size_t length, uint8_t *reply);

/* Give the core bytes as they are. */
void fake_receive(const void *bytes, size_t length);

/* The frame of a request as it is on the line; returns its length. */
size_t fake_frame(uint8_t seq, uint8_t op, const void *body, size_t length, uint8_t *line);

#endif
