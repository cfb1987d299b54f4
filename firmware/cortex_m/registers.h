/* The registers of the Cortex-M system control space that the firmware uses. Sources: Armv7-M Architecture Reference
 * Manual (DDI 0403E), B3.2 and C1.8; Armv8-M (DDI 0553B), D1. */
#ifndef HWNAS_REGISTERS_H
#define HWNAS_REGISTERS_H

#include <stdbool.h>
#include <stdint.h>

#define HWNAS_REG(address) (*(volatile uint32_t *)(uintptr_t)(address))

#define SYST_CSR HWNAS_REG(0xE000E010)
#define SYST_RVR HWNAS_REG(0xE000E014)
#define SYST_CVR HWNAS_REG(0xE000E018)
#define NVIC_ISER(n) HWNAS_REG(0xE000E100 + 4 * (n))
#define SCB_ICSR HWNAS_REG(0xE000ED04)
#define SCB_VTOR HWNAS_REG(0xE000ED08)
#define SCB_AIRCR HWNAS_REG(0xE000ED0C)
#define SCB_CCR HWNAS_REG(0xE000ED14)
#define SCB_CFSR HWNAS_REG(0xE000ED28)
#define SCB_HFSR HWNAS_REG(0xE000ED2C)
#define SCB_BFAR HWNAS_REG(0xE000ED38)
#define SCB_CPACR HWNAS_REG(0xE000ED88)
#define FPU_FPCCR HWNAS_REG(0xE000EF34)
#define DCB_DEMCR HWNAS_REG(0xE000EDFC)
#define DWT_CTRL HWNAS_REG(0xE0001000)
#define DWT_CYCCNT HWNAS_REG(0xE0001004)
#define DWT_LAR HWNAS_REG(0xE0001FB0)

enum {
    SYST_ENABLE = 1 << 0,
    SYST_INTERRUPT = 1 << 1,
    SYST_CORE_CLOCK = 1 << 2,
    ICSR_PENDSTSET = 1 << 26,
    ICSR_PENDSTCLR = 1 << 25,
    CCR_LOOP_BUFFER = 1 << 19,
    CFSR_STKERR = 1 << 12,
    CFSR_STKOF = 1 << 20,
    CPACR_FPU = 0xF << 20,
    DEMCR_TRCENA = 1 << 24,
    DWT_CYCCNTENA = 1 << 0,
};

#define AIRCR_SYSRESETREQ 0x05FA0004u
#define FPCCR_ASPEN_LSPEN 0xC0000000u

/* Keep interrupts away; returns what hwnas_unmask wants. */
static inline uint32_t hwnas_mask(void) {
    uint32_t before;
    __asm volatile("mrs %0, primask\n\tcpsid i" : "=r"(before)::"memory");
    return before;
}

static inline void hwnas_unmask(uint32_t before) { __asm volatile("msr primask, %0" ::"r"(before) : "memory"); }

static inline void hwnas_enable_interrupt(uint32_t number) { NVIC_ISER(number / 32) = 1u << number % 32; }

#endif
