/* Words and numbers of a text command. newlib's own would take 2 KiB. */
#ifndef HWNAS_WORDS_H
#define HWNAS_WORDS_H

#include <stdbool.h>
#include <stdint.h>

/* Cut the next word off `*text`, which is moved behind it; NULL where there is none. */
char *hwnas_next_word(char **text);

bool hwnas_same(const char *a, const char *b);

/* The decimal number that a text begins with, as C's atoi has it; at most 2^31 - 1. */
int32_t hwnas_number(const char *text);

#endif
