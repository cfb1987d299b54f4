/* From reset to the loop that answers requests. */
#include "startup.h"

#include <string.h>

#include "chip.h"
#include "main.h"
#include "port.h"
#include "registers.h"
#include "restart.h"
#include "watermark.h"

/* Of the linker script. */
extern uint8_t hwnas_stack_begin[], hwnas_data_begin[], hwnas_data_end[], hwnas_bss_begin[], hwnas_bss_end[],
    hwnas_used_end[], hwnas_ram_end[];
extern const uint8_t hwnas_data_source[];

hwnas_boot hwnas_this_boot;

uint8_t *hwnas_stack_bottom(void) { return hwnas_stack_begin; }
uint8_t *hwnas_stack_top(void) { return hwnas_stack_end; }
uint8_t *hwnas_spare_memory(void) { return hwnas_used_end; }
uint32_t hwnas_spare_bytes(void) { return (uint32_t)(hwnas_ram_end - hwnas_used_end); }

void hwnas_stack_paint(void) {
    uint8_t *here;
    __asm volatile("mov %0, sp" : "=r"(here));
    enum { OWN = 64 }; /* what hwnas_paint itself may push */
    if (here - OWN > hwnas_stack_begin) hwnas_paint(hwnas_stack_begin, (uint32_t)(here - OWN - hwnas_stack_begin));
}

void hwnas_idle(void) {
    uint32_t before = hwnas_mask(); /* a byte that comes now is pending and ends the sleep */
    if (!hwnas_serial_waits()) __asm volatile("dsb\n\twfi" ::: "memory");
    hwnas_unmask(before);
}

static void start_core(void) {
    SCB_VTOR = (uint32_t)(uintptr_t)hwnas_vectors;
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    SCB_CPACR |= CPACR_FPU; /* and MVE, where there is any */
    FPU_FPCCR |= FPCCR_ASPEN_LSPEN; /* interrupts keep vectors and predicates: so it is from reset, but not for sure */
#endif
#if __ARM_ARCH >= 8
    __asm volatile("msr msplim, %0" ::"r"(hwnas_stack_begin));
#endif
#if __ARM_ARCH_8_1M_MAIN__
    SCB_CCR |= CCR_LOOP_BUFFER;
#endif
    __asm volatile("dsb\n\tisb" ::: "memory");
}

__attribute__((used)) static _Noreturn void start(void) {
    start_core();
    memcpy(hwnas_data_begin, hwnas_data_source, (size_t)(hwnas_data_end - hwnas_data_begin));
    memset(hwnas_bss_begin, 0, (size_t)(hwnas_bss_end - hwnas_bss_begin));
    hwnas_chip_start();
    hwnas_this_boot.port = hwnas_chip_name;
    hwnas_this_boot.cause = hwnas_boot_cause();
    hwnas_chip_board_id(hwnas_this_boot.board_id);
    hwnas_this_boot.nonce = hwnas_draw_nonce(hwnas_this_boot.board_id);
    hwnas_this_boot.counter = hwnas_counter_start();
    hwnas_this_boot.counter_hz = HWNAS_CLOCK_HZ;
    hwnas_chip_watchdog_start();
    __asm volatile("cpsie i" ::: "memory");
    hwnas_greet();
#ifdef HWNAS_FAULTS
    if (hwnas_brownouts) {
        hwnas_brownouts--;
        hwnas_serial_flush();
        hwnas_restart();
    }
#endif
    for (;;) hwnas_serve();
}

/* Interrupts stay off until everything is there. Naked: nothing is pushed before the FPU is on. */
__attribute__((naked, noreturn)) void hwnas_reset_exception(void) {
    __asm volatile("cpsid i\n\t"
                   "ldr r0, =hwnas_stack_end\n\t" /* a debugger or a boot loader may have left another stack */
                   "mov sp, r0\n\t"
                   "ldr r0, =start\n\t"
                   "bx r0\n\t"
                   ".ltorg");
}
