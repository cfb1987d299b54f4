/* An image of four small networks: one in floats with two inputs, one in bytes, one whose kernel fails, and one that
 * this image's arena cannot hold. */
#include "image.h"

#include <string.h>

uint8_t hwnas_arena[256] __attribute__((aligned(16)));
uint8_t hwnas_workspace[64] __attribute__((aligned(16)));
const uint32_t hwnas_arena_bytes = sizeof hwnas_arena, hwnas_workspace_bytes = sizeof hwnas_workspace;
const uint8_t hwnas_image_id[10] = {0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7, 0xA8, 0xA9};
uint32_t hwnas_kernel_ticks[2];
const uint16_t hwnas_kernel_room = 2;

/* Floats: y = 2a + b; its output takes the place of the first input. */
static int32_t twice(uint8_t *arena, uint8_t *workspace) {
    float a[4];
    memcpy(a, arena, sizeof a);
    for (int i = 0; i < 4; i++) a[i] *= 2;
    memcpy(workspace, a, sizeof a);
    workspace[20] = 1; /* 21 bytes are used */
    return 0;
}

static int32_t add(uint8_t *arena, uint8_t *workspace) {
    float a[4], b[4];
    memcpy(a, workspace, sizeof a);
    memcpy(b, arena + 16, sizeof b);
    for (int i = 0; i < 4; i++) a[i] += b[i];
    memcpy(arena, a, sizeof a);
    return 0;
}

/* Bytes: y = -x, 100 of them, in three kernels, which is one more than there is room for times. */
static int32_t negate(uint8_t *arena, uint8_t *workspace) {
    (void)workspace;
    for (int i = 0; i < 100; i++) arena[128 + i] = (uint8_t)-arena[i];
    return 0;
}

static int32_t keep(uint8_t *arena, uint8_t *workspace) {
    (void)arena;
    (void)workspace;
    return 0;
}

static int32_t fail(uint8_t *arena, uint8_t *workspace) {
    (void)arena;
    (void)workspace;
    return -7;
}

static const hwnas_tensor float_in[] = {{"a", HWNAS_F32, 2, {1, 4}, 0, 16}, {"b", HWNAS_F32, 2, {1, 4}, 16, 16}};
static const hwnas_tensor float_out[] = {{"y", HWNAS_F32, 2, {1, 4}, 0, 16}};
static const hwnas_kernel float_kernels[] = {{"twice", twice}, {"add", add}};
static const hwnas_network floats = {"floats", 32, 21, 2, 1, 2, float_in, float_out, float_kernels};

static const hwnas_tensor byte_in[] = {{"x", HWNAS_I8, 4, {1, 1, 10, 10}, 0, 100}};
static const hwnas_tensor byte_out[] = {{"y", HWNAS_I8, 4, {1, 1, 10, 10}, 128, 100}};
static const hwnas_kernel byte_kernels[] = {{"negate", negate}, {"keep", keep}, {"keep again", keep}};
static const hwnas_network bytes = {"bytes", 228, 0, 1, 1, 3, byte_in, byte_out, byte_kernels};

static const hwnas_kernel failing_kernels[] = {{"fail", fail}};
static const hwnas_network failing = {"failing", 228, 0, 1, 1, 1, byte_in, byte_out, failing_kernels};

static const hwnas_network large = {"large", 257, 0, 1, 1, 1, byte_in, byte_out, failing_kernels};

const hwnas_network *const hwnas_networks[] = {&floats, &bytes, &failing, &large};
const uint16_t hwnas_network_count = 4;
