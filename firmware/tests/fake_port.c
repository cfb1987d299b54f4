#include "fake_port.h"

#include <string.h>

#include "frame.h"
#include "link.h"
#include "port.h"
#include "session.h"
#include "watermark.h"

fake_board fake;
hwnas_boot hwnas_this_boot = {
    .nonce = 0x11223344, .cause = HWNAS_POWER, .counter = HWNAS_SYSTICK, .counter_hz = 1000, .port = "fake",
    .board_id = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}};
volatile uint32_t hwnas_interrupts;
#ifdef HWNAS_FAULTS
uint8_t hwnas_brownouts;
void hwnas_provoke_hard_fault(void) { hwnas_restart(); }
void hwnas_mask_interrupts(void) {}
#endif

static uint8_t stack[FAKE_STACK], spare[FAKE_SPARE];

uint64_t hwnas_ticks(void) { return fake.ticks += fake.step; }
void hwnas_ticks_align(void) {}
int hwnas_serial_read(void) { return hwnas_serial_waits() ? fake.waiting[fake.waiting_taken++] : -1; }
bool hwnas_serial_waits(void) { return fake.waiting_taken < fake.waiting_length; }
void hwnas_serial_write(uint8_t byte) {
    if (fake.sent_length < sizeof fake.sent) fake.sent[fake.sent_length++] = byte;
}
uint16_t hwnas_serial_room(void) { return 256; }
void hwnas_serial_flush(void) {}
void hwnas_idle(void) {}
uint8_t *hwnas_stack_bottom(void) { return stack; }
uint8_t *hwnas_stack_top(void) { return stack + sizeof stack; }
void hwnas_stack_paint(void) { hwnas_paint(stack, sizeof stack - 100); }
uint8_t *hwnas_spare_memory(void) { return spare; }
uint32_t hwnas_spare_bytes(void) { return fake.spare; }

void hwnas_trigger(bool high) {
    fake.rises += high && !fake.trigger;
    fake.trigger = high;
}

void hwnas_watchdog_kick(void) {
    if (fake.patience && ++fake.kicks > fake.patience) hwnas_now.stop = true;
}

_Noreturn void hwnas_restart(void) {
    fake.restarts++;
    longjmp(fake.restarted, 1);
}

void fake_clear(void) {
    memset(&fake, 0, sizeof fake);
    memset(stack, 0, sizeof stack);
    fake.step = 1;
    fake.spare = FAKE_SPARE;
    hwnas_link_drop();
}

void fake_forget(void) { fake.sent_length = 0; }

void fake_receive(const void *bytes, size_t length) {
    fake.kicks = 0;
    if (setjmp(fake.restarted)) return;
    for (size_t i = 0; i < length; i++) hwnas_link_take(((const uint8_t *)bytes)[i]);
}

static uint8_t *line_end;
static void put(uint8_t byte) { *line_end++ = byte; }

size_t fake_frame(uint8_t seq, uint8_t op, const void *body, size_t length, uint8_t *line) {
    uint8_t bytes[HWNAS_FRAME_BYTES] = {seq, op};
    if (length) memcpy(bytes + HWNAS_HEAD_BYTES, body, length);
    line_end = line;
    hwnas_frame_write(bytes, hwnas_frame_seal(bytes, (uint16_t)(HWNAS_HEAD_BYTES + length)), put);
    return (size_t)(line_end - line);
}

size_t fake_ask(uint8_t seq, uint8_t op, const void *body, size_t length, uint8_t *reply) {
    uint8_t line[HWNAS_FRAME_BYTES + 4];
    size_t bytes = fake_frame(seq, op, body, length, line), found = 0;
    fake_forget();
    fake_receive(line, bytes);
    static hwnas_frame frame;
    hwnas_frame_clear(&frame);
    for (size_t i = 0; i < fake.sent_length; i++) {
        if (!hwnas_frame_take(&frame, fake.sent[i]) || frame.bytes[0] != seq || frame.bytes[1] != (op | 0x80)) continue;
        found = (size_t)(frame.length - HWNAS_CRC_BYTES);
        memcpy(reply, frame.bytes, found);
    }
    return found;
}
