/*
 * SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-or-later
 *
 * A QEMU TCG plugin that counts the instructions of an AArch64 program under qemu-user: all of them, those that access
 * memory, and those of the SIMD and floating-point unit. QEMU is licensed under the GPL; this file, which is compiled
 * against its plugin interface and loaded into it, is therefore offered under the GPL as well.
 *
 * The program switches the plugin on by getpriority(0, fd, COUNT_ON). From then on, and until COUNT_OFF, every
 * clock_gettime writes one record (three uint64, native byte order) to the file descriptor `fd`, which under qemu-user
 * is the program's own: whoever times a piece of code by reading the clock before and after it also counts it.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

/* What is used here of QEMU's plugin interface (docs/devel/tcg-plugins.rst), in the form of QEMU 4.2 to 8.2. */
typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
typedef void (*translated_fn)(qemu_plugin_id_t id, struct qemu_plugin_tb *block);
typedef void (*syscall_fn)(qemu_plugin_id_t id, unsigned int vcpu, int64_t number, uint64_t a1, uint64_t a2,
                           uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, translated_fn call);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t id, syscall_fn call);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *block, enum qemu_plugin_op op, void *counter,
                                              uint64_t addend);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *instruction);

#define EXPORTED __attribute__((visibility("default")))

enum { CLOCK_GETTIME = 113, GETPRIORITY = 141 }; /* system calls of AArch64 Linux */
enum { COUNT_ON = 0x68774E31, COUNT_OFF = 0x68774E30 };
enum { ALL, MEMORY, SIMD, CLASSES };

static uint64_t counts[CLASSES];
static int sink = -1;

/* Bits 25 to 28 name an instruction's group (Arm ARM, C4.1): x1x0 loads and stores, x111 SIMD and floating point. */
static void classify(uint32_t word, uint64_t *of)
{
    uint32_t group = (word >> 25) & 0xF;

    of[ALL]++;
    of[MEMORY] += (group & 0x5) == 0x4;
    of[SIMD] += (group & 0x7) == 0x7;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    uint64_t of[CLASSES] = {0};

    (void)id;
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
        uint32_t word;

        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof(word));
        classify(word, of);
    }
    for (int i = 0; i < CLASSES; i++) {
        if (of[i] != 0) {
            qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &counts[i], of[i]);
        }
    }
}

static void called(qemu_plugin_id_t id, unsigned int vcpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                   uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    (void)id, (void)vcpu, (void)a1, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number == GETPRIORITY && a3 == COUNT_ON) {
        sink = (int)a2;
    } else if (number == GETPRIORITY && a3 == COUNT_OFF) {
        sink = -1;
    } else if (number == CLOCK_GETTIME && sink >= 0 && write(sink, counts, sizeof(counts)) != (ssize_t)sizeof(counts)) {
        sink = -1; /* the reader finds fewer records than it expects, and says so */
    }
}

EXPORTED int qemu_plugin_version = 1;

EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    (void)info, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
