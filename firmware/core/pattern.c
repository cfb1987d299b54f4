#include "pattern.h"

#include <string.h>

enum { SEED = 0x2545F491 };

/* George Marsaglia, "Xorshift RNGs", Journal of Statistical Software 8(14), 2003. */
static uint32_t step(uint32_t x) {
    x ^= x << 13;
    x ^= x >> 17;
    return x ^ x << 5;
}

static uint32_t as_float(uint32_t word) {
    float value = (float)(word >> 8) * 0x1p-23f - 1.0f; /* exact: 24 bits in [-1, 1) */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

void hwnas_fill(const hwnas_network *network, uint8_t *arena) {
    uint32_t word = SEED;
    for (uint16_t i = 0; i < network->inputs; i++) {
        const hwnas_tensor *input = &network->input[i];
        for (uint32_t at = 0; at < input->bytes; at += 4) { /* every input begins with a new word */
            word = step(word);
            uint32_t bits = input->dtype == HWNAS_F32 ? as_float(word) : word;
            uint32_t left = input->bytes - at;
            memcpy(arena + input->offset + at, &bits, left < 4 ? left : 4);
        }
    }
}
