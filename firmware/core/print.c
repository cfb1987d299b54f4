#include "print.h"

#include <stdbool.h>

#include "port.h"

void hwnas_print(const char *text) {
    while (*text) hwnas_serial_write((uint8_t)*text++);
}

void hwnas_print_line(const char *text) {
    hwnas_print(text);
    hwnas_print("\r\n");
}

void hwnas_print_number(uint64_t value) {
    char digits[20];
    int n = 0;
    do {
        digits[n++] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    while (n) hwnas_serial_write((uint8_t)digits[--n]);
}

void hwnas_print_line_number(const char *before, uint64_t value, const char *after) {
    hwnas_print(before);
    hwnas_print_number(value);
    hwnas_print_line(after);
}

static char hex_digit(uint8_t value) { return (char)(value < 10 ? '0' + value : 'a' + value - 10); }

void hwnas_print_hex(uint8_t byte) {
    hwnas_serial_write((uint8_t)hex_digit(byte >> 4));
    hwnas_serial_write((uint8_t)hex_digit(byte & 15));
}

static void print_thousandths(bool negative, uint64_t value) {
    if (negative) hwnas_print("-");
    hwnas_print_number(value / 1000);
    hwnas_print(".");
    for (uint32_t rest = (uint32_t)(value % 1000), digit = 100; digit; digit /= 10)
        hwnas_serial_write((uint8_t)('0' + rest / digit % 10));
}

void hwnas_print_float(uint32_t bits) {
    int exponent = (int)(bits >> 23 & 0xFF) - 127 - 23; /* value = mantissa x 2^exponent */
    uint64_t mantissa = (bits & 0x7FFFFF) | (bits & 0x7F800000 ? 1u << 23 : 0);
    bool negative = bits >> 31;
    if (exponent > 40 - 24) {
        bool is_nan = (bits & 0x7FFFFFFF) > 0x7F800000;
        hwnas_print(is_nan ? "nan" : negative ? "-inf" : "inf");
        return;
    }
    mantissa *= 1000;
    if (exponent >= 0) {
        mantissa <<= exponent;
    } else if (exponent > -40) {
        uint64_t half = 1ull << (-exponent - 1), rest = mantissa & (2 * half - 1);
        mantissa >>= -exponent;
        mantissa += rest > half || (rest == half && mantissa & 1); /* nearest, a tie to even: as printf */
    } else {
        mantissa = 0;
    }
    print_thousandths(negative, mantissa);
}

void hwnas_print_whole(int64_t value) {
    print_thousandths(value < 0, 1000 * (value < 0 ? -(uint64_t)value : (uint64_t)value));
}
