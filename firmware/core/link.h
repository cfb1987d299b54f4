/* The one serial line and its two dialects: the first byte decides which, and frames go out here. */
#ifndef HWNAS_LINK_H
#define HWNAS_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "frame.h"

enum { HWNAS_OP_BOOT = 0x40, HWNAS_OP_ALIVE = 0x41, HWNAS_OP_FAULT = 0x42 };

/* Take a byte from the line, and answer the request or the command that it ends, if it ends one. */
void hwnas_link_take(uint8_t byte);

/* True while a frame that began has not ended, so that text would go unheard. */
bool hwnas_link_awaits_frame(void);

/* Drop that frame: its end was lost. */
void hwnas_link_drop(void);

/* Send an event of at most 32 bytes. */
void hwnas_link_event(uint8_t op, const void *body, uint8_t length);

#endif
