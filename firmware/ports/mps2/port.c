/* Arm MPS2 with the FPGA images AN385 (Cortex-M3), AN386 (M4), AN500 (M7), as QEMU emulates them. Addresses and
 * interrupts: Arm application note AN385 (DAI 0385D), memory map and interrupt assignments. The trigger is LED 0. */
#include "chip.h"
#include "cmsdk.h"
#include "port.h"
#include "registers.h"
#include "serial_ring.h"
#include "startup.h"

enum { UART = 0x40004000, WATCHDOG = 0x40008000, LEDS = 0x40028000, SCC_ID = 0x4002FFFC };

const char hwnas_chip_name[] = "mps2";

static void uart_received(void) { hwnas_cmsdk_uart_received(UART); }
static void uart_sent(void) { hwnas_cmsdk_uart_sent(UART); }

HWNAS_VECTOR_TABLE = {HWNAS_CORE_VECTORS, uart_received, uart_sent};

void hwnas_chip_start(void) {
    hwnas_cmsdk_uart_start(UART, HWNAS_CLOCK_HZ, HWNAS_BAUD);
    hwnas_enable_interrupt(0);
    hwnas_enable_interrupt(1);
}

void hwnas_port_send(void) { hwnas_cmsdk_uart_send(UART); }
bool hwnas_port_sending(void) { return hwnas_cmsdk_uart_sending(UART); }
void hwnas_chip_put(uint8_t byte) { hwnas_cmsdk_uart_put(UART, byte); }
void hwnas_chip_watchdog_start(void) { hwnas_cmsdk_watchdog_start(WATCHDOG, HWNAS_CLOCK_HZ * HWNAS_WATCHDOG_S); }
void hwnas_watchdog_kick(void) { hwnas_cmsdk_watchdog_kick(WATCHDOG); }
uint8_t hwnas_chip_reset_cause(void) { return HWNAS_UNKNOWN; }
void hwnas_trigger(bool high) { HWNAS_REG(LEDS) = high; }

void hwnas_chip_board_id(uint8_t id[12]) {
    uint32_t scc = HWNAS_REG(SCC_ID);
    for (int i = 0; i < 12; i++) id[i] = i < 4 ? (uint8_t)(scc >> (8 * i)) : 0;
}
