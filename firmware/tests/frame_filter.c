/* Reads lines of hexadecimal from stdin. "d HEX": what the decoder makes of these bytes, a line for each frame with its
 * seq, op and body. "e HEX": the frame of this seq, op and body as it is on the line. "c HEX": the CRC-32. */
#include <stdio.h>
#include <string.h>

#include "crc32.h"
#include "frame.h"

static void put(uint8_t byte) { printf("%02x", byte); }

static void print_bytes(const uint8_t *bytes, size_t length) {
    for (size_t i = 0; i < length; i++) put(bytes[i]);
}

int main(void) {
    static char text[1 << 20];
    static uint8_t bytes[sizeof text / 2];
    hwnas_frame frame;
    while (fgets(text, sizeof text, stdin)) {
        size_t length = 0;
        unsigned value;
        for (const char *at = text + 2; sscanf(at, "%2x", &value) == 1; at += 2) bytes[length++] = (uint8_t)value;
        if (*text == 'c') {
            printf("%08x\n", (unsigned)hwnas_crc32(0, bytes, (uint32_t)length));
        } else if (*text == 'e') {
            uint8_t sealed[HWNAS_FRAME_BYTES];
            if (length > HWNAS_HEAD_BYTES + HWNAS_BODY_BYTES) return 1;
            memcpy(sealed, bytes, length);
            hwnas_frame_write(sealed, hwnas_frame_seal(sealed, (uint16_t)length), put);
            puts("");
        } else {
            hwnas_frame_clear(&frame);
            for (size_t i = 0; i < length; i++) {
                if (!hwnas_frame_take(&frame, bytes[i])) continue;
                print_bytes(frame.bytes, (size_t)(frame.length - HWNAS_CRC_BYTES));
                printf(" ");
            }
            puts("");
        }
    }
    return 0;
}
