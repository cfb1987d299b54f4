#include <stddef.h>

#include "port.h"
#include "serial_ring.h"

/* One writer and one reader each; sizes are powers of two, so that free-running indices wrap by themselves. */
enum { RECEIVE = 512, SEND = 256 };

static volatile uint8_t received[RECEIVE], unsent[SEND];
static volatile uint16_t received_in, received_out, unsent_in, unsent_out;

void hwnas_serial_received(uint8_t byte) {
    if ((uint16_t)(received_in - received_out) == RECEIVE) return;
    received[received_in % RECEIVE] = byte;
    received_in++;
}

int hwnas_serial_next(void) {
    if (unsent_in == unsent_out) return -1;
    uint8_t byte = unsent[unsent_out % SEND];
    unsent_out++;
    return byte;
}

bool hwnas_serial_unsent(void) { return unsent_in != unsent_out; }

bool hwnas_serial_waits(void) { return received_in != received_out; }

int hwnas_serial_read(void) {
    if (!hwnas_serial_waits()) return -1;
    uint8_t byte = received[received_out % RECEIVE];
    received_out++;
    return byte;
}

uint16_t hwnas_serial_room(void) { return (uint16_t)(SEND - (uint16_t)(unsent_in - unsent_out)); }

void hwnas_serial_write(uint8_t byte) {
    while (!hwnas_serial_room()) hwnas_port_send();
    unsent[unsent_in % SEND] = byte;
    unsent_in++;
    hwnas_port_send();
}

void hwnas_serial_flush(void) {
    while (hwnas_serial_unsent() || hwnas_port_sending()) hwnas_port_send();
}
