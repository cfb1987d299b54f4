/* The two rings between the serial interrupt and the core. The port's interrupt fills and empties them. */
#ifndef HWNAS_SERIAL_RING_H
#define HWNAS_SERIAL_RING_H

#include <stdbool.h>
#include <stdint.h>

/* From the interrupt: a byte came in (lost if the ring is full: the frame's CRC tells), or the next one to send, -1 if
 * there is none. */
void hwnas_serial_received(uint8_t byte);
int hwnas_serial_next(void);

bool hwnas_serial_unsent(void);

/* The port's: begin to send what waits, if nothing is being sent. Interrupts are masked. */
void hwnas_port_send(void);
/* The port's: true while the last byte is still on its way out. */
bool hwnas_port_sending(void);

#endif
