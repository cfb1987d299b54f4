#include "frame.h"

#include "bytes.h"
#include "crc32.h"

void hwnas_frame_clear(hwnas_frame *frame) {
    frame->length = 0;
    frame->left = 0;
    frame->begun = frame->broken = false;
}

static void append(hwnas_frame *frame, uint8_t byte) {
    if (frame->length == HWNAS_FRAME_BYTES)
        frame->broken = true;
    else
        frame->bytes[frame->length++] = byte;
}

static bool is_whole(const hwnas_frame *frame) {
    if (!frame->begun || frame->broken || frame->left) return false;
    if (frame->length < HWNAS_HEAD_BYTES + HWNAS_CRC_BYTES) return false;
    uint16_t covered = (uint16_t)(frame->length - HWNAS_CRC_BYTES);
    return hwnas_crc32(0, frame->bytes, covered) == hwnas_u32(frame->bytes + covered);
}

bool hwnas_frame_take(hwnas_frame *frame, uint8_t byte) {
    if (!byte) {
        bool whole = is_whole(frame);
        uint16_t length = frame->length;
        hwnas_frame_clear(frame);
        if (whole) frame->length = length; /* the caller reads it; the next byte clears it */
        return whole;
    }
    if (!frame->begun) frame->length = 0;
    if (frame->broken) return false;
    if (frame->left) {
        append(frame, byte);
        frame->left--;
        return false;
    }
    /* A run byte. Runs of 255 do not occur in frames this short: every run but the last stands for a zero too. */
    if (frame->begun) append(frame, 0);
    frame->begun = true;
    frame->left = (uint8_t)(byte - 1);
    return false;
}

uint16_t hwnas_frame_seal(uint8_t *bytes, uint16_t length) {
    hwnas_body body = {.bytes = bytes, .length = length, .room = HWNAS_FRAME_BYTES};
    hwnas_put_u32(&body, hwnas_crc32(0, bytes, length));
    return body.length;
}

void hwnas_frame_write(const uint8_t *bytes, uint16_t length, void (*put)(uint8_t byte)) {
    put(0);
    uint16_t from = 0;
    while (from <= length) { /* a frame that ends in a zero has one more, empty run */
        uint16_t to = from;
        while (to < length && bytes[to]) to++;
        put((uint8_t)(to - from + 1));
        for (uint16_t i = from; i < to; i++) put(bytes[i]);
        from = (uint16_t)(to + 1);
    }
    put(0);
}
