#include "session.h"

#include <string.h>

#include "bytes.h"
#include "image.h"
#include "link.h"
#include "port.h"

enum { ALIVE_PER_SECOND = 4, ALIVE_ON_THE_LINE = 20 };

hwnas_session hwnas_now = {.owner = HWNAS_NOBODY};
static uint64_t alive_at;
static volatile bool says; /* from the interrupt and from the work itself, but never from both at once */

const hwnas_network *hwnas_network_at(uint16_t number) {
    if (number >= hwnas_network_count) return NULL;
    const hwnas_network *network = hwnas_networks[number];
    bool fits = network->arena_bytes <= hwnas_arena_bytes && network->workspace_bytes <= hwnas_workspace_bytes;
    return fits ? network : NULL; /* an image that was linked with too small an arena must not run over it */
}

static uint32_t bit(uint16_t input) { return 1u << (input < 31 ? input : 31); }

void hwnas_write_input(uint16_t number, uint8_t input, uint32_t offset, const uint8_t *from, uint32_t length) {
    if (hwnas_now.owner != number) {
        hwnas_now.owner = number;
        hwnas_now.written = 0;
    }
    hwnas_now.has_outputs = false;
    hwnas_now.written |= bit(input);
    if (length) memcpy(hwnas_arena + hwnas_networks[number]->input[input].offset + offset, from, length);
}

bool hwnas_inputs_are_fresh(uint16_t number) {
    if (hwnas_now.owner != number) return false;
    for (uint16_t i = 0; i < hwnas_networks[number]->inputs; i++)
        if (!(hwnas_now.written & bit(i))) return false;
    return true;
}

void hwnas_on_period(void) {
    if (!hwnas_now.measures || hwnas_now.stop || hwnas_now.op == 0 || says) return;
    uint64_t now = hwnas_ticks();
    if (now - alive_at < hwnas_this_boot.counter_hz / ALIVE_PER_SECOND) return;
    if (hwnas_serial_room() < ALIVE_ON_THE_LINE) return; /* never wait in an interrupt */
    says = true;
    alive_at = now;
    uint8_t bytes[5];
    hwnas_body body = {.bytes = bytes, .room = sizeof bytes};
    hwnas_put_u8(&body, hwnas_now.op);
    hwnas_put_u32(&body, hwnas_now.done);
    hwnas_link_event(HWNAS_OP_ALIVE, bytes, sizeof bytes);
    says = false;
}

void hwnas_session_begin(uint8_t op) {
    hwnas_now.op = op;
    hwnas_now.done = 0;
    hwnas_now.stop = false;
    alive_at = hwnas_ticks();
    hwnas_now.measures = true;
}

void hwnas_session_end(void) { hwnas_now.measures = false; }
