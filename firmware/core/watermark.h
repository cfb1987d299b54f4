/* How much of a memory was used: paint it, let the work run, and see how far the paint is gone. */
#ifndef HWNAS_WATERMARK_H
#define HWNAS_WATERMARK_H

#include <stdint.h>

void hwnas_paint(uint8_t *from, uint32_t bytes);

/* Bytes from the begin up to the last that lost its paint. */
uint32_t hwnas_used_upwards(const uint8_t *from, uint32_t bytes);

/* Bytes from the end down to the first that lost its paint. */
uint32_t hwnas_used_downwards(const uint8_t *from, uint32_t bytes);

#endif
