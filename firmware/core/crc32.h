/* The CRC-32 of zlib, PNG and Ethernet. */
#ifndef HWNAS_CRC32_H
#define HWNAS_CRC32_H

#include <stdint.h>

/* The checksum of `length` bytes, going on from the checksum `crc` of those before them (0: none). */
uint32_t hwnas_crc32(uint32_t crc, const void *from, uint32_t length);

#endif
