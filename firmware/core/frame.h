/* Binary frames: COBS around (seq, op, body, CRC-32), taken apart byte by byte and put together. */
#ifndef HWNAS_FRAME_H
#define HWNAS_FRAME_H

#include <stdbool.h>
#include <stdint.h>

enum {
    HWNAS_BODY_BYTES = 240,
    HWNAS_HEAD_BYTES = 2, /* seq, op */
    HWNAS_CRC_BYTES = 4,
    HWNAS_FRAME_BYTES = HWNAS_HEAD_BYTES + HWNAS_BODY_BYTES + HWNAS_CRC_BYTES,
};

/* A frame as it comes in. `bytes` holds seq, op, body and CRC once hwnas_frame_take said so. */
typedef struct {
    uint8_t bytes[HWNAS_FRAME_BYTES];
    uint16_t length;
    uint8_t left; /* bytes until the next run byte */
    bool begun;   /* a run byte was seen since the last zero */
    bool broken;  /* too long: nothing counts until the next zero */
} hwnas_frame;

/* Forget what came in. */
void hwnas_frame_clear(hwnas_frame *frame);

/* Take the next byte. True if it ended a frame that is whole: then seq is bytes[0], op bytes[1], and the body lies
 * between them and the last four bytes of `length`. The next byte begins anew. */
bool hwnas_frame_take(hwnas_frame *frame, uint8_t byte);

/* Append the CRC to the `length` bytes of seq, op and body, for which there has to be room; returns the new length. */
uint16_t hwnas_frame_seal(uint8_t *bytes, uint16_t length);

/* Hand a sealed frame of at most HWNAS_FRAME_BYTES to `put` in its form on the line, zeros at both ends. */
void hwnas_frame_write(const uint8_t *bytes, uint16_t length, void (*put)(uint8_t byte));

#endif
