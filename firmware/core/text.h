/* The text dialect: that of MLPerf Tiny (mlcommons/tiny, benchmark/api), for network 0 of the image. */
#ifndef HWNAS_TEXT_H
#define HWNAS_TEXT_H

#include <stdbool.h>

/* What a device says when it starts. */
void hwnas_text_greet(void);

/* Take a byte of a line; true if it ended a command, which is answered then. */
bool hwnas_text_take(char byte);

/* Forget a line that was begun. */
void hwnas_text_clear(void);

#endif
