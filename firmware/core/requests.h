/* The requests of the binary dialect: each frame is answered once, and the answer is kept for a second asking. */
#ifndef HWNAS_REQUESTS_H
#define HWNAS_REQUESTS_H

#include <stdint.h>

enum { HWNAS_PROTOCOL = 1, HWNAS_VERSION = 1 << 8 | 0 };

enum hwnas_status {
    HWNAS_DONE = 0,
    HWNAS_UNKNOWN_OP = 1,
    HWNAS_OUT_OF_RANGE = 2,
    HWNAS_NO_NETWORK = 3,
    HWNAS_INPUT_USED = 4,
    HWNAS_KERNEL_ERROR = 5,
    HWNAS_STOPPED = 6,
};

enum hwnas_op {
    HWNAS_HELLO = 0x01,
    HWNAS_INFO = 0x02,
    HWNAS_WRITE = 0x03,
    HWNAS_CHECK = 0x04,
    HWNAS_RUN = 0x05,
    HWNAS_READ = 0x06,
    HWNAS_KERNELS = 0x07,
    HWNAS_LOOP = 0x08,
    HWNAS_RESET = 0x09,
    HWNAS_STOP = 0x0A,
    HWNAS_NAME = 0x0B,
    HWNAS_PROVOKE = 0x3E,
    HWNAS_REPLY = 0x80,
};

/* Answer a whole frame: seq, op, body, CRC. */
void hwnas_request(const uint8_t *bytes, uint16_t length);

#endif
