/* What outlives a restart, and the restart itself. */
#ifndef HWNAS_RESTART_H
#define HWNAS_RESTART_H

#include <stdint.h>

/* Why this boot came about (enum hwnas_cause), and the number that it is known by. Call once. */
uint8_t hwnas_boot_cause(void);
uint32_t hwnas_draw_nonce(const uint8_t board_id[12]);

_Noreturn void hwnas_restart_because(uint8_t cause);

#endif
