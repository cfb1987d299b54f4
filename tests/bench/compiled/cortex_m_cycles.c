/*
 * SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-or-later
 *
 * A QEMU TCG plugin that weighs the Thumb instructions of a Cortex-M. Each time the function at address `mark` is
 * entered, one line with what was executed since the last time goes to the file `out`: instructions, weighted cycles,
 * loads, stores, branches. QEMU is licensed under the GPL; this file is compiled against its plugin interface and
 * loaded into it, and is therefore offered under the GPL as well.
 *
 * Weights: a load 2, or 1 right behind another single load or store of its block; a load of several words one more
 * than words; a store its words; a taken or untaken branch 2 more; an MVE beat pair 2 and an MVE load or store 2;
 * everything else 1. They are a model of a short pipeline and no silicon's.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is used here of QEMU's plugin interface (docs/devel/tcg-plugins.rst), in the form of QEMU 4.2 to 8.2. */
typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
typedef void (*translated_fn)(qemu_plugin_id_t id, struct qemu_plugin_tb *block);
typedef void (*executed_fn)(unsigned int vcpu, void *data);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, translated_fn call);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, executed_fn call,
                                          enum qemu_plugin_cb_flags flags, void *data);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *block, enum qemu_plugin_op op, void *counter,
                                              uint64_t addend);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *instruction);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *instruction);

#define EXPORTED __attribute__((visibility("default")))

enum { INSTRUCTIONS, CYCLES, LOADS, STORES, BRANCHES, CLASSES };

static uint64_t counts[CLASSES], before[CLASSES], mark;
static FILE *sink;

/* Words that an instruction loads and stores, and whether it branches. */
typedef struct {
    int loaded, stored, branches, vector;
} effect;

static effect of_narrow(uint32_t first) {
    effect found = {0};
    uint32_t group = first >> 12;
    int listed = __builtin_popcount(first & 0xFF);

    if (group == 5) {
        *(((first >> 9) & 7) >= 3 ? &found.loaded : &found.stored) = 1;
    } else if (group >= 6 && group <= 9) {
        *(first & 0x800 ? &found.loaded : &found.stored) = 1;
    } else if (first >> 11 == 9) {
        found.loaded = 1;
    } else if ((first & 0xFE00) == 0xB400) {
        found.stored = listed + ((first >> 8) & 1);
    } else if ((first & 0xFE00) == 0xBC00) {
        found.loaded = listed + ((first >> 8) & 1);
        found.branches = (first >> 8) & 1;
    } else if (group == 0xC) {
        *(first & 0x800 ? &found.loaded : &found.stored) = listed;
    } else if (group == 0xD || first >> 11 == 0x1C || (first & 0xFF00) == 0x4700 || (first & 0xF500) == 0xB100) {
        found.branches = 1;
    }
    return found;
}

static effect of_wide(uint32_t first, uint32_t second) {
    effect found = {0};
    uint32_t group = (first >> 11) & 3, kind = (first >> 4) & 0x7F;

    if ((first & 0xEE00) == 0xEC00 && (second & 0x1E00) == 0x1E00 && (second & 0x100)) { /* VLDR, VSTR of MVE */
        *(first & 0x10 ? &found.loaded : &found.stored) = 2;
        found.vector = 1;
    } else if (group == 1 && (kind & 0x64) == 0) {
        *(first & 0x10 ? &found.loaded : &found.stored) = __builtin_popcount(second);
        found.branches = (first & 0x10) && second >> 15;
    } else if (group == 1 && (kind & 0x64) == 4) {
        *(first & 0x10 ? &found.loaded : &found.stored) = 2;
    } else if (group == 3 && (kind & 0x71) == 0) {
        found.stored = 1;
    } else if (group == 3 && ((kind & 0x67) == 1 || (kind & 0x67) == 3 || (kind & 0x67) == 5)) {
        found.loaded = 1;
    } else if (group == 2 && (second & 0x8000)) {
        found.branches = 1;
    } else if ((first & 0xFF30) == 0xED10) {
        found.loaded = 1;
    } else if ((first & 0xFF30) == 0xED00) {
        found.stored = 1;
    } else if ((first & 0xEF00) == 0xEF00 || (first & 0xEF80) == 0xEE00) { /* vector arithmetic */
        found.vector = 1;
    }
    return found;
}

static void entered(unsigned int vcpu, void *data) {
    (void)vcpu, (void)data;
    for (int i = 0; i < CLASSES; i++) {
        fprintf(sink, "%" PRIu64 "%c", counts[i] - before[i], i + 1 < CLASSES ? ' ' : '\n');
        before[i] = counts[i];
    }
    fflush(sink);
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
    uint64_t of[CLASSES] = {0};
    int behind_access = 0;

    (void)id;
    if (qemu_plugin_tb_vaddr(block) == mark)
        qemu_plugin_register_vcpu_tb_exec_cb(block, entered, QEMU_PLUGIN_CB_NO_REGS, NULL);
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
        const struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, i);
        uint16_t halves[2] = {0};
        memcpy(halves, qemu_plugin_insn_data(instruction), qemu_plugin_insn_size(instruction));
        effect found = qemu_plugin_insn_size(instruction) == 4 ? of_wide(halves[0], halves[1]) : of_narrow(halves[0]);
        int cycles = 1;
        if (found.vector)
            cycles = 2;
        else if (found.loaded)
            cycles = found.loaded + !behind_access;
        else if (found.stored)
            cycles = found.stored;
        of[INSTRUCTIONS]++;
        of[CYCLES] += (uint64_t)(cycles + 2 * found.branches);
        of[LOADS] += (uint64_t)found.loaded;
        of[STORES] += (uint64_t)found.stored;
        of[BRANCHES] += (uint64_t)found.branches;
        behind_access = found.loaded + found.stored == 1;
    }
    for (int i = 0; i < CLASSES; i++)
        if (of[i]) qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &counts[i], of[i]);
}

EXPORTED int qemu_plugin_version = 1;

EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "mark=", 5)) mark = strtoull(argv[i] + 5, NULL, 16);
        if (!strncmp(argv[i], "out=", 4)) sink = fopen(argv[i] + 4, "w");
    }
    if (!sink) return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
