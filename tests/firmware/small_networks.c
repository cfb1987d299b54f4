/* Networks written by hand, whose results and demands are known. */
#include <string.h>

#include "hwnas_network.h"

/* y = 3x + 1 over ten bytes, and the sum of y. */
static int32_t scale(uint8_t *arena, uint8_t *workspace) {
    int32_t t[10], y[10];
    for (int i = 0; i < 10; i++) t[i] = 3 * (int8_t)arena[i];
    memcpy(workspace, t, sizeof t);
    for (int i = 0; i < 10; i++) y[i] = t[i] + 1;
    memcpy(arena + 64, y, sizeof y);
    return 0;
}

static int32_t sum(uint8_t *arena, uint8_t *workspace) {
    int32_t y[10], s = 0;
    (void)workspace;
    memcpy(y, arena + 64, sizeof y);
    for (int i = 0; i < 10; i++) s += y[i];
    memcpy(arena + 112, &s, sizeof s);
    return 0;
}

static const hwnas_tensor bytes_in[] = {{"x", HWNAS_I8, 2, {1, 10}, 0, 10}};
static const hwnas_tensor bytes_out[] = {{"y", HWNAS_I32, 2, {1, 10}, 64, 40}, {"s", HWNAS_I32, 1, {1}, 112, 4}};
static const hwnas_kernel bytes_kernels[] = {{"scale", scale}, {"sum", sum}};
const hwnas_network net_bytes = {"bytes", 128, 40, 1, 2, 2, bytes_in, bytes_out, bytes_kernels};

/* y = x / 4 in floats. */
static int32_t quarter(uint8_t *arena, uint8_t *workspace) {
    float x[8];
    (void)workspace;
    memcpy(x, arena, sizeof x);
    for (int i = 0; i < 8; i++) x[i] *= 0.25f;
    memcpy(arena + 32, x, sizeof x);
    return 0;
}

static const hwnas_tensor floats_in[] = {{"x", HWNAS_F32, 2, {1, 8}, 0, 32}};
static const hwnas_tensor floats_out[] = {{"y", HWNAS_F32, 2, {1, 8}, 32, 32}};
static const hwnas_kernel floats_kernels[] = {{"quarter", quarter}};
const hwnas_network net_floats = {"floats", 64, 0, 1, 1, 1, floats_in, floats_out, floats_kernels};

/* Takes as many steps as its input says. */
static int32_t spin(uint8_t *arena, uint8_t *workspace) {
    uint32_t n;
    (void)workspace;
    memcpy(&n, arena, sizeof n);
    for (uint32_t i = 0; i < n; i++) __asm volatile("nop");
    return 0;
}

static const hwnas_tensor count_in[] = {{"n", HWNAS_I32, 1, {1}, 0, 4}};
static const hwnas_kernel spin_kernels[] = {{"spin", spin}};
const hwnas_network net_spin = {"spin", 16, 0, 1, 1, 1, count_in, count_in, spin_kernels};

/* Uses as much stack as its input says, in steps of some 100 bytes. */
__attribute__((noinline)) static uint32_t descend(uint32_t depth) {
    volatile uint8_t frame[96];
    frame[depth % sizeof frame] = (uint8_t)depth;
    return depth ? descend(depth - 1) + frame[depth % sizeof frame] : frame[0];
}

static int32_t deep(uint8_t *arena, uint8_t *workspace) {
    uint32_t depth;
    (void)workspace;
    memcpy(&depth, arena, sizeof depth);
    depth = descend(depth);
    memcpy(arena, &depth, sizeof depth);
    return 0;
}

static const hwnas_kernel deep_kernels[] = {{"deep", deep}};
const hwnas_network net_deep = {"deep", 16, 0, 1, 1, 1, count_in, count_in, deep_kernels};

/* Calls what is no Thumb function. */
static int32_t wild(uint8_t *arena, uint8_t *workspace) {
    void (*volatile function)(void) = (void (*)(void))(uintptr_t)0x1000;
    (void)arena;
    (void)workspace;
    function();
    return 1;
}

static const hwnas_kernel wild_kernels[] = {{"wild", wild}};
const hwnas_network net_wild = {"wild", 16, 0, 1, 1, 1, count_in, count_in, wild_kernels};

/* Reports an error. */
static int32_t fail(uint8_t *arena, uint8_t *workspace) {
    (void)arena;
    (void)workspace;
    return -7;
}

static const hwnas_kernel fail_kernels[] = {{"fail", fail}};
const hwnas_network net_fail = {"fail", 16, 0, 1, 1, 1, count_in, count_in, fail_kernels};
