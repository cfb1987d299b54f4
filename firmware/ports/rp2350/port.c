/* RP2350 on a Raspberry Pi Pico 2, first Cortex-M33: 150 MHz from the 12 MHz crystal, UART0 on GPIO 0 and 1, trigger on
 * GPIO 2. The flash stays in the mode that the boot ROM chose, which is not its fastest. Registers, and the block that
 * the boot ROM looks for: RP2350 datasheet (RP-008373-DS). */
#include "chip.h"
#include "port.h"
#include "registers.h"
#include "serial_ring.h"
#include "startup.h"

#if HWNAS_CLOCK_HZ != 150000000
#error "this port sets the clock to 150 MHz; give the device `clock: 150 MHz`"
#endif

enum {
    SET = 0x2000, /* writing there sets, or clears, the bits that are 1 */
    CLEAR = 0x3000,
    CLK_REF_CTRL = 0x40010030,
    CLK_REF_SELECTED = 0x40010038,
    CLK_SYS_CTRL = 0x4001003C,
    CLK_SYS_SELECTED = 0x40010044,
    CLK_PERI_CTRL = 0x40010048,
    PSM_WDSEL = 0x40018008,
    RESETS_RESET = 0x40020000,
    RESETS_DONE = 0x40020008,
    IO_GPIO_CTRL = 0x40028004, /* of GPIO 0, 8 bytes apart */
    PADS_GPIO = 0x40038004,    /* of GPIO 0, 4 bytes apart */
    XOSC_CTRL = 0x40048000,
    XOSC_STATUS = 0x40048004,
    XOSC_STARTUP = 0x4004800C,
    PLL_CS = 0x40050000,
    PLL_PWR = 0x40050004,
    PLL_FBDIV = 0x40050008,
    PLL_PRIM = 0x4005000C,
    UART_DR = 0x40070000,
    UART_FR = 0x40070018,
    UART_IBRD = 0x40070024,
    UART_FBRD = 0x40070028,
    UART_LCR_H = 0x4007002C,
    UART_CR = 0x40070030,
    UART_IFLS = 0x40070034,
    UART_IMSC = 0x40070038,
    UART_ICR = 0x40070044,
    WATCHDOG_CTRL = 0x400D8000,
    WATCHDOG_LOAD = 0x400D8004,
    WATCHDOG_REASON = 0x400D8008,
    CHIP_RESET = 0x4010002C,
    TICKS_WATCHDOG_CTRL = 0x40108030,
    TICKS_WATCHDOG_CYCLES = 0x40108034,
    OTP_CHIPID = 0x40130000, /* four rows of 16 bits, error-corrected, two to a word */
};

#define SIO_OUT_SET 0xD0000018u
#define SIO_OUT_CLR 0xD0000020u
#define SIO_OE_SET 0xD0000038u

enum {
    RESET_IO = 1 << 6,
    RESET_PADS = 1 << 9,
    RESET_PLL = 1 << 14,
    RESET_UART0 = 1 << 26,
    XOSC_ENABLE_1_15_MHZ = 0xFAB << 12 | 0xAA0,
    XOSC_1_MS = 12000 / 256 + 1,
    XTAL_MHZ = 12,
    CLK_REF_XOSC = 2,
    CLK_SYS_AUX = 1,
    CLK_PERI_ENABLE = 1 << 11,
    /* 12 MHz x 125 = 1500 MHz, / 5 / 2 = 150 MHz */
    PLL_FEEDBACK = 125,
    PLL_DIVIDERS = 5 << 16 | 2 << 12,
    PLL_POWER = 1 << 0 | 1 << 5,
    PLL_POST_POWER = 1 << 3,
    FUNCTION_UART = 2,
    FUNCTION_SIO = 5,
    PAD_PULL_UP = 1 << 3,
    PAD_4_MA = 1 << 4,
    PAD_INPUT = 1 << 6,
    FR_BUSY = 1 << 3,
    FR_RX_EMPTY = 1 << 4,
    FR_TX_FULL = 1 << 5,
    LCR_8_BITS = 3 << 5, /* without FIFOs: an interrupt for each byte */
    CR_ENABLE_TX_RX = 1 << 0 | 1 << 8 | 1 << 9,
    INT_RX = 1 << 4,
    INT_TX = 1 << 5,
    INT_ALL = 0x7FF,
    UART0_INTERRUPT = 33,
    WATCHDOG_ENABLE = 1 << 30,
    WATCHDOG_PAUSE_IN_DEBUG = 7 << 24,
    WDSEL_ALL_BUT_OSCILLATORS = 0x01FFFFFF & ~(1 << 3 | 1 << 2),
    REASON_TIMER = 1 << 0,
    HAD_RUN_LOW = 1 << 18,
    TRIGGER = 2,
    PATIENCE = 100000,
};

/* "Minimal Arm IMAGE_DEF" of the datasheet's section on bootrom metadata: an Arm program that runs in secure state. */
__attribute__((section(".boot"), used)) static const uint32_t image_def[] = {
    0xFFFFDED3, 0x10210142, 0x000001FF, 0x00000000, 0xAB123579,
};

const char hwnas_chip_name[] = "rp2350";

static void uart(void) {
    hwnas_interrupts++;
    HWNAS_REG(UART_ICR) = INT_ALL; /* before reading, or a byte that comes meanwhile would be acknowledged unread */
    while (!(HWNAS_REG(UART_FR) & FR_RX_EMPTY)) hwnas_serial_received((uint8_t)HWNAS_REG(UART_DR));
    hwnas_port_send();
}

HWNAS_VECTOR_TABLE = {HWNAS_CORE_VECTORS, [16 + UART0_INTERRUPT] = uart};

static void wait_for(uint32_t address, uint32_t mask) {
    for (int i = 0; i < PATIENCE && (HWNAS_REG(address) & mask) != mask; i++) {}
}

static void restart_blocks(uint32_t blocks) {
    HWNAS_REG(RESETS_RESET + SET) = blocks;
    HWNAS_REG(RESETS_RESET + CLEAR) = blocks;
    wait_for(RESETS_DONE, blocks);
}

/* A restart by software leaves the clocks as they were, so they are first led back to the internal oscillator. */
static void start_clocks(void) {
    HWNAS_REG(XOSC_STARTUP) = XOSC_1_MS;
    HWNAS_REG(XOSC_CTRL) = XOSC_ENABLE_1_15_MHZ;
    wait_for(XOSC_STATUS, 1u << 31);
    HWNAS_REG(CLK_SYS_CTRL + CLEAR) = CLK_SYS_AUX;
    wait_for(CLK_SYS_SELECTED, 1);
    HWNAS_REG(CLK_REF_CTRL) = CLK_REF_XOSC;
    wait_for(CLK_REF_SELECTED, 1 << CLK_REF_XOSC);
    restart_blocks(RESET_PLL);
    HWNAS_REG(PLL_CS) = 1;
    HWNAS_REG(PLL_FBDIV) = PLL_FEEDBACK;
    HWNAS_REG(PLL_PWR + CLEAR) = PLL_POWER;
    wait_for(PLL_CS, 1u << 31);
    HWNAS_REG(PLL_PRIM) = PLL_DIVIDERS;
    HWNAS_REG(PLL_PWR + CLEAR) = PLL_POST_POWER;
    HWNAS_REG(CLK_SYS_CTRL) = 0; /* the other source is the PLL; not yet in use */
    HWNAS_REG(CLK_SYS_CTRL + SET) = CLK_SYS_AUX;
    wait_for(CLK_SYS_SELECTED, 1 << CLK_SYS_AUX);
    HWNAS_REG(CLK_PERI_CTRL) = CLK_PERI_ENABLE; /* from the system clock */
}

static void start_pin(uint32_t pin, uint32_t function, uint32_t pad) {
    HWNAS_REG(IO_GPIO_CTRL + 8 * pin) = function;
    HWNAS_REG(PADS_GPIO + 4 * pin) = pad; /* and no longer isolated */
}

void hwnas_chip_start(void) {
    start_clocks();
    restart_blocks(RESET_IO | RESET_PADS | RESET_UART0);
    hwnas_trigger(false);
    HWNAS_REG(SIO_OE_SET) = 1 << TRIGGER;
    start_pin(0, FUNCTION_UART, PAD_4_MA);
    start_pin(1, FUNCTION_UART, PAD_INPUT | PAD_PULL_UP);
    start_pin(TRIGGER, FUNCTION_SIO, PAD_4_MA);
    uint32_t divisor = (HWNAS_CLOCK_HZ * 4u + HWNAS_BAUD / 2) / HWNAS_BAUD; /* in 64ths */
    HWNAS_REG(UART_IBRD) = divisor >> 6;
    HWNAS_REG(UART_FBRD) = divisor & 63;
    HWNAS_REG(UART_LCR_H) = LCR_8_BITS;
    HWNAS_REG(UART_CR) = CR_ENABLE_TX_RX;
    HWNAS_REG(UART_IMSC) = INT_RX | INT_TX;
    hwnas_enable_interrupt(UART0_INTERRUPT);
}

void hwnas_port_send(void) {
    uint32_t before = hwnas_mask();
    if (!(HWNAS_REG(UART_FR) & FR_TX_FULL)) {
        int byte = hwnas_serial_next();
        if (byte >= 0) HWNAS_REG(UART_DR) = (uint32_t)byte;
    }
    hwnas_unmask(before);
}

bool hwnas_port_sending(void) { return HWNAS_REG(UART_FR) & FR_BUSY; }

void hwnas_chip_put(uint8_t byte) {
    for (int i = 0; i < PATIENCE && HWNAS_REG(UART_FR) & FR_TX_FULL; i++) {}
    HWNAS_REG(UART_DR) = byte;
    for (int i = 0; i < PATIENCE && HWNAS_REG(UART_FR) & FR_BUSY; i++) {}
}

/* It counts microseconds. */
void hwnas_chip_watchdog_start(void) {
    HWNAS_REG(TICKS_WATCHDOG_CYCLES) = XTAL_MHZ;
    HWNAS_REG(TICKS_WATCHDOG_CTRL) = 1;
    HWNAS_REG(WATCHDOG_CTRL + CLEAR) = WATCHDOG_ENABLE;
    HWNAS_REG(PSM_WDSEL) = WDSEL_ALL_BUT_OSCILLATORS;
    hwnas_watchdog_kick();
    HWNAS_REG(WATCHDOG_CTRL + SET) = WATCHDOG_ENABLE | WATCHDOG_PAUSE_IN_DEBUG;
}

void hwnas_watchdog_kick(void) { HWNAS_REG(WATCHDOG_LOAD) = HWNAS_WATCHDOG_S * 1000000; }

/* What the chip remembers of a power-up is not forgotten by a restart of the core alone: it is of use only once, while
 * the RAM does not yet hold what this firmware keeps there. */
uint8_t hwnas_chip_reset_cause(void) {
    if (HWNAS_REG(WATCHDOG_REASON) & REASON_TIMER) return HWNAS_WATCHDOG;
    return HWNAS_REG(CHIP_RESET) & HAD_RUN_LOW ? HWNAS_PIN : HWNAS_UNKNOWN;
}

void hwnas_trigger(bool high) { HWNAS_REG(high ? SIO_OUT_SET : SIO_OUT_CLR) = 1 << TRIGGER; }

void hwnas_chip_board_id(uint8_t id[12]) {
    for (int i = 0; i < 12; i++) id[i] = i < 8 ? (uint8_t)(HWNAS_REG(OTP_CHIPID + (i & ~3)) >> 8 * (i & 3)) : 0;
}
