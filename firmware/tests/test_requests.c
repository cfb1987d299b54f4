/* The requests of the binary dialect against a fake board. */
#include <string.h>

#include "check.h"
#include "bytes.h"
#include "crc32.h"
#include "fake_port.h"
#include "frame.h"
#include "image.h"
#include "port.h"
#include "requests.h"

enum { STATUS = 2, NONCE = 3, REST = 7 };

static uint8_t reply[HWNAS_FRAME_BYTES];
static uint8_t seq;

static size_t ask(uint8_t op, const void *body, size_t length) {
    seq = seq == 255 ? 1 : (uint8_t)(seq + 1);
    return fake_ask(seq, op, body, length, reply);
}

/* Expect a status, and the length of what follows the nonce. */
static void expect(uint8_t op, const void *body, size_t length, uint8_t status, size_t rest) {
    size_t got = ask(op, body, length);
    CHECK(got == REST + rest);
    CHECK(reply[STATUS] == status);
    CHECK(hwnas_u32(reply + NONCE) == 0x11223344);
}

static void refused(uint8_t op, const void *body, size_t length, const char *why) {
    expect(op, body, length, HWNAS_OUT_OF_RANGE, strlen(why));
    CHECK(!memcmp(reply + REST, why, strlen(why)));
}

#define BODY(...) (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})

static void says_hello(void) {
    static const uint8_t expected[] = {
        1, 0, 1, 2, 0xE8, 3, 0, 0, 1, 4, 0, 240, 0, 0, 4, 0, 0,     /* protocol, version, counter ... stack */
        0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7, 0xA8, 0xA9, /* image */
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,                      /* board */
        'f', 'a', 'k', 'e',
    };
    expect(HWNAS_HELLO, "", 0, HWNAS_DONE, sizeof expected);
    CHECK(!memcmp(reply + REST, expected, sizeof expected));
}

static void describes_networks(void) {
    expect(HWNAS_INFO, BODY(1, 0), HWNAS_DONE, 13 + 5 + 2 * (10 + 16));
    CHECK(reply[REST] == 1 && reply[REST + 1] == 1 && hwnas_u16(reply + REST + 2) == 3);
    CHECK(hwnas_u32(reply + REST + 4) == 228 && reply[REST + 12] == 5 && !memcmp(reply + REST + 13, "bytes", 5));
    const uint8_t *tensor = reply + REST + 18;
    CHECK(tensor[0] == HWNAS_I8 && tensor[1] == 4 && hwnas_u32(tensor + 6) == 100 && hwnas_u32(tensor + 18) == 10);
    CHECK(hwnas_u32(tensor + 26 + 2) == 128);
    expect(HWNAS_INFO, BODY(3, 0), HWNAS_NO_NETWORK, 0); /* its arena is larger than the image's */
    expect(HWNAS_INFO, BODY(4, 0), HWNAS_NO_NETWORK, 0);
    expect(HWNAS_RUN, BODY(3, 0, 0, 0, 1, 0, 1), HWNAS_NO_NETWORK, 0);
    expect(HWNAS_NAME, BODY(0, 0, 1, 0), HWNAS_DONE, 3);
    CHECK(!memcmp(reply + REST, "add", 3));
    refused(HWNAS_NAME, BODY(0, 0, 2, 0), "no such kernel");
}

static void checks_shapes_of_requests(void) {
    expect(0x3F, "", 0, HWNAS_UNKNOWN_OP, 0);
    refused(HWNAS_HELLO, BODY(1), "the body has another length");
    refused(HWNAS_INFO, BODY(1), "the body has another length");
    refused(HWNAS_RUN, BODY(0, 0, 0, 0, 1, 0), "the body has another length");
    refused(HWNAS_WRITE, BODY(0, 0, 0, 0, 0, 0), "the body has another length");
    refused(HWNAS_RUN, BODY(0, 0, 0, 0, 0, 0, 1), "repeats are 1 to 24");
    refused(HWNAS_RUN, BODY(0, 0, 0, 0, 25, 0, 1), "repeats are 1 to 24");
    refused(HWNAS_RUN, BODY(0, 0, 0, 0, 1, 0, 4), "unknown flag");
    refused(HWNAS_RUN, BODY(0, 0, 1, 0, 1, 0, 0), "inputs that were written last for one run");
    refused(HWNAS_WRITE, BODY(0, 0, 2, 0, 0, 0, 0, 1), "no such input");
    refused(HWNAS_WRITE, BODY(0, 0, 0, 16, 0, 0, 0, 1), "beyond the end of the input");
    refused(HWNAS_WRITE, BODY(0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2), "beyond the end of the input");
    refused(HWNAS_READ, BODY(0, 0, 1, 0, 0, 0, 0, 1), "no such output");
    refused(HWNAS_CHECK, BODY(0, 0, 2), "no such tensor");
    refused(HWNAS_CHECK, BODY(0, 0, 0x81), "no such tensor");
}

static void write_input(uint8_t network, uint8_t input, uint8_t offset, const void *from, size_t length) {
    uint8_t body[HWNAS_BODY_BYTES] = {network, 0, input, offset};
    memcpy(body + 7, from, length);
    expect(HWNAS_WRITE, body, 7 + length, HWNAS_DONE, 0);
}

static void runs_on_written_inputs_once(void) {
    const float a[4] = {1, 2, 3, 4}, b[4] = {0.5f, 0.25f, -8, 100}, y[4] = {2.5f, 4.25f, -2, 108};
    write_input(0, 0, 0, a, sizeof a);
    expect(HWNAS_RUN, BODY(0, 0, 0, 0, 1, 0, 0), HWNAS_INPUT_USED, 0); /* the second input is missing */
    write_input(0, 1, 0, b, 8);
    write_input(0, 1, 8, b + 2, 8);
    expect(HWNAS_CHECK, BODY(0, 0, 1), HWNAS_DONE, 4);
    CHECK(hwnas_u32(reply + REST) == hwnas_crc32(0, b, sizeof b));
    refused(HWNAS_READ, BODY(0, 0, 0, 0, 0, 0, 0, 16), "no outputs; run it first");
    expect(HWNAS_RUN, BODY(0, 0, 0, 0, 1, 0, 0), HWNAS_DONE, 20 + 8);
    expect(HWNAS_READ, BODY(0, 0, 0, 0, 0, 0, 0, 16), HWNAS_DONE, 16);
    CHECK(!memcmp(reply + REST, y, sizeof y));
    expect(HWNAS_READ, BODY(0, 0, 0, 12, 0, 0, 0, 4), HWNAS_DONE, 4);
    CHECK(!memcmp(reply + REST, y + 3, 4));
    refused(HWNAS_READ, BODY(0, 0, 0, 13, 0, 0, 0, 4), "beyond the end of the output");
    refused(HWNAS_READ, BODY(1, 0, 0, 0, 0, 0, 0, 4), "no outputs; run it first");
    expect(HWNAS_CHECK, BODY(0, 0, 0x80), HWNAS_DONE, 4);
    CHECK(hwnas_u32(reply + REST) == hwnas_crc32(0, y, sizeof y));
    expect(HWNAS_RUN, BODY(0, 0, 0, 0, 1, 0, 0), HWNAS_INPUT_USED, 0);
    write_input(0, 1, 0, b, sizeof b);
    expect(HWNAS_RUN, BODY(0, 0, 0, 0, 1, 0, 0), HWNAS_INPUT_USED, 0); /* a run uses up all of them */
}

static void a_network_takes_the_arena_from_another(void) {
    const float a[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    write_input(0, 0, 0, a, 16);
    write_input(1, 0, 0, a, 16);
    write_input(0, 1, 0, a, 16);
    expect(HWNAS_RUN, BODY(0, 0, 0, 0, 1, 0, 0), HWNAS_INPUT_USED, 0);
}

static void times_runs_and_kernels(void) {
    fake.step = 10;
    fake.rises = 0;
    expect(HWNAS_RUN, BODY(0, 0, 2, 0, 3, 0, 1), HWNAS_DONE, 20 + 3 * 8);
    CHECK(hwnas_u16(reply + REST) == 3 && hwnas_u16(reply + REST + 2) == 0);
    CHECK(hwnas_u32(reply + REST + 4) == 10);       /* overhead: one reading of the counter to the next */
    CHECK(hwnas_u32(reply + REST + 12) == 100);     /* what the fake does not paint of its stack */
    CHECK(hwnas_u32(reply + REST + 16) == 21);      /* workspace */
    for (int i = 0; i < 3; i++) CHECK(hwnas_u32(reply + REST + 20 + 8 * i) == 10);
    CHECK(fake.rises == 2 + 3);                     /* calibration twice, then the repeats and not the warm-up */
    refused(HWNAS_KERNELS, BODY(0, 0, 0, 0), "no time of that kernel");
    expect(HWNAS_RUN, BODY(0, 0, 0, 0, 1, 0, 3), HWNAS_DONE, 20 + 8);
    expect(HWNAS_KERNELS, BODY(0, 0, 0, 0), HWNAS_DONE, 2 + 2 * 8);
    CHECK(hwnas_u16(reply + REST) == 2 && hwnas_u32(reply + REST + 2) == 0); /* less an empty kernel */
    expect(HWNAS_KERNELS, BODY(0, 0, 1, 0), HWNAS_DONE, 2 + 8);
    refused(HWNAS_KERNELS, BODY(1, 0, 0, 0), "no time of that kernel");
    expect(HWNAS_RUN, BODY(1, 0, 0, 0, 1, 0, 3), HWNAS_DONE, 20 + 8); /* three kernels, room for two times */
    expect(HWNAS_KERNELS, BODY(1, 0, 0, 0), HWNAS_DONE, 2 + 2 * 8);
    CHECK(hwnas_u16(reply + REST) == 3);
    expect(HWNAS_RUN, BODY(2, 0, 0, 0, 1, 0, 1), HWNAS_KERNEL_ERROR, 4);
    CHECK((int32_t)hwnas_u32(reply + REST) == -7);
    fake.step = 1;
}

static void fills_with_the_pattern(void) {
    expect(HWNAS_RUN, BODY(1, 0, 0, 0, 1, 0, 1), HWNAS_DONE, 20 + 8);
    uint32_t word = 0x2545F491;
    for (int i = 0; i < 100; i += 4) {
        word ^= word << 13, word ^= word >> 17, word ^= word << 5;
        CHECK(hwnas_u32(hwnas_arena + i) == word);
        for (int k = 0; k < 4; k++) CHECK(hwnas_arena[128 + i + k] == (uint8_t)-hwnas_arena[i + k]);
    }
}

static void loops_for_a_while(void) {
    fake.rises = 0;
    expect(HWNAS_LOOP, BODY(0, 0, 100, 0, 0, 0), HWNAS_DONE, 12);
    CHECK(hwnas_u32(reply + REST) > 1 && hwnas_u32(reply + REST + 4) >= 100);
    CHECK(fake.rises == 1 && !fake.trigger);
    expect(HWNAS_LOOP, BODY(2, 0, 1, 0, 0, 0), HWNAS_KERNEL_ERROR, 4);
}

static void stops_when_told(void) {
    fake.waiting_length = fake_frame(200, HWNAS_STOP, "", 0, fake.waiting);
    fake.waiting_taken = 0;
    expect(HWNAS_LOOP, BODY(0, 0, 0xFF, 0xFF, 0xFF, 0), HWNAS_STOPPED, 0);
    CHECK(fake.waiting_taken == fake.waiting_length);
    fake.waiting_length = fake_frame(201, HWNAS_HELLO, "", 0, fake.waiting); /* unheard meanwhile */
    fake.waiting_taken = 0;
    expect(HWNAS_RUN, BODY(0, 0, 0, 0, 1, 0, 1), HWNAS_DONE, 20 + 8);
    fake.waiting_length = 0;
    expect(HWNAS_STOP, "", 0, HWNAS_DONE, 0);
}

static void says_that_it_is_alive(void) {
    fake.step = 40; /* a quarter of a second is 250 ticks */
    expect(HWNAS_RUN, BODY(0, 0, 0, 0, 24, 0, 1), HWNAS_DONE, 20 + 24 * 8);
    static hwnas_frame frame;
    int events = 0;
    uint32_t done = 0;
    for (size_t i = 0; i < fake.sent_length; i++) {
        if (!hwnas_frame_take(&frame, fake.sent[i]) || frame.bytes[0]) continue;
        CHECK(frame.bytes[1] == 0x41 && frame.bytes[2] == HWNAS_RUN && hwnas_u32(frame.bytes + 3) > done);
        done = hwnas_u32(frame.bytes + 3);
        events++;
    }
    CHECK(events >= 3);
    fake.step = 1;
}

static void a_request_asked_again_is_not_done_again(void) {
    const float a[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    write_input(0, 0, 0, a, 16);
    write_input(0, 1, 0, a, 16);
    expect(HWNAS_RUN, BODY(0, 0, 0, 0, 1, 0, 0), HWNAS_DONE, 28);
    uint8_t first[HWNAS_FRAME_BYTES];
    memcpy(first, reply, sizeof first);
    for (int i = 0; i < 3; i++) {
        CHECK(fake_ask(seq, HWNAS_RUN, BODY(0, 0, 0, 0, 1, 0, 0), reply) == REST + 28);
        CHECK(!memcmp(first, reply, REST + 28));
    }
    CHECK(fake_ask(seq, HWNAS_RUN, BODY(1, 0, 0, 0, 1, 0, 1), reply) == REST + 28); /* same seq and op, another body */
    CHECK(memcmp(first, reply, REST + 28));
}

static void what_is_no_request_is_not_answered(void) {
    CHECK(!fake_ask(0, HWNAS_HELLO, "", 0, reply));
    CHECK(!fake_ask(1, 0x81, "", 0, reply));
    CHECK(!fake_ask(1, 0x40, "", 0, reply));
    uint8_t line[32];
    size_t length = fake_frame(9, HWNAS_HELLO, "", 0, line);
    for (size_t i = 1; i + 1 < length; i++) { /* any byte damaged: no answer */
        uint8_t damaged[32];
        memcpy(damaged, line, length);
        damaged[i] ^= 0x10;
        fake_forget();
        fake_receive(damaged, length);
        fake_receive("\0\0", 2);
        CHECK(fake.sent_length == 0);
    }
    fake_receive(line, length - 3); /* cut off, then resynchronised */
    fake_receive("\0\0", 2);
    CHECK(ask(HWNAS_HELLO, "", 0));
    fake_forget();
    fake_receive(line, length);
    CHECK(fake.sent_length);
    fake_forget();
    fake_receive("\0", 1); /* a lone zero is not the frame before once more */
    CHECK(!fake.sent_length);
    fake_receive("\0", 1);
}

static void restarts_after_the_reply(void) {
    fake.restarts = 0;
    expect(HWNAS_RESET, "", 0, HWNAS_DONE, 0);
    CHECK(fake.restarts == 1);
}

#ifdef HWNAS_FAULTS
static void misbehaves_when_told(void) {
    refused(HWNAS_PROVOKE, BODY(0), "kinds are 1 to 6");
    refused(HWNAS_PROVOKE, BODY(7), "kinds are 1 to 6");
    expect(HWNAS_PROVOKE, BODY(5), HWNAS_DONE, 0);
    CHECK(ask(HWNAS_INFO, BODY(0, 0)) == REST + 13 + 6 + 3 * 18 - 4);
    expect(HWNAS_INFO, BODY(0, 0), HWNAS_DONE, 13 + 6 + 3 * 18);
    fake.restarts = 0;
    expect(HWNAS_PROVOKE, BODY(4), HWNAS_DONE, 0);
    expect(HWNAS_PROVOKE, BODY(6, 3), HWNAS_DONE, 0);
    CHECK(fake.restarts == 2 && hwnas_brownouts == 3);
}
#endif

int main(void) {
    fake_clear();
    says_hello();
    describes_networks();
    checks_shapes_of_requests();
    runs_on_written_inputs_once();
    a_network_takes_the_arena_from_another();
    times_runs_and_kernels();
    fills_with_the_pattern();
    loops_for_a_while();
    stops_when_told();
    says_that_it_is_alive();
    a_request_asked_again_is_not_done_again();
    what_is_no_request_is_not_answered();
    restarts_after_the_reply();
#ifdef HWNAS_FAULTS
    misbehaves_when_told();
#else
    expect(HWNAS_PROVOKE, BODY(4), HWNAS_UNKNOWN_OP, 0);
#endif
    puts("requests ok");
    return 0;
}
