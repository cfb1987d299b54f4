/* The fixed input pattern: the same bytes on every board and in Python, so that a run needs no upload. */
#ifndef HWNAS_PATTERN_H
#define HWNAS_PATTERN_H

#include "hwnas_network.h"

/* Fill every input of the network in its arena. */
void hwnas_fill(const hwnas_network *network, uint8_t *arena);

#endif
