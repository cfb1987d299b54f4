#include "words.h"

#include <stddef.h>

char *hwnas_next_word(char **text) {
    char *begin = *text;
    while (*begin == ' ') begin++;
    if (!*begin) return NULL;
    char *end = begin;
    while (*end && *end != ' ') end++;
    *text = *end ? end + 1 : end;
    *end = 0;
    return begin;
}

bool hwnas_same(const char *a, const char *b) {
    while (*a && *a == *b) a++, b++;
    return *a == *b;
}

int32_t hwnas_number(const char *text) {
    bool negative = *text == '-';
    uint32_t value = 0;
    if (*text == '-' || *text == '+') text++;
    for (; *text >= '0' && *text <= '9'; text++) {
        uint32_t digit = (uint32_t)(*text - '0');
        value = value > (INT32_MAX - digit) / 10 ? INT32_MAX : value * 10 + digit;
    }
    return negative ? -(int32_t)value : (int32_t)value;
}
