#include "faults.h"

#include "bytes.h"
#include "chip.h"
#include "link.h"
#include "port.h"
#include "registers.h"
#include "restart.h"

enum { HARD_FAULT = 1, STACK = 2, WATCHDOG = 3, PUSHED_BYTES = 32, LR_AT = 5, PC_AT = 6 };

/* Nothing returns from here. Where little or nothing of the stack is left, it begins anew: the handler has to run, and
 * what the core pushed (r0-r3, r12, lr, pc, psr) is far below, or lost. */
#define BEGIN(function)                \
    "mov r0, sp\n\t"                   \
    "ldr r1, =hwnas_stack_begin\n\t"   \
    "add r1, #512\n\t"                 \
    "cmp r0, r1\n\t"                   \
    "itt lo\n\t"                       \
    "ldrlo r1, =hwnas_stack_end\n\t"   \
    "movlo sp, r1\n\t"                 \
    "ldr r1, =" #function "\n\t"       \
    "bx r1\n\t"                        \
    ".ltorg"

static _Noreturn void report(const uint32_t *pushed, uint8_t kind, uint8_t cause) {
    const uint8_t *at = (const uint8_t *)pushed;
    uint32_t cfsr = SCB_CFSR;
    bool readable = at >= hwnas_stack_bottom() && at + PUSHED_BYTES <= hwnas_stack_top();
    if (kind == HARD_FAULT && (!readable || cfsr & (CFSR_STKERR | CFSR_STKOF))) kind = STACK;
    uint8_t bytes[HWNAS_HEAD_BYTES + 21 + HWNAS_CRC_BYTES];
    hwnas_body body = {.bytes = bytes, .room = sizeof bytes};
    hwnas_put_u8(&body, 0);
    hwnas_put_u8(&body, HWNAS_OP_FAULT);
    hwnas_put_u8(&body, kind);
    hwnas_put_u32(&body, readable ? pushed[PC_AT] : 0);
    hwnas_put_u32(&body, readable ? pushed[LR_AT] : 0);
    hwnas_put_u32(&body, cfsr);
    hwnas_put_u32(&body, SCB_HFSR);
    hwnas_put_u32(&body, SCB_BFAR);
    hwnas_chip_put(0); /* ends what was being sent */
    hwnas_frame_write(bytes, hwnas_frame_seal(bytes, body.length), hwnas_chip_put);
    hwnas_restart_because(cause);
}

__attribute__((used)) static void report_fault(const uint32_t *pushed) { report(pushed, HARD_FAULT, HWNAS_FAULT); }
__attribute__((used)) static void report_watchdog(const uint32_t *pushed) { report(pushed, WATCHDOG, HWNAS_WATCHDOG); }

__attribute__((naked)) void hwnas_fault_exception(void) { __asm volatile(BEGIN(report_fault)); }
__attribute__((naked)) void hwnas_watchdog_exception(void) { __asm volatile(BEGIN(report_watchdog)); }

#ifdef HWNAS_FAULTS
void hwnas_provoke_hard_fault(void) { __asm volatile("udf #0"); }
void hwnas_mask_interrupts(void) { hwnas_mask(); }
#endif
