/* Text for the serial line without printf, which would be larger than the rest of the firmware. */
#ifndef HWNAS_PRINT_H
#define HWNAS_PRINT_H

#include <stdint.h>

void hwnas_print(const char *text);
void hwnas_print_line(const char *text);
void hwnas_print_number(uint64_t value);
void hwnas_print_line_number(const char *before, uint64_t value, const char *after);
void hwnas_print_hex(uint8_t byte);

/* An IEEE 754 single by its bits, as printf's %.3f has it; beyond 2^40 as inf. */
void hwnas_print_float(uint32_t bits);

/* A whole number with three decimals. */
void hwnas_print_whole(int64_t value);

#endif
