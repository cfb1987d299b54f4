#include "restart.h"

#include "chip.h"
#include "crc32.h"
#include "image.h"
#include "port.h"
#include "registers.h"

enum { KEPT = 0x68774E41 };

/* In RAM that start-up leaves alone. */
static struct {
    uint32_t magic; /* KEPT: the rest is from the boot before */
    uint32_t nonce, boots;
    uint8_t cause;
} kept __attribute__((section(".noinit")));

#ifdef HWNAS_FAULTS
uint8_t hwnas_brownouts __attribute__((section(".noinit")));
#endif

uint8_t hwnas_boot_cause(void) {
    uint8_t chip = hwnas_chip_reset_cause();
    bool warm = kept.magic == KEPT && chip != HWNAS_POWER;
    uint8_t cause = warm && kept.cause ? kept.cause : chip;
    if (cause == HWNAS_UNKNOWN) cause = warm ? HWNAS_PIN : HWNAS_POWER;
    if (!warm) {
        kept.boots = 0;
        kept.nonce = 0;
#ifdef HWNAS_FAULTS
        hwnas_brownouts = 0;
#endif
    }
    kept.magic = KEPT;
    kept.cause = HWNAS_UNKNOWN;
    kept.boots++;
    return cause;
}

/* What differs from boot to boot: the boot before, where RAM outlived it; what RAM holds after power-up, on silicon;
 * and how late a sleeping core wakes by an emulator's clock, which follows its host's. */
uint32_t hwnas_draw_nonce(const uint8_t board_id[12]) {
    enum { WAKES = 8, CLOCKS = HWNAS_CLOCK_HZ / 1000, RAM = 4096 };
    uint32_t mix = hwnas_crc32(kept.nonce, &kept.boots, sizeof kept.boots);
    mix = hwnas_crc32(mix, board_id, 12);
    mix = hwnas_crc32(mix, hwnas_arena, hwnas_arena_bytes < RAM ? hwnas_arena_bytes : RAM);
    for (int i = 0; i < WAKES; i++) {
        SYST_RVR = CLOCKS - 1;
        SYST_CVR = 0;
        SYST_CSR = SYST_ENABLE | SYST_INTERRUPT | SYST_CORE_CLOCK;
        __asm volatile("wfi"); /* interrupts are masked: it wakes, and stays pending */
        uint32_t late = SYST_CVR;
        SYST_CSR = 0;
        SCB_ICSR = ICSR_PENDSTCLR;
        mix = hwnas_crc32(mix, &late, sizeof late);
    }
    if (mix == kept.nonce) mix++;
    kept.nonce = mix;
    return mix;
}

_Noreturn void hwnas_restart_because(uint8_t cause) {
    kept.magic = KEPT;
    kept.cause = cause;
    __asm volatile("dsb" ::: "memory");
    SCB_AIRCR = AIRCR_SYSRESETREQ;
    __asm volatile("dsb" ::: "memory");
    for (;;) {}
}

_Noreturn void hwnas_restart(void) { hwnas_restart_because(HWNAS_SOFTWARE); }
