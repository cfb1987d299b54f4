/* The networks of an image and the memory they share; the file that defines these is generated with the image. */
#ifndef HWNAS_IMAGE_H
#define HWNAS_IMAGE_H

#include "hwnas_network.h"

extern const uint8_t hwnas_image_id[10];
extern const hwnas_network *const hwnas_networks[];
extern const uint16_t hwnas_network_count;

extern uint8_t hwnas_arena[];     /* aligned to 16 */
extern uint8_t hwnas_workspace[]; /* aligned to 16 */
extern const uint32_t hwnas_arena_bytes, hwnas_workspace_bytes;

/* Ticks of each kernel of the last run that timed them. */
extern uint32_t hwnas_kernel_ticks[];
extern const uint16_t hwnas_kernel_room;

#endif
