/* Ticks in 64 bits that never wrap: of the DWT's cycle counter where there is one, else of SysTick, which is also the
 * time base. Which of the two it is, is found out at boot. */
#include "counter.h"

#include "port.h"
#include "registers.h"
#include "session.h"

enum { SYSTICK_MOST = 1 << 24 };

volatile uint32_t hwnas_interrupts;

static bool has_dwt;
static uint32_t period;             /* of SysTick, in ticks */
static volatile uint64_t base;      /* ticks before this period */
static volatile uint32_t dwt_before, dwt_wraps;

/* A quarter of a second where 24 bits can hold it, else a fraction of it. */
static uint32_t longest_period(void) {
    uint32_t ticks = HWNAS_CLOCK_HZ / 4, parts = (ticks + SYSTICK_MOST - 1) / SYSTICK_MOST;
    return ticks / parts;
}

static bool probe_dwt(void) {
    DCB_DEMCR |= DEMCR_TRCENA;
    DWT_LAR = 0xC5ACCE55; /* the Cortex-M7 locks its DWT */
    DWT_CYCCNT = 0;
    DWT_CTRL |= DWT_CYCCNTENA;
    for (volatile int i = 0; i < 16; i++) {}
    uint32_t first = DWT_CYCCNT;
    for (volatile int i = 0; i < 16; i++) {}
    return first != 0 && DWT_CYCCNT != first;
}

uint8_t hwnas_counter_start(void) {
    period = longest_period();
    SYST_RVR = period - 1;
    SYST_CVR = 0;
    SYST_CSR = SYST_ENABLE | SYST_INTERRUPT | SYST_CORE_CLOCK;
    has_dwt = probe_dwt();
    return has_dwt ? HWNAS_DWT : HWNAS_SYSTICK;
}

/* Interrupts are masked. It runs at least once a period, which is shorter than 32 bits of cycles. */
static uint64_t dwt_ticks(void) {
    uint32_t now = DWT_CYCCNT;
    if (now < dwt_before) dwt_wraps++;
    dwt_before = now;
    return (uint64_t)dwt_wraps << 32 | now;
}

/* Interrupts are masked. SysTick counts down to 0, where the period ends, and goes on with period - 1. */
static uint64_t systick_ticks(void) {
    uint64_t before = base;
    uint32_t value = SYST_CVR;
    if (SCB_ICSR & ICSR_PENDSTSET) { /* the period ended, and its interrupt has not been served */
        before += period;
        value = SYST_CVR;
    }
    return before + (value ? period - value : 0);
}

uint64_t hwnas_ticks(void) {
    uint32_t before = hwnas_mask();
    uint64_t ticks = has_dwt ? dwt_ticks() : systick_ticks();
    hwnas_unmask(before);
    return ticks;
}

void hwnas_ticks_align(void) {
    uint32_t before = hwnas_mask();
    uint64_t ticks = systick_ticks();
    SYST_CVR = 0;
    SCB_ICSR = ICSR_PENDSTCLR;
    base = ticks;
    if (has_dwt) dwt_ticks(); /* this period is longer than others: do not miss a wrap */
    hwnas_unmask(before);
}

void hwnas_systick_interrupt(void) {
    hwnas_interrupts++;
    uint32_t before = hwnas_mask();
    base += period;
    if (has_dwt) dwt_ticks();
    hwnas_unmask(before);
    hwnas_on_period();
}
