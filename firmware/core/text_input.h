/* The `db` buffer of the text dialect: the bytes of all inputs of network 0, in order.
 *
 * It lies in RAM that nothing else uses; where they do not fit there once more, it is the inputs themselves, and then a
 * run uses them up. */
#ifndef HWNAS_TEXT_INPUT_H
#define HWNAS_TEXT_INPUT_H

#include <stdbool.h>

/* The command `db` with the words behind it. */
void hwnas_db(char *words);

/* True if what was loaded serves for one run only. */
bool hwnas_db_serves_once(void);

/* Put what was loaded into the inputs, before each run; what was not loaded is zero, as in a fresh buffer. False if it
 * was used up by a run. */
bool hwnas_db_apply(void);

#endif
