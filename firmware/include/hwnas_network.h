/* A compiled network: what hwnas generates and what the firmware, or your own program, runs.
 *
 * All activations live in one arena; a tensor is at arena + offset. Kernels run in order. */
#ifndef HWNAS_NETWORK_H
#define HWNAS_NETWORK_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum hwnas_dtype { HWNAS_F32 = 0, HWNAS_I8 = 1, HWNAS_U8 = 2, HWNAS_I32 = 3, HWNAS_I64 = 4 };

typedef struct {
    const char *name;
    uint8_t dtype; /* enum hwnas_dtype */
    uint8_t rank;
    int32_t shape[6];
    uint32_t offset; /* in the arena */
    uint32_t bytes;
} hwnas_tensor;

typedef struct {
    const char *name;                                  /* the operators it fuses */
    int32_t (*run)(uint8_t *arena, uint8_t *workspace); /* 0, or an error */
} hwnas_kernel;

typedef struct {
    const char *name;
    uint32_t arena_bytes;     /* aligned to 16 by the caller */
    uint32_t workspace_bytes; /* the most that one kernel needs; aligned to 16 by the caller */
    uint16_t inputs, outputs, kernels;
    const hwnas_tensor *input, *output;
    const hwnas_kernel *kernel;
} hwnas_network;

/* Run every kernel in order. Returns 0, or the first kernel's error. Inputs in the arena are used up. */
static inline int32_t hwnas_run(const hwnas_network *network, uint8_t *arena, uint8_t *workspace) {
    for (uint16_t i = 0; i < network->kernels; i++) {
        int32_t error = network->kernel[i].run(arena, workspace);
        if (error) return error;
    }
    return 0;
}

#ifdef __cplusplus
}
#endif
#endif
