#include "main.h"

#include "bytes.h"
#include "link.h"
#include "port.h"
#include "text.h"

void hwnas_greet(void) {
    uint8_t bytes[5];
    hwnas_body body = {.bytes = bytes, .room = sizeof bytes};
    hwnas_put_u32(&body, hwnas_this_boot.nonce);
    hwnas_put_u8(&body, hwnas_this_boot.cause);
    hwnas_link_event(HWNAS_OP_BOOT, bytes, sizeof bytes);
    hwnas_text_greet();
}

void hwnas_serve(void) {
    static uint64_t heard;
    hwnas_watchdog_kick();
    if (hwnas_serial_waits()) {
        while (hwnas_serial_waits()) hwnas_link_take((uint8_t)hwnas_serial_read());
        heard = hwnas_ticks();
    } else if (hwnas_link_awaits_frame() && hwnas_ticks() - heard > hwnas_this_boot.counter_hz) {
        hwnas_link_drop(); /* nothing for a second: half a frame must not keep text out */
    }
    hwnas_idle();
}
