/* STM32F446 on a Nucleo-64 board: 8 MHz from the ST-LINK, 168 MHz core, USART2 on PA2 and PA3 to the ST-LINK's serial
 * port, trigger on PA10 (Arduino D2). Registers: ST RM0390 (STM32F446xx reference manual); pins: UM1724. */
#include "chip.h"
#include "port.h"
#include "registers.h"
#include "serial_ring.h"
#include "startup.h"

#if HWNAS_CLOCK_HZ != 168000000
#error "this port sets the clock to 168 MHz; give the device `clock: 168 MHz`"
#endif

enum {
    FLASH_ACR = 0x40023C00,
    RCC_CR = 0x40023800,
    RCC_PLLCFGR = 0x40023804,
    RCC_CFGR = 0x40023808,
    RCC_AHB1ENR = 0x40023830,
    RCC_APB1ENR = 0x40023840,
    RCC_CSR = 0x40023874,
    GPIOA = 0x40020000,
    MODER = 0x00,
    OSPEEDR = 0x08,
    PUPDR = 0x0C,
    BSRR = 0x18,
    AFRL = 0x20,
    USART2 = 0x40004400,
    SR = 0x00,
    DR = 0x04,
    BRR = 0x08,
    CR1 = 0x0C,
    IWDG = 0x40003000,
    UNIQUE_ID = 0x1FFF7A10,
};

enum {
    ACR_5_WAITS_PREFETCH_CACHES = 5 | 1 << 8 | 1 << 9 | 1 << 10,
    CR_HSEON = 1 << 16,
    CR_HSERDY = 1 << 17,
    CR_HSEBYP = 1 << 18,
    CR_PLLON = 1 << 24,
    CR_PLLRDY = 1 << 25,
    /* 8 MHz / 4 x 168 / 2 = 168 MHz, from HSE; Q = 7 gives 48 MHz, R = 2 is its reset value. */
    PLL_168_MHZ = 4 | 168 << 6 | 1 << 22 | 7 << 24 | 2 << 28,
    CFGR_APB1_4_APB2_2 = 5 << 10 | 4 << 13,
    CFGR_SW_PLL = 2,
    CFGR_SWS_PLL = 2 << 2,
    APB1_HZ = HWNAS_CLOCK_HZ / 4,
    APB1ENR_USART2 = 1 << 17,
    CSR_RMVF = 1 << 24,
    CSR_BOR = 1 << 25,
    CSR_PIN = 1 << 26,
    CSR_POR = 1 << 27,
    CSR_SOFTWARE = 1 << 28,
    CSR_WATCHDOGS = 3 << 29,
    SR_ORE = 1 << 3,
    SR_RXNE = 1 << 5,
    SR_TC = 1 << 6,
    SR_TXE = 1 << 7,
    CR1_RE = 1 << 2,
    CR1_TE = 1 << 3,
    CR1_RXNEIE = 1 << 5,
    CR1_TXEIE = 1 << 7,
    CR1_UE = 1 << 13,
    USART2_INTERRUPT = 38,
    TRIGGER = 10,
    PATIENCE = 100000,
};

const char hwnas_chip_name[] = "stm32f4";

static void usart2(void) {
    hwnas_interrupts++;
    uint32_t status = HWNAS_REG(USART2 + SR);
    if (status & (SR_RXNE | SR_ORE)) { /* an overrun interrupts too, until the data register was read */
        uint8_t byte = (uint8_t)HWNAS_REG(USART2 + DR);
        if (status & SR_RXNE) hwnas_serial_received(byte);
    }
    hwnas_port_send();
}

HWNAS_VECTOR_TABLE = {HWNAS_CORE_VECTORS, [16 + USART2_INTERRUPT] = usart2};

/* A clock that never gets ready leaves the core on the internal one: then nobody understands its serial line, and the
 * host says that the board does not answer. Waiting for ever would look the same. */
static void wait_for(uint32_t address, uint32_t mask, uint32_t value) {
    for (int i = 0; i < PATIENCE && (HWNAS_REG(address) & mask) != value; i++) {}
}

static void start_clock(void) {
    HWNAS_REG(RCC_CR) |= CR_HSEBYP | CR_HSEON;
    wait_for(RCC_CR, CR_HSERDY, CR_HSERDY);
    HWNAS_REG(RCC_PLLCFGR) = PLL_168_MHZ;
    HWNAS_REG(RCC_CR) |= CR_PLLON;
    wait_for(RCC_CR, CR_PLLRDY, CR_PLLRDY);
    HWNAS_REG(FLASH_ACR) = ACR_5_WAITS_PREFETCH_CACHES;
    wait_for(FLASH_ACR, 0xF, 5);
    HWNAS_REG(RCC_CFGR) = CFGR_APB1_4_APB2_2 | CFGR_SW_PLL;
    wait_for(RCC_CFGR, 3 << 2, CFGR_SWS_PLL);
}

static void start_pins(void) {
    HWNAS_REG(RCC_AHB1ENR) |= 1;
    (void)HWNAS_REG(RCC_AHB1ENR);
    hwnas_trigger(false);
    uint32_t mode = HWNAS_REG(GPIOA + MODER) & ~(15u << 4 | 3u << 2 * TRIGGER);
    HWNAS_REG(GPIOA + AFRL) = (HWNAS_REG(GPIOA + AFRL) & ~(0xFFu << 8)) | 0x77 << 8; /* AF7: USART2 */
    HWNAS_REG(GPIOA + PUPDR) |= 1 << 6;                                               /* a line that idles high */
    HWNAS_REG(GPIOA + OSPEEDR) |= 2u << 2 * TRIGGER;
    HWNAS_REG(GPIOA + MODER) = mode | 10 << 4 | 1 << 2 * TRIGGER;
}

void hwnas_chip_start(void) {
    start_clock();
    start_pins();
    HWNAS_REG(RCC_APB1ENR) |= APB1ENR_USART2;
    (void)HWNAS_REG(RCC_APB1ENR);
    HWNAS_REG(USART2 + BRR) = (APB1_HZ + HWNAS_BAUD / 2) / HWNAS_BAUD;
    HWNAS_REG(USART2 + CR1) = CR1_UE | CR1_RE | CR1_TE | CR1_RXNEIE;
    hwnas_enable_interrupt(USART2_INTERRUPT);
}

void hwnas_port_send(void) {
    uint32_t before = hwnas_mask();
    if (HWNAS_REG(USART2 + SR) & SR_TXE) {
        int byte = hwnas_serial_next();
        if (byte >= 0) HWNAS_REG(USART2 + DR) = (uint32_t)byte;
    }
    uint32_t control = HWNAS_REG(USART2 + CR1) & ~(uint32_t)CR1_TXEIE; /* an empty register interrupts without end */
    HWNAS_REG(USART2 + CR1) = hwnas_serial_unsent() ? control | CR1_TXEIE : control;
    hwnas_unmask(before);
}

bool hwnas_port_sending(void) { return !(HWNAS_REG(USART2 + SR) & SR_TC); }

void hwnas_chip_put(uint8_t byte) {
    wait_for(USART2 + SR, SR_TXE, SR_TXE);
    HWNAS_REG(USART2 + DR) = byte;
    wait_for(USART2 + SR, SR_TC, SR_TC);
}

/* The independent watchdog: 32 kHz / 256. */
void hwnas_chip_watchdog_start(void) {
    HWNAS_REG(IWDG) = 0xCCCC;
    HWNAS_REG(IWDG) = 0x5555;
    HWNAS_REG(IWDG + 4) = 6;
    HWNAS_REG(IWDG + 8) = HWNAS_WATCHDOG_S * 125;
    hwnas_watchdog_kick();
}

void hwnas_watchdog_kick(void) { HWNAS_REG(IWDG) = 0xAAAA; }

uint8_t hwnas_chip_reset_cause(void) {
    uint32_t flags = HWNAS_REG(RCC_CSR);
    HWNAS_REG(RCC_CSR) |= CSR_RMVF;
    if (flags & (CSR_POR | CSR_BOR)) return HWNAS_POWER;
    if (flags & CSR_WATCHDOGS) return HWNAS_WATCHDOG;
    if (flags & CSR_SOFTWARE) return HWNAS_SOFTWARE;
    return flags & CSR_PIN ? HWNAS_PIN : HWNAS_UNKNOWN;
}

void hwnas_trigger(bool high) { HWNAS_REG(GPIOA + BSRR) = 1u << (high ? TRIGGER : TRIGGER + 16); }

void hwnas_chip_board_id(uint8_t id[12]) {
    for (int i = 0; i < 12; i++) id[i] = (uint8_t)(HWNAS_REG(UNIQUE_ID + (i & ~3)) >> 8 * (i & 3));
}
