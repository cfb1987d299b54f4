#include "watermark.h"

/* Varies with the address, so that a constant that is written there does not look like paint. */
static inline uint8_t paint(uint32_t at) { return (uint8_t)(0xA5 ^ at * 0x9D); }

void hwnas_paint(uint8_t *from, uint32_t bytes) {
    for (uint32_t i = 0; i < bytes; i++) from[i] = paint(i);
}

uint32_t hwnas_used_upwards(const uint8_t *from, uint32_t bytes) {
    while (bytes && from[bytes - 1] == paint(bytes - 1)) bytes--;
    return bytes;
}

uint32_t hwnas_used_downwards(const uint8_t *from, uint32_t bytes) {
    uint32_t free = 0;
    while (free < bytes && from[free] == paint(free)) free++;
    return bytes - free;
}
