/* The firmware once the port has started the board. */
#ifndef HWNAS_MAIN_H
#define HWNAS_MAIN_H

#include <stdbool.h>

/* Say that the board started. */
void hwnas_greet(void);

/* Answer what has come in, then sleep until an interrupt. */
void hwnas_serve(void);

#endif
