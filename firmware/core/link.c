#include "link.h"

#include <string.h>

#include "port.h"
#include "requests.h"
#include "text.h"

static enum { CLOSED, FRAME, TEXT } state;
static hwnas_frame frame;

static bool is_printable(uint8_t byte) { return byte >= 0x20 && byte < 0x7F; }

void hwnas_link_take(uint8_t byte) {
    if (!byte) { /* opens a frame, or ends one; a zero after a zero leaves the frame open */
        bool had_bytes = frame.begun;
        bool whole = hwnas_frame_take(&frame, 0);
        hwnas_text_clear();
        state = state == FRAME && had_bytes ? CLOSED : FRAME;
        if (whole) hwnas_request(frame.bytes, frame.length);
        return;
    }
    if (state == CLOSED && is_printable(byte)) state = TEXT;
    if (state == FRAME) {
        hwnas_frame_take(&frame, byte);
        if (frame.broken) hwnas_link_drop(); /* a frame without an end: let text in again */
    } else if (state == TEXT && hwnas_text_take((char)byte)) {
        state = CLOSED;
    }
}

void hwnas_link_drop(void) {
    hwnas_frame_clear(&frame);
    hwnas_text_clear();
    state = CLOSED;
}

bool hwnas_link_awaits_frame(void) { return state == FRAME; }

void hwnas_link_event(uint8_t op, const void *body, uint8_t length) {
    uint8_t bytes[HWNAS_HEAD_BYTES + 32 + HWNAS_CRC_BYTES] = {0, op};
    if (length > 32) return;
    memcpy(bytes + HWNAS_HEAD_BYTES, body, length);
    hwnas_frame_write(bytes, hwnas_frame_seal(bytes, (uint16_t)(HWNAS_HEAD_BYTES + length)), hwnas_serial_write);
}
