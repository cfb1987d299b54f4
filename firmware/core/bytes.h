/* Little-endian numbers in bytes, and a reply body that knows its bounds. */
#ifndef HWNAS_BYTES_H
#define HWNAS_BYTES_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t hwnas_u16(const uint8_t *at) { return (uint16_t)(at[0] | at[1] << 8); }

static inline uint32_t hwnas_u32(const uint8_t *at) { return hwnas_u16(at) | (uint32_t)hwnas_u16(at + 2) << 16; }

/* Bytes that grow up to `room`; what does not fit is not written, and `full` says so. */
typedef struct {
    uint8_t *bytes;
    uint16_t length, room;
    bool full;
} hwnas_body;

static inline void hwnas_put(hwnas_body *body, const void *from, uint32_t length) {
    if (length > (uint32_t)(body->room - body->length)) {
        body->full = true;
        return;
    }
    if (length) memcpy(body->bytes + body->length, from, length);
    body->length = (uint16_t)(body->length + length);
}

static inline void hwnas_put_number(hwnas_body *body, uint64_t value, uint8_t length) {
    uint8_t bytes[8];
    for (uint8_t i = 0; i < length; i++) bytes[i] = (uint8_t)(value >> (8 * i));
    hwnas_put(body, bytes, length);
}

static inline void hwnas_put_u8(hwnas_body *body, uint8_t value) { hwnas_put_number(body, value, 1); }
static inline void hwnas_put_u16(hwnas_body *body, uint16_t value) { hwnas_put_number(body, value, 2); }
static inline void hwnas_put_u32(hwnas_body *body, uint32_t value) { hwnas_put_number(body, value, 4); }
static inline void hwnas_put_u64(hwnas_body *body, uint64_t value) { hwnas_put_number(body, value, 8); }
static inline void hwnas_put_text(hwnas_body *body, const char *text) { hwnas_put(body, text, (uint32_t)strlen(text)); }

#endif
