/* Bytes from a hostile line, into decoder and dispatcher: by a seeded generator, or by libFuzzer where it is linked.
 * The sanitizers are the test. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "fake_port.h"
#include "frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length) {
    fake_forget();
    fake.patience = 200; /* a run for ever ends by itself */
    fake_receive(bytes, length);
    return 0;
}

#ifndef HWNAS_LIBFUZZER
static uint64_t state;

static uint32_t draw(uint32_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

static size_t some_bytes(uint8_t *to, size_t most) {
    size_t length = draw((uint32_t)most + 1);
    for (size_t i = 0; i < length; i++) to[i] = draw(3) ? (uint8_t)draw(256) : 0;
    return length;
}

/* A frame that is right on the line and odd inside: small numbers, so that networks and tensors are met. */
static size_t a_request(uint8_t *to) {
    uint8_t body[HWNAS_BODY_BYTES];
    size_t length = draw(4) ? draw(12) : draw(HWNAS_BODY_BYTES + 1);
    for (size_t i = 0; i < length; i++) body[i] = draw(3) ? (uint8_t)draw(4) : draw(4) ? 0 : (uint8_t)draw(256);
    return fake_frame((uint8_t)draw(256), (uint8_t)(draw(20) ? draw(13) : draw(256)), body, length, to);
}

static size_t a_command(uint8_t *to) {
    static const char *const words[] = {
        "name", "profile", "db", "load", "print", "infer", "results", "help", "timestamp", "0",
        "1",    "32",      "-1", "7f00", "zz",    "99999999999", "", "\r\n",
    };
    size_t length = 0;
    for (uint32_t n = draw(5); n; n--) {
        const char *word = words[draw(sizeof words / sizeof *words)];
        memcpy(to + length, word, strlen(word));
        length += strlen(word);
        to[length++] = ' ';
    }
    to[length++] = '%';
    return length;
}

int main(int count, char **arguments) {
    CHECK(count == 3);
    state = strtoull(arguments[1], NULL, 10);
    unsigned long most = strtoul(arguments[2], NULL, 10), total = 0, answered = 0;
    static uint8_t bytes[1024];
    fake_clear();
    while (total < most) {
        uint32_t kind = draw(8);
        size_t length = kind < 2 ? some_bytes(bytes, sizeof bytes) : kind < 3 ? a_command(bytes) : a_request(bytes);
        if (!draw(3) && length) bytes[draw((uint32_t)length)] ^= (uint8_t)(1u << draw(8)); /* flipped */
        if (!draw(6)) length = draw((uint32_t)length + 1);                                 /* cut off */
        if (!draw(4)) fake.spare = draw(FAKE_SPARE + 1);
        fake.waiting_length = draw(4) ? 0 : a_request(fake.waiting);
        fake.waiting_taken = 0;
        LLVMFuzzerTestOneInput(bytes, length);
        total += length;
        answered += fake.sent_length > 0;
    }
    printf("%lu bytes, %lu answered\n", total, answered);
    return 0;
}
#endif
