/* UART and watchdog of Arm's Cortex-M System Design Kit (DDI 0479D, 4.3 and 4.5), which the MPS boards have. */
#ifndef HWNAS_CMSDK_H
#define HWNAS_CMSDK_H

#include <stdbool.h>
#include <stdint.h>

void hwnas_cmsdk_uart_start(uint32_t base, uint32_t clock_hz, uint32_t baud);
void hwnas_cmsdk_uart_received(uint32_t base); /* interrupts of the UART */
void hwnas_cmsdk_uart_sent(uint32_t base);
void hwnas_cmsdk_uart_send(uint32_t base);
bool hwnas_cmsdk_uart_sending(uint32_t base);
void hwnas_cmsdk_uart_put(uint32_t base, uint8_t byte);

/* The first time it runs out it raises the NMI, the second time it resets the chip. */
void hwnas_cmsdk_watchdog_start(uint32_t base, uint32_t ticks);
void hwnas_cmsdk_watchdog_kick(uint32_t base);

#endif
